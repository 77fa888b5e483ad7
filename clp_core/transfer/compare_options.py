"""Options of ``clp compare-methods``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clp_core.initializers import INITIALIZERS
from clp_core.options import Options, OptionsError, like, option
from clp_core.transfer.options import TransferOptions

MAX_FOLDS = 10
NO_OUTPUT = "(none)"
"""Output of a transfer that writes nothing."""


@dataclass(frozen=True)
class CompareMethodsOptions(Options):
    """A pair, and the methods that are scored on it."""

    COMMAND: ClassVar[tuple[str, ...]] = ("compare-methods",)

    source: str = like(TransferOptions, "source")
    helper: str = like(TransferOptions, "helper")
    methods: str = option("", help="methods, by commas, maybe with settings (clp-topk:k=8); empty: all")
    text: str = option("", help="text on which to score each target before any training")
    text_field: str = like(TransferOptions, "text_field")
    match: str = like(TransferOptions, "match")
    seed: int = like(TransferOptions, "seed")
    folds: int = option(1, help="how often another tenth of the anchors is hidden", minimum=1, maximum=MAX_FOLDS)
    device: str = like(TransferOptions, "device")
    target_vectors: str = option("", help="for static-vectors, as in transfer")
    source_vectors: str = option("", help="for static-vectors, as in transfer")
    dictionary: str = option("", help="for static-vectors, as in transfer")
    keep_rows: bool = option(False, help="keep each method's new rows in the workspace, for the page on tokens")
    figure: Path | None = option(None, help="write the figure to this .html file")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the methods, and with the folder of the figure."""
        for name in self.names:
            method, *settings = name.split(":")
            if method not in INITIALIZERS:
                yield "methods", f"{method!r} is unknown; use one of {', '.join(INITIALIZERS)}"
                continue
            try:
                self.transfer_options(method, tuple(settings))
            except OptionsError as error:
                yield from (("methods", f"{name}: {text}") for _, text in error.problems)
        if self.figure is not None and not self.figure.absolute().parent.is_dir():
            yield "figure", f"there is no folder {self.figure.absolute().parent}; make it first"

    @property
    def names(self) -> list[str]:
        """The methods with their settings; none for all."""
        return [name.strip() for name in self.methods.split(",") if name.strip()]

    def transfer_options(self, method: str = "clp", setting: tuple[str, ...] = ()) -> TransferOptions:
        """Make the options of a transfer by one of the methods.

        Raises:
            OptionsError: they are refused.
        """
        return TransferOptions(
            self.source,
            self.helper,
            output=NO_OUTPUT,
            method=method,
            setting=setting,
            match=self.match,
            seed=self.seed,
            eval_text=self.text,
            text_field=self.text_field,
            device=self.device,
            target_vectors=self.target_vectors,
            source_vectors=self.source_vectors,
            dictionary=self.dictionary,
        )
