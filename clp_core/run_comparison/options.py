"""Options of ``clp jobs compare`` and ``clp jobs import``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clp_core.options import Options, option

MEASURES = ("bits_per_byte", "eval_loss")
"""Scores by which runs are compared: bits per byte, and under one tokenizer also the held-out loss, nats per token."""


@dataclass(frozen=True)
class CompareRunsOptions(Options):
    """Runs that are compared with a baseline."""

    COMMAND: ClassVar[tuple[str, ...]] = ("jobs", "compare")
    PLACED: ClassVar[tuple[str, ...]] = ("names",)

    names: tuple[str, ...] = option(
        help="runs by directory, name or latest, import:NAME, published:clp, published:scratch, or an arm of an "
        "experiment that comes with the project, experiment:NAME/ARM; the first one is the baseline",
        metavar="BASELINE RUN...",
    )
    measure: str = option("bits_per_byte", help="score to compare", choices=MEASURES)
    level: float | None = option(None, help="value to reach; without it the baseline's best", above=0.0)
    html: Path | None = option(None, help="also write one self-contained HTML file")
    csv: Path | None = option(None, help="also write the table as CSV, and NAME-points.csv beside it")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield whether there is nothing to compare, and files that cannot be written."""
        if len(set(self.names)) < 2:
            yield "names", "name a baseline and at least one other run to compare with it; `clp jobs list` shows them"
        for name, path in (("html", self.html), ("csv", self.csv)):
            if path is not None and not path.absolute().parent.is_dir():
                yield name, f"there is no folder {path.absolute().parent}; make it first"


@dataclass(frozen=True)
class ImportOptions(Options):
    """The curve of a run made elsewhere."""

    COMMAND: ClassVar[tuple[str, ...]] = ("jobs", "import")
    PLACED: ClassVar[tuple[str, ...]] = ("file",)

    file: Path = option(help="a CSV file with a header, or a trainer_state.json", metavar="FILE")
    name: str = option("", help="what the curve is called; without it the file's name")
    step_tokens: int = option(0, help="tokens a step, where the file counts steps only", minimum=0)
    eval_text: Path | None = option(None, help="the text its scores are of")
    tokenizer: str = option("", help="the model whose tokenizer it used, to compare its loss a token")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield files that are not there."""
        for name, path in (("file", self.file), ("eval_text", self.eval_text)):
            if path is not None and not path.is_file():
                yield name, f"there is no file {path}; check the path"
