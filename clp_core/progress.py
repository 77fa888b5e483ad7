"""Progress of a long action: a line in the log, and the heartbeat of the job it runs in."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clp_core.errors import FULL_DISK
from clp_core.files.json_files import write_json

log = logging.getLogger(__name__)

JOB_ENVIRONMENT = "CLP_JOB_DIR"
HEARTBEAT_FILE = "heartbeat.json"
MIN_INTERVAL_S = 0.5


def boot_clock() -> float:
    """Return seconds since boot, time asleep included; ages by it survive a change of the wall clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


Listener = Callable[[str, float | None, int | None, int | None], None]
"""Is told the phase, the fraction done, the bytes done and the bytes in all."""


class Heart:
    """Writes the heartbeat of the job that this process runs in; outside a job it only logs."""

    def __init__(self) -> None:
        """Start silent."""
        self._last = -MIN_INTERVAL_S
        self._phase = ""
        self._phase_began = boot_clock()
        self.listener: Listener | None = None

    def beat(
        self,
        phase: str,
        fraction: float | None = None,
        *,
        step: int | None = None,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
        expect_next_s: float = 60.0,
        force: bool = False,
    ) -> None:
        """Say what is being done.

        Args:
            phase: what, in a few words.
            fraction: how much of it is done, 0 to 1.
            step: training step, for runs.
            bytes_done: bytes that are done, where it is bytes that are counted.
            bytes_total: bytes in all.
            expect_next_s: when the next beat should come at the latest.
            force: write even if the last beat was a moment ago.
        """
        if self.listener is not None:
            self.listener(phase, fraction, bytes_done, bytes_total)
        is_new = phase != self._phase
        if is_new and self.listener is None:
            log.info("%s", phase)
        now = boot_clock()
        if is_new:
            self._phase_began = now
        folder = os.environ.get(JOB_ENVIRONMENT)
        if folder and (is_new or force or now - self._last >= MIN_INTERVAL_S):
            self._last = now
            content = {
                "time": time.time(),
                "boot_clock": now,
                "phase": phase,
                "fraction": fraction,
                "step": step,
                "phase_seconds": now - self._phase_began,
                "bytes_done": bytes_done,
                "bytes_total": bytes_total,
                "expect_next_s": expect_next_s,
            }
            write_heartbeat(Path(folder), content)
        self._phase = phase


def write_heartbeat(folder: Path, content: dict[str, Any]) -> None:
    """Write the heartbeat of a job; a full disk makes it late, and ends no work that may not need the disk."""
    try:
        write_json(folder / HEARTBEAT_FILE, content)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        log.warning("the disk is full: no heartbeat is written")


HEART = Heart()


def report_progress(
    phase: str, fraction: float | None = None, *, bytes_done: int | None = None, bytes_total: int | None = None
) -> None:
    """Say what is being done and how much of it is done; see ``Heart.beat``."""
    HEART.beat(phase, fraction, bytes_done=bytes_done, bytes_total=bytes_total, expect_next_s=300.0)
