"""Options of ``clp jobs export``."""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.errors import InputError
from clp_core.options import option

BEST, LAST = "best", "last"
SOURCE = "source"
DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class ExportOptions:
    """What an export is asked to do."""

    job: str = option(help="run whose checkpoint is exported: its directory, its name, or latest")
    output: str = option(help="folder to write the model to")
    checkpoint: str = option(BEST, help="best (fewest bits per byte), last, or the step of a checkpoint")
    dtype: str = option(
        SOURCE, help="data type of the weights; source: that of the model the training began with, tensor by tensor",
        choices=(SOURCE, *DTYPE_NAMES),
    )  # fmt: skip
    overwrite: bool = option(False, help="replace an output folder that exists")

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if not self.output.strip():
            raise InputError("--output is empty; name a folder")
        if self.checkpoint not in (BEST, LAST) and not self.checkpoint.isdigit():
            raise InputError(f"--checkpoint {self.checkpoint!r} is unknown; use {BEST}, {LAST} or a step")
        if self.dtype not in (SOURCE, *DTYPE_NAMES):
            raise InputError(f"--dtype {self.dtype!r} is unknown; use one of {', '.join((SOURCE, *DTYPE_NAMES))}")
