"""Where a job's supervisor runs: here, or where Slurm chooses. Each launcher starts its own jobs and judges them.

The job's directory says how the job stands. A launcher is asked only what the directory cannot say: whether a
supervisor that has not begun, cannot be seen from here or left no last word is still to be expected.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from filelock import FileLock, Timeout

from clp_core.files.json_files import number_in, write_json
from clp_core.jobs.job import LOCK_FILE, LOG_FILE, Job, Status
from clp_core.jobs.process import boot_id, identity
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.jobs.spawning import spawner
from clp_core.progress import boot_clock

START_GRACE_S = 20.0
SILENCE_ELSEWHERE_S = 600.0
TOLD_SILENCE_S = 120.0
RESTARTED = Reason(ReasonCode.MACHINE_RESTARTED, "the machine went down or was restarted")
RESTARTED_BEFORE_START = Reason(ReasonCode.MACHINE_RESTARTED, "the machine was restarted before it started")
SUPERVISOR_KILLED = Reason(ReasonCode.SUPERVISOR_KILLED, "its supervisor was killed before it could say why")
NEVER_STARTED = Reason(ReasonCode.NEVER_STARTED, "its supervisor never started")


def allocator_settings(library: str, version: str) -> dict[str, str]:
    """Choose the bounds up to which glibc keeps the memory of freed tensors.

    By itself it gives every large tensor back to the kernel and takes its pages anew in the next step, which costs a
    training step on a CPU up to half its time. Before 2.35 it ignores a bound above 32 MiB, and, as the other is set,
    would stay at 128 KiB.

    Args:
        library: the C library, as ``platform.libc_ver`` names it.
        version: its version, such as ``2.36``.
    """
    numbers = tuple(int(number) for number in re.findall("[0-9]+", version)[:2])
    is_bounded = library != "glibc" or numbers < (2, 35)
    return {"MALLOC_MMAP_THRESHOLD_": str(32 << 20 if is_bounded else 1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


ALLOCATOR = allocator_settings(*platform.libc_ver())
"""Variables of the environment of jobs."""


class Launcher(ABC):
    """Starts supervisors, and says of a job what its files cannot."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start the supervisor of a job, or have it started.

        Raises:
            InputError: it is refused.
        """

    @abstractmethod
    def judge(self, job: Job, status: Status, who: Mapping[str, Any]) -> Status:
        """Say how a job stands whose supervisor is not seen to live on this machine.

        Args:
            job: the job; it is not over by its files.
            status: how it stands by them.
            who: its supervisor by process.json; empty where none has begun.
        """

    def stop(self, job: Job, *, kill: bool) -> None:  # noqa: B027 (most supervisors see the request themselves)
        """Carry a request to stop to where no supervisor sees it yet."""

    def facts(self, job: Job) -> dict[str, Any]:  # noqa: ARG002
        """Return what else ``clp jobs show`` says of a job."""
        return {}


class LocalLauncher(Launcher):
    """Supervisors on this machine, which outlive the tab, the server and the server's Ctrl+C."""

    def start(self, job: Job) -> None:
        """Start the supervisor detached: a session of its own, no pipes, output to the log."""
        argv = ["-m", "clp_core.jobs.supervisor", str(job.path)]
        environment = ALLOCATOR | os.environ | {"PYTHONUNBUFFERED": "1"}
        pid = spawner().detached(argv, job.path / LOG_FILE, environment)
        # It writes the same itself once it runs; if it is killed before, readers know whom to look for.
        write_json(job.path / "process.json", identity(pid), durable=True)

    def judge(self, job: Job, status: Status, who: Mapping[str, Any]) -> Status:
        """Say ``lost`` where the supervisor is gone; of one on another machine its signs of life tell."""
        if not who:
            return has_not_begun(status)
        if who.get("host") != socket.gethostname() and not same_machine_lost_it(job, who):
            return judged_by_signs(job, status, who)
        if who.get("boot_id") != boot_id():
            return status.because(*RESTARTED, state="lost")
        return status.because(*SUPERVISOR_KILLED, state="lost")


def has_not_begun(status: Status) -> Status:
    """Judge a job whose supervisor has not said who it is: it may be about to."""
    if status.boot_id in (boot_id(), ""):
        if boot_clock() - status.boot_clock <= START_GRACE_S:
            return status
        return status.because(*NEVER_STARTED, state="lost")
    return status.because(*RESTARTED_BEFORE_START, state="lost")


def same_machine_lost_it(job: Job, who: Mapping[str, Any]) -> bool:
    """Say whether a supervisor under another host name ran on this kernel and holds its lock no more."""
    if who.get("boot_id") != boot_id():
        return False
    lock = FileLock(job.path / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def judged_by_signs(job: Job, status: Status, who: Mapping[str, Any]) -> Status:
    """Judge a job of another machine by what it writes here: processes there cannot be seen."""
    age, expected = silence_of(job, status)
    if age > max(SILENCE_ELSEWHERE_S, 3 * expected):
        told = f"no sign from {who.get('host')}, where it ran, for {age / 60:.0f} minutes"
        return status.because(ReasonCode.HOST_SILENT, told, state="lost")
    silent = f", no sign for {age:.0f} s" if age > TOLD_SILENCE_S else ""
    code = ReasonCode.NO_SIGN if silent else ReasonCode.ON_OTHER_HOST
    return status.because(code, f"on {who.get('host')}{silent}")


def silence_of(job: Job, status: Status) -> tuple[float, float]:
    """Return how long a job of another machine has given no sign, and how long it had said; by the wall clock."""
    heartbeat = job.heartbeat()
    age = max(0.0, time.time() - number_in(heartbeat, "time", status.time))
    return age, number_in(heartbeat, "expect_next_s", 0.0)


def launcher_of(job: Job) -> Launcher:
    """Return the launcher that a job's spec names; jobs of earlier versions ran on their own machine."""
    if job.spec.get("launcher", "local") == "slurm":
        from clp_core.jobs.slurm import SlurmLauncher  # it builds on this module

        return SlurmLauncher()
    return LocalLauncher()


def start(job: Job) -> None:
    """Start a job's supervisor where its spec says.

    Raises:
        InputError: it is refused there.
    """
    launcher_of(job).start(job)
