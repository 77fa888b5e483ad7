"""Codes for why a job is in its state: stable names for programs, beside the sentence for people."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class ReasonCode(str, Enum):
    """Why a job is in its state. The value is what ``status.json`` and ``clp jobs show --json`` hold."""

    NONE = ""
    """The state says it all."""

    WAITS_FOR_DEVICE = "waits-for-device"
    """Queued behind other jobs for a device."""
    STOP_REQUESTED = "stop-requested"
    """Stopping: saves at the end of the step."""
    TIME_NEARLY_UP = "time-nearly-up"
    """Stopping: saves because its time limit on Slurm is near."""
    NO_SIGN = "no-sign"
    """Running, but the heartbeat is late."""
    ON_OTHER_HOST = "on-other-host"
    """Running on a machine that cannot be seen from here."""

    STOPPED_SAVED = "stopped-saved"
    """Stopped on request, with everything saved."""
    STOPPED_UNSAVED = "stopped-unsaved"
    """Ended on request before it had saved; the reason names its newest checkpoint."""
    STOPPED_BEFORE_START = "stopped-before-start"
    """Stopped on request while it waited."""
    TIME_BUDGET_SPENT = "time-budget-spent"
    """Stopped and saved because its ``--max-minutes`` are over."""
    ENDED = "ended"
    """A session ended by itself or on request; it had nothing to save."""

    DATA_ERROR = "data-error"
    """A text or model could not be used, or changed since the run was made."""
    DIVERGED = "diverged"
    """The loss or the gradient is not finite."""
    DISK_FULL = "disk-full"
    OUT_OF_MEMORY = "out-of-memory"
    KILLED_BY_SIGNAL = "killed-by-signal"
    ERROR = "error"
    """Any other error; the reason quotes it."""
    NO_RESULT = "no-result"
    """Its processes ended without an error and without a result."""
    SUPERVISOR_FAILED = "supervisor-failed"

    SUPERVISOR_KILLED = "supervisor-killed"
    """Lost: the supervisor is gone without a last word."""
    NEVER_STARTED = "never-started"
    """Lost: no supervisor has begun."""
    MACHINE_RESTARTED = "machine-restarted"
    """Lost: the machine was restarted since."""
    HOST_SILENT = "host-silent"
    """Lost: nothing has come from the machine it ran on for long."""

    SLURM_SUBMITTING = "slurm-submitting"
    SLURM_NOT_SUBMITTED = "slurm-not-submitted"
    SLURM_REFUSED = "slurm-refused"
    SLURM_NO_ANSWER = "slurm-no-answer"
    SLURM_WAITS = "slurm-waits"
    SLURM_STARTS = "slurm-starts"
    SLURM_REQUEUED = "slurm-requeued"
    """Saved because its time was nearly up, and queued again."""
    SLURM_NOT_REQUEUED = "slurm-not-requeued"
    """Saved because its time was nearly up; Slurm did not take it back."""
    SLURM_PREEMPTED = "slurm-preempted"
    """Slurm took its machines and will start it again."""
    SLURM_TIME_LIMIT = "slurm-time-limit"
    SLURM_CANCELLED = "slurm-cancelled"
    SLURM_GONE = "slurm-gone"
    """It left Slurm's queue without a last word."""


class Reason(NamedTuple):
    """Why a job is in its state.

    Attributes:
        code: for programs.
        text: one plain line for people.
    """

    code: ReasonCode
    text: str


NO_REASON = Reason(ReasonCode.NONE, "")
BEFORE_START = Reason(ReasonCode.STOPPED_BEFORE_START, "stopped before it started")


def reason_in(content: dict[str, object]) -> Reason | None:
    """Read the reason that a job's file holds; ``None`` where it holds none."""
    text = content.get("reason")
    if not text:
        return None
    return Reason(known_code(content.get("reason_code")), str(text))


def known_code(value: object) -> ReasonCode:
    """Read a code; files of other versions may hold none, or one that is not known here."""
    try:
        return ReasonCode(value)
    except ValueError:
        return ReasonCode.NONE
