"""What an item is run with: where, for how long, on what; and the GPU as its driver sees it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clp_core.environment.gpus import list_gpus

ROOT = Path(__file__).resolve().parent.parent.parent
RESERVE_S = 5.0
"""Seconds before its limit at which an item begins nothing new."""


@dataclass(frozen=True)
class Setting:
    """Where and how an item runs.

    Attributes:
        smoke: in miniature on the CPU.
        device: ``cuda`` or ``cpu``.
        work: folder of the item, kept between calls.
        limit_s: seconds until it is killed.
        source: folder of the source model of the experiment; empty for the demo's.
        corpora: folder with ``de`` and ``en``; empty for the demo's text.
        tokens: tokens per run of the experiment.
        began: when it began, on the monotonic clock.
    """

    smoke: bool
    device: str
    work: Path
    limit_s: float
    source: str = ""
    corpora: str = ""
    tokens: int = 20_000_000
    began: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds in which something can still be begun and ended."""
        return self.limit_s - RESERVE_S - (time.monotonic() - self.began)

    def to_json(self) -> dict[str, Any]:
        """Return the setting without the time at which it began."""
        return {
            name: str(value) if name == "work" else value for name, value in asdict(self).items() if name != "began"
        }

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Setting:
        """Return the setting of a file."""
        return cls(**{**content, "work": Path(content["work"])})


def environment_of(setting: Setting) -> dict[str, str]:
    """Environment of an item: this source tree, a workspace and a queue of its own, and no network."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "CLP_WORKSPACE": str(setting.work / "workspace"),
        "CLP_QUEUE": str(setting.work / "queue"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if setting.smoke:
        own |= {"OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if gpu_name() else {})
    return os.environ | own


def gpu_bytes() -> tuple[int, int] | None:
    """Return used and total bytes of the first visible GPU, by its driver; ``None`` without one."""
    gpus = list_gpus()
    return (gpus[0].total_bytes - gpus[0].free_bytes, gpus[0].total_bytes) if gpus else None


def gpu_name() -> str:
    """Name of the first visible GPU, by its driver; empty without one."""
    return next((gpu.name for gpu in list_gpus()), "")


def wait_until(condition: Callable[[], bool], seconds: float, what: str, *, poll_s: float = 0.1) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true in time.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(poll_s)


def note(text: str) -> None:
    """Write a line to the item's log."""
    print(text, file=sys.stderr, flush=True)
