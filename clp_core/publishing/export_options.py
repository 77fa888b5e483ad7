"""Options of ``clp jobs export``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from clp_core.options import Options, option

BEST, LAST = "best", "last"
SOURCE = "source"
DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class ExportOptions(Options):
    """What is exported, and how."""

    COMMAND: ClassVar[tuple[str, ...]] = ("jobs", "export")
    PLACED: ClassVar[tuple[str, ...]] = ("job",)

    job: str = option(help="run whose checkpoint is exported: its directory, its name, or latest")
    output: str = option(help="folder to write the model to")
    checkpoint: str = option(
        BEST,
        help="best (fewest bits per byte), last, or the step of a checkpoint",
        pattern=re.compile(rf"{BEST}|{LAST}|[0-9]{{1,18}}"),
        cure=f"use {BEST}, {LAST} or the step of a checkpoint",
    )
    dtype: str = option(
        SOURCE, help="data type of the weights; source: that of the model the training began with, tensor by tensor",
        choices=(SOURCE, *DTYPE_NAMES),
    )  # fmt: skip
    overwrite: bool = option(False, help="replace an output folder that exists")
