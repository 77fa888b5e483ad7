"""From a command to a started job."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.files.hashing import fingerprint
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.jobs.job import Job
from clp_core.jobs.launcher import start
from clp_core.jobs.slurm.launcher import SCRIPT_FILE
from clp_core.jobs.store import JobStore
from clp_core.options import Options, command_of
from clp_core.workspace import Workspace


def submit(
    workspace: Workspace,
    kind: str,
    arguments: Mapping[str, Any],
    argv: Sequence[str],
    *,
    script: str = "",
    **details: Any,
) -> Job:
    """Make a job and start it, unless the same one is under way, which is then returned.

    Args:
        workspace: where.
        kind: what it does, such as ``train``.
        arguments: its options.
        argv: what its supervisor runs.
        script: what is handed to Slurm, where that starts it.
        details: see ``JobStore.create``.

    Raises:
        InputError: it is refused where it should start; then there is no job.
    """
    store = JobStore(workspace.jobs)
    job, is_new = store.create(kind, arguments, argv, **details)
    if not is_new:
        return job
    if script:
        (job.path / SCRIPT_FILE).write_text(script, encoding="utf-8")
    try:
        launch(job)
    except InputError:
        if job.status().is_over:
            store.remove(job)
        raise
    return job


def launch(job: Job) -> None:
    """Draw a ticket for the devices of a job, if it needs any, and start its supervisor."""
    if job.spec["devices"]:
        DeviceQueue.of_this_machine().enter(job.path, job.spec["devices"])
    start(job)


def submit_command(workspace: Workspace, options: Options, models: Sequence[str], name: str = "") -> Job:
    """Start a job that runs the ``clp`` command of these options; its last word is the job's kind."""
    kind, command = options.COMMAND[-1], command_of(options)
    argv = ["-m", "clp_core", *shlex.split(command)[1:], "--json"]
    prints = {model: fingerprint(Path(model)) for model in models if Path(model).is_dir()}
    return submit(workspace, kind, asdict(options), argv, command=command, name=name, fingerprints=prints)


def submit_plain(workspace: Workspace, kind: str, arguments: Sequence[str], name: str) -> Job:
    """Start a job that runs a ``clp`` command with these arguments."""
    argv = [kind, *arguments]
    command = shlex.join(["clp", *argv])
    return submit(
        workspace, kind, {"arguments": list(arguments)}, ["-m", "clp_core", *argv, "--json"], command=command, name=name
    )
