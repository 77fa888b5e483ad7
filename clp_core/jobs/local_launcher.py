"""Jobs on this machine: their supervisors are started here, and judged by its processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from filelock import FileLock, Timeout

from clp_core.files.json_files import write_json
from clp_core.jobs.allocator import ALLOCATOR
from clp_core.jobs.job import LOCK_FILE, LOG_FILE, Job
from clp_core.jobs.launcher import LOCAL, TOLD_SILENCE_S, Launcher, register, silence_of
from clp_core.jobs.process_identity import boot_id, identity
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.jobs.spawning import spawner
from clp_core.jobs.status import Status
from clp_core.progress import boot_clock

START_GRACE_S = 20.0
SILENCE_ELSEWHERE_S = 600.0
RESTARTED = Reason(ReasonCode.MACHINE_RESTARTED, "the machine went down or was restarted")
RESTARTED_BEFORE_START = Reason(ReasonCode.MACHINE_RESTARTED, "the machine was restarted before it started")
SUPERVISOR_KILLED = Reason(ReasonCode.SUPERVISOR_KILLED, "its supervisor was killed before it could say why")
NEVER_STARTED = Reason(ReasonCode.NEVER_STARTED, "its supervisor never started")


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


register(LOCAL, LocalLauncher())
