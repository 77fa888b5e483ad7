"""Options of the commands that look at vocabularies and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clp_core.data.text_sources import DEFAULT_FIELD
from clp_core.evaluation.options import EvaluateOptions
from clp_core.options import Options, help_of, option
from clp_core.tokenization.match_choices import MATCHES

MAX_NEIGHBORS = 1000
MAX_GRAPH_NEIGHBORS = 100
MODEL_HELP = "model: a folder or a Hub id"
TOKENS_HELP = "tokens: the string, a text that is one token, or #id"


@dataclass(frozen=True)
class OverlapOptions(Options):
    """Vocabularies to compare."""

    COMMAND: ClassVar[tuple[str, ...]] = ("overlap",)
    PLACED: ClassVar[tuple[str, ...]] = ("tokenizers",)

    tokenizers: tuple[str, ...] = option(help="two or more tokenizers: folders or Hub ids; source first")
    match: str = option(
        "raw", help="how tokens are compared: their strings, or the bytes they stand for", choices=MATCHES
    )
    text: Path | None = option(None, help="text on which to measure coverage and fertility")
    text_field: str = option(DEFAULT_FIELD, help=help_of(EvaluateOptions, "text_field"))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield whether there is nothing to compare."""
        if len(self.tokenizers) < 2:
            yield "tokenizers", "one is not enough; name two tokenizers or more, the source's first"


@dataclass(frozen=True)
class InspectOptions(Options):
    """Tokens of a target model whose rows are explained."""

    COMMAND: ClassVar[tuple[str, ...]] = ("inspect",)
    PLACED: ClassVar[tuple[str, ...]] = ("folder", "tokens")

    folder: Path = option(help="a folder that a transfer wrote", metavar="DIR")
    tokens: tuple[str, ...] = option(help=TOKENS_HELP, metavar="TOKEN")
    k: int = option(10, help="anchors to show", minimum=1, maximum=MAX_NEIGHBORS)


@dataclass(frozen=True)
class NeighborsOptions(Options):
    """Tokens whose nearest tokens are shown."""

    COMMAND: ClassVar[tuple[str, ...]] = ("neighbors",)
    PLACED: ClassVar[tuple[str, ...]] = ("model", "tokens")

    model: str = option(help=MODEL_HELP)
    tokens: tuple[str, ...] = option(help=TOKENS_HELP, metavar="TOKEN")
    k: int = option(10, help="neighbours to show", minimum=1, maximum=MAX_NEIGHBORS)


@dataclass(frozen=True)
class AgreementOptions(Options):
    """Two models whose neighbours are compared."""

    COMMAND: ClassVar[tuple[str, ...]] = ("agreement",)
    PLACED: ClassVar[tuple[str, ...]] = ("first", "second")

    first: str = option(help=MODEL_HELP)
    second: str = option(help="another model with the same tokenizer")
    k: int = option(10, help="neighbours of each token", minimum=1, maximum=MAX_GRAPH_NEIGHBORS)


@dataclass(frozen=True)
class NearDuplicatesOptions(Options):
    """A model whose nearly equal rows are listed."""

    COMMAND: ClassVar[tuple[str, ...]] = ("near-duplicates",)
    PLACED: ClassVar[tuple[str, ...]] = ("model",)

    model: str = option(help=MODEL_HELP)
    above: float = option(0.999, help="least cosine to the nearest other row", minimum=-1, maximum=1)


@dataclass(frozen=True)
class PrepareOptions(Options):
    """A model that the pages are to show."""

    COMMAND: ClassVar[tuple[str, ...]] = ("prepare",)
    PLACED: ClassVar[tuple[str, ...]] = ("model",)

    model: str = option(help=MODEL_HELP)
