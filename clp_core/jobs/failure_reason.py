"""Why a job ended, in one plain line: from the error in its process, or from how the process ended."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

from clp_core.environment.memory_errors import OutOfMemoryError, is_out_of_memory
from clp_core.errors import ClpError, DivergedError, InputError
from clp_core.files.disk import is_full_disk
from clp_core.jobs.reason_codes import Reason, ReasonCode

RANK_EXIT = re.compile(r"exitcode\s*:\s*(-?\d+)")
OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
MAX_REASON = 500
ALMOST_NOTHING = 1 << 20


def reason_of(error: BaseException, folder: Path | None = None, memory_cure: str = "") -> Reason:
    """Return what an error in a training process means for the user.

    Args:
        error: what was raised.
        folder: where the process writes; where nothing is left there, any error of the system is that of a full disk.
        memory_cure: what would take less memory.
    """
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return short(ReasonCode.DATA_ERROR, f"data error: {text}")
    if isinstance(error, DivergedError):
        return short(ReasonCode.DIVERGED, text)
    if isinstance(error, ClpError):
        return short(ReasonCode.OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else ReasonCode.ERROR, text)
    if is_full_disk(error, text) or (folder is not None and shutil.disk_usage(folder).free < ALMOST_NOTHING):
        return short(ReasonCode.DISK_FULL, f"disk full: {text}; make room, then resume")
    if is_out_of_memory(error):
        return short(ReasonCode.OUT_OF_MEMORY, "; ".join(filter(None, (f"out of memory: {text}", memory_cure))))
    return short(ReasonCode.ERROR, f"{type(error).__name__}: {text}" if text else type(error).__name__)


def short(code: ReasonCode, text: str) -> Reason:
    """Return a reason whose text fits on a page."""
    return Reason(code, text[:MAX_REASON])


def oom_kills() -> int:
    """Return how often the kernel has killed a process for want of memory, in this control group or on this machine."""
    for file in OOM_COUNTERS:
        try:
            found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def reason_of_exit(code: int, log_tail: str, *, oom_killed: bool) -> Reason:
    """Return why a process ended that left no word itself.

    Args:
        code: its exit code; negative for a signal.
        log_tail: the end of its output.
        oom_killed: whether the kernel killed any process for want of memory meanwhile.
    """
    told = [line.strip() for line in log_tail.splitlines() if line.strip().startswith("clp: ")]
    if told and code >= 0:
        text = told[-1].removeprefix("clp: ")
        return short(ReasonCode.OUT_OF_MEMORY if text.startswith("out of memory") else ReasonCode.ERROR, text)
    ranks = [int(found) for found in RANK_EXIT.findall(log_tail) if int(found) < 0]
    signalled = code if code < 0 else (ranks[-1] if ranks else 0)
    if signalled < 0:
        name = f"killed by signal {-signalled} ({signal_name(-signalled)})"
        if oom_killed and -signalled == signal.SIGKILL:
            told_of_memory = f"out of memory: the kernel killed the process for want of memory; {name}"
            return short(ReasonCode.OUT_OF_MEMORY, told_of_memory)
        return short(ReasonCode.KILLED_BY_SIGNAL, name)
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    return short(ReasonCode.ERROR, lines[-1] if lines else f"exit code {code}")


def signal_name(number: int) -> str:
    """Return a signal's name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a signal without a name"
