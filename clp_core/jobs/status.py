"""How a job stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clp_core.jobs.reason_codes import ReasonCode

TERMINAL = ("finished", "stopped", "failed", "lost")
STATES = ("queued", "starting", "running", "stopping", *TERMINAL)


@dataclass(frozen=True)
class Status:
    """How a job stands.

    Attributes:
        state: queued, starting, running, stopping, finished, stopped, failed or lost.
        reason: one plain line; empty where the state says it all.
        reason_code: the same for programs.
        time: when that was written, seconds since 1970.
        exit_code: of the job's process, once it has ended.
        attempt: how often the job was started, from 1.
        boot_clock: when that was written, seconds since boot; a set clock does not move it.
        boot_id: of which boot.
    """

    state: str
    reason: str = ""
    time: float = 0.0
    exit_code: int | None = None
    attempt: int = 1
    boot_clock: float = math.nan
    boot_id: str = ""
    reason_code: ReasonCode = ReasonCode.NONE

    def because(self, code: ReasonCode, text: str, *, state: str = "") -> Status:
        """Return this status with another reason, and another state where one is given."""
        return replace(self, state=state or self.state, reason=text, reason_code=code)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL
