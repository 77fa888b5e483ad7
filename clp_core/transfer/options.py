"""Options of ``clp transfer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from clp_core.data.text_sources import DEFAULT_FIELD
from clp_core.environment.devices import DEVICES
from clp_core.errors import InputError
from clp_core.initializers import INITIALIZERS, initializer
from clp_core.options import Options, option
from clp_core.tokenization.match_choices import MATCHES, SPECIAL_RULES

AUTO = "auto"
"""The method that chooses among the others by held-out anchors; see ``method_selection``."""
GUARDS = ("none", "warn", "fallback")
"""What is done about rows at risk: nothing, a warning, or a row by another method."""

PROVENANCE_KINDS = ("full", "light")
CHECKS = ("logits", "files")
MAX_MULTIPLE = 1 << 16


@dataclass(frozen=True)
class PairOptions(Options):
    """A source and a helper, how their vocabularies are matched, and what else decides the rows of any method."""

    source: str = option(help="source model: a folder or a Hub id")
    helper: str = option(help="helper model in the target language: a folder or a Hub id")
    _: KW_ONLY
    match: str = option(
        "raw", help="how tokens are compared: their strings, or the bytes they stand for", choices=MATCHES
    )
    special_tokens: str = option(
        "auto",
        help="how special tokens are matched; auto: by string under raw, by role under canonical",
        choices=SPECIAL_RULES,
    )
    override: tuple[str, ...] = option(
        (), help="TOKEN=TEXT: the token's row is the mean of these source tokens; may be given again"
    )
    override_file: str = option("", help="file of overrides, a line each: TOKEN, a tab, TEXT")
    target_vectors: str = option("", help="static-vectors: .vec text of the target language")
    source_vectors: str = option("", help="static-vectors, rule of WECHSEL: .vec text of the source language")
    dictionary: str = option("", help="static-vectors, rule of WECHSEL: word pairs of both languages, a line each")
    seed: int = option(42, help="seed of random rows and of the held-out choice", minimum=0)
    device: str = option("auto", help="where large products are done; auto: a GPU where there is one", choices=DEVICES)

    @property
    def pair_values(self) -> dict[str, Any]:
        """The values of these fields alone, for other options of the same pair."""
        return {item.name: getattr(self, item.name) for item in fields(PairOptions)}


@dataclass(frozen=True)
class TransferOptions(PairOptions):
    """How a target model is made from a source and a helper."""

    COMMAND: ClassVar[tuple[str, ...]] = ("transfer",)

    output: str = option(help="folder to write the target model to")
    method: str = option(
        "clp",
        help="method that fills the missing rows; auto: the best on held-out anchors",
        choices=(*INITIALIZERS, AUTO),
    )
    setting: tuple[str, ...] = option((), help="a setting of the method, NAME=NUMBER; may be given again")
    guard: str = option(
        "warn", help="rows at risk: none says nothing, warn tells, fallback makes them by linear, else mean",
        choices=GUARDS,
    )  # fmt: skip
    match_norms: bool = option(False, help="scale each new row to the mean length of the copied rows")
    pad_to_multiple_of: int = option(
        1, help="fill the rows up to a multiple of this number", minimum=1, maximum=MAX_MULTIPLE
    )
    eval_text: str = option("", help="text in the target language on which to score the target before any training")
    text_field: str = option(DEFAULT_FIELD, help="field of JSON objects, or column of tables, that holds that text")
    provenance: str = option(
        "full", help="light leaves out each token's anchors where they can be found again", choices=PROVENANCE_KINDS
    )
    no_heldout: bool = option(False, help="leave out the score on held-out anchors")
    check: str = option(
        "logits",
        help="what is checked after writing; logits: that the target predicts common tokens as the source does, "
        "besides its files; files: the files alone",
        choices=CHECKS,
    )
    overwrite: bool = option(False, help="replace an output folder that exists")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the settings of the method and its word vectors."""
        yield from method_problems(self.method, self.setting, has_vectors=bool(self.target_vectors))

    @property
    def settings(self) -> dict[str, float]:
        """The method's settings that were given."""
        from clp_core.initializers.base import parse_settings

        return parse_settings(self.setting)


def method_problems(method: str, setting: Sequence[str], *, has_vectors: bool) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the settings of a method, each ``NAME=NUMBER``, and whether it lacks word vectors."""
    from clp_core.initializers.base import parse_settings

    names = [text.partition("=")[0].strip() for text in setting]
    if twice := next((name for name in names if names.count(name) > 1), None):
        yield "setting", f"{twice} is set twice; set it once"
    try:
        settings = parse_settings(setting)
        if method != AUTO:
            initializer(method).resolve(settings)
        elif settings:
            yield "setting", "settings belong to one method, and --method auto chooses; name the method"
    except InputError as error:
        yield "setting", str(error).removeprefix("--setting ")
    if method == "static-vectors" and not has_vectors:
        needed = "static-vectors needs word vectors of the target language; give --target-vectors FILE"
        yield "target_vectors", needed


def check_unused(options: TransferOptions) -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: overrides for a model of random weights, or word vectors for a method that takes none.
    """
    if (
        options.method != AUTO
        and initializer(options.method).whole_model
        and (options.override or options.override_file)
    ):
        raise InputError(f"{options.method} draws every row, so --override has no effect; leave it out")
    if options.target_vectors and options.method != "static-vectors":
        raise InputError(f"{options.method} takes no word vectors; use --method static-vectors, or leave them out")
