"""Options of ``clp experiment``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clp_core.options import Options, option

FIGURES = (".html", ".svg", ".png")


@dataclass(frozen=True)
class ExperimentOptions(Options):
    """An experiment, and what is done of it."""

    COMMAND: ClassVar[tuple[str, ...]] = ("experiment",)
    PLACED: ClassVar[tuple[str, ...]] = ("file",)

    file: Path = option(help="YAML file of the experiment", metavar="FILE")
    limit: int = option(0, help="do no more than so many runs now; 0: all", minimum=0)
    tables: bool = option(False, help="run nothing; tables of what is measured already")
    output: Path | None = option(
        None, help="folder of the raw measurements; beside FILE unless given", metavar="FOLDER"
    )
    figure: Path | None = option(
        None, help="draw the arms over their seeds into this file: .html, or .svg and .png by kaleido"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield places where nothing can be written, before hours of work."""
        if self.figure is not None and not self.figure.absolute().parent.is_dir():
            yield "figure", f"there is no folder {self.figure.absolute().parent}; make it first"
        elif self.figure is not None and self.figure.suffix not in FIGURES:
            yield "figure", f"{self.figure} is not a figure; give a file that ends in one of {', '.join(FIGURES)}"
        if self.output is not None and self.output.exists() and not self.output.is_dir():
            yield "output", f"{self.output} is not a folder; name a new one, or one that holds measurements"
