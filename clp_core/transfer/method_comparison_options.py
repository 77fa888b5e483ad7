"""Options of ``clp compare-methods``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clp_core.initializers import INITIALIZERS
from clp_core.options import like, option
from clp_core.transfer.options import PairOptions, TransferOptions, method_problems

MAX_FOLDS = 10


@dataclass(frozen=True)
class CompareMethodsOptions(PairOptions):
    """A pair, and the methods that are scored on it."""

    COMMAND: ClassVar[tuple[str, ...]] = ("compare-methods",)

    methods: str = option("", help="methods, by commas, maybe with settings (clp-topk:k=8); empty: all")
    text: str = option("", help="text on which to score each target before any training")
    text_field: str = like(TransferOptions, "text_field")
    folds: int = option(1, help="how often another tenth of the anchors is hidden", minimum=1, maximum=MAX_FOLDS)
    keep_rows: bool = option(False, help="keep each method's new rows in the workspace, for the page on tokens")
    figure: Path | None = option(None, help="write the figure to this .html file")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the methods, and with the folder of the figure."""
        for name in self.names:
            method, *settings = name.split(":")
            if method not in INITIALIZERS:
                yield "methods", f"{method!r} is unknown; use one of {', '.join(INITIALIZERS)}"
                continue
            wrong = method_problems(method, settings, has_vectors=bool(self.target_vectors))
            yield from (("methods", f"{name}: {text}") for _, text in wrong)
        if self.figure is not None and not self.figure.absolute().parent.is_dir():
            yield "figure", f"there is no folder {self.figure.absolute().parent}; make it first"

    @property
    def names(self) -> list[str]:
        """The methods with their settings; none for all."""
        return [name.strip() for name in self.methods.split(",") if name.strip()]
