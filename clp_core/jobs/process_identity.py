"""Process identity: whether the process that a file names is still the same living process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from clp_core.progress import JOB_ENVIRONMENT

PR_SET_PDEATHSIG = 1
CREATE_TIME_TOLERANCE_S = 1.0
LAUNCHED = "TORCHELASTIC_RUN_ID"
"""Stands in the environment of every process that torchrun, or what builds on it, has started."""
LAUNCHERS = ("torch.distributed", "torchrun", "accelerate")
WATCH_S = 1.0
"""Pause between two looks at a launcher that is not the parent."""
START_TICKS_FIELD = 19
"""Of what follows the name in /proc/PID/stat: clock ticks from boot to the start of the process."""


def boot_id() -> str:
    """Return the id of this boot, so that a pid of an earlier one is not taken for a living process."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.is_file() else str(int(psutil.boot_time()))


def identity(pid: int) -> dict[str, Any]:
    """Return what identifies a living process: pid, create time, start in ticks since boot, boot and host."""
    return {
        "pid": pid,
        "create_time": psutil.Process(pid).create_time(),
        "start_ticks": start_ticks(pid),
        "boot_id": boot_id(),
        "host": socket.gethostname(),
    }


def start_ticks(pid: int) -> int | None:
    """Return a process's start in ticks since boot, which no set clock moves; ``None`` off Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[START_TICKS_FIELD])


def is_alive(who: dict[str, Any]) -> bool:
    """Say whether the process with this identity lives, on this host; a zombie does not.

    The create time is that of the wall clock and moves when the clock is set; where ticks are known, they decide.
    """
    pid = who.get("pid")
    if not isinstance(pid, int) or pid < 2 or who.get("host") != socket.gethostname():
        return False
    if who.get("boot_id") != boot_id():
        return False
    try:
        process = psutil.Process(pid)
        if who.get("start_ticks") is not None:
            same = who["start_ticks"] == start_ticks(pid)
        else:
            same = abs(process.create_time() - float(who.get("create_time", 0))) < CREATE_TIME_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def die_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when its parent dies (Linux; elsewhere nothing happens).

    Args:
        parent: process id of the parent; where that has died already, this process ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def die_with_launcher() -> None:
    """End this training process when its launcher (torchrun, or what builds on it) dies.

    A supervisor's own child is bound to it before it runs anything. One that a launcher starts may have lost it before
    it comes here; an orphan belongs to init or to whatever process takes orphans in, so under a supervisor a launcher
    must be among the processes above. The kernel kills this process when its parent dies; where a wrapper such as a
    shell script stands between, a thread watches the launcher.

    Raises:
        SystemExit: the launcher is dead already.
    """
    if LAUNCHED not in os.environ:
        return
    parent = os.getppid()
    die_with_parent(parent)
    launcher = launcher_above()
    if launcher is None:
        if JOB_ENVIRONMENT in os.environ:
            raise SystemExit("the launcher is gone")
        return
    if launcher.pid != parent:
        threading.Thread(target=end_with, args=(launcher,), name="watches the launcher", daemon=True).start()


def launcher_above() -> psutil.Process | None:
    """Return the nearest process above this one that is a launcher by its command line."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            with contextlib.suppress(psutil.AccessDenied):
                if any(name in word for word in process.cmdline() for name in LAUNCHERS):
                    return process
    return None


def end_with(process: psutil.Process) -> None:
    """Wait until a process that is not a child of this one has ended, then end this one as a kill would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_S)
    os._exit(128 + signal.SIGKILL)
