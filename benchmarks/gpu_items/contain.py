"""A process with a time limit, at whose end nothing it has started is left, in sessions of their own neither."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.1
END_S = 20.0


@dataclass(frozen=True)
class Outcome:
    """How a contained process ended.

    Attributes:
        code: its exit code, negative for a signal.
        timed_out: whether it was killed at its limit.
        seconds: how long it ran.
        cpu_seconds: of it and all it had started.
        left: processes that it had left behind, which were killed.
    """

    code: int
    timed_out: bool
    seconds: float
    cpu_seconds: float
    left: int


def run_contained(command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a command for at most so many seconds, then end it and everything it has started.

    Supervisors of jobs leave their parent's session and outlive it. This process takes in such orphans (Linux), so that
    they are found among its descendants whatever session they are in.

    Args:
        command: the program and its arguments.
        limit_s: seconds after which it is killed.
        log: file to which its output is appended.
        environment: of the process.
    """
    before, cpu_before = {child.pid for child in descendants()}, cpu_seconds()
    began, timed_out = time.monotonic(), False
    adopt_orphans(True)
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment),
                start_new_session=True,
            )  # fmt: skip
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        seconds = time.monotonic() - began
        started = [child for child in descendants() if child.pid not in before]
        left = len([child for child in started if child.pid != process.pid and is_running(child)])
        end_all(before, process)
    finally:
        adopt_orphans(False)
    return Outcome(process.returncode, timed_out, seconds, cpu_seconds() - cpu_before, left)


def adopt_orphans(adopt: bool) -> None:
    """Become the parent of orphaned descendants, or leave them to init (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """All living descendants of this process, zombies among them."""
    return psutil.Process().children(recursive=True)


def is_running(process: psutil.Process) -> bool:
    """Whether a process lives and is not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_all(before: set[int], process: subprocess.Popen[bytes]) -> None:
    """Kill and reap every descendant that was not there before.

    Raises:
        TimeoutError: one outlives it, as a process that waits for a broken driver may.
    """
    until = time.monotonic() + END_S
    while found := [child for child in descendants() if child.pid not in before]:
        for child in found:
            with suppress(psutil.Error):
                child.send_signal(signal.SIGKILL)
        for child in found:
            if child.pid == process.pid:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            else:
                with suppress(ChildProcessError):  # not ours yet: its parent is about to die
                    os.waitpid(child.pid, os.WNOHANG)
        if time.monotonic() > until:
            raise TimeoutError(f"processes do not end: {', '.join(str(child.pid) for child in found)}")
        time.sleep(POLL_S / 2)
    process.wait()


def cpu_seconds() -> float:
    """CPU time of all ended descendants of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
