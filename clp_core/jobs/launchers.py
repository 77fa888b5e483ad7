"""Start a job's supervisor so that it outlives the tab, the server and the server's Ctrl+C."""

from __future__ import annotations

import os
import subprocess
import sys

from clp_core.jobs.job import Job
from clp_core.jobs.process import identity
from clp_core.progress import write_json

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""glibc gives every large tensor back to the kernel and takes its pages anew in the next step, which costs a training
step on a CPU up to half its time; with these bounds it keeps them."""


def start(job: Job) -> None:
    """Start the supervisor of a job on this machine, detached: a session of its own, no pipes, output to the log."""
    with open(job.path / "output.log", "ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "clp_core.jobs.supervisor", str(job.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
            env=ALLOCATOR | os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    # It writes the same itself once it runs; if it is killed before, readers know whom to look for.
    write_json(job.path / "process.json", identity(supervisor.pid), durable=True)
