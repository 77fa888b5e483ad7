"""Runs on the command line: followed to their end, and told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clp_core.cli.output import echo, emit, written
from clp_core.errors import ClpError
from clp_core.tokenization.scripts import printable

if TYPE_CHECKING:
    from clp_core.jobs import Job

FOLLOW_S = 0.5


def tell_run(job: Job, *, detach: bool, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """Say what its plan warns of, follow a run unless it is detached, then print how it stands.

    Args:
        job: the run.
        detach: print at once.
        as_json: see ``emit``.
        more: further figures.

    Raises:
        ClpError: the run failed.
    """
    for warning in job.plan["warnings"]:
        echo(f"warning: {warning}", err=True)
    if not detach:
        follow(job)
    status = job.status()
    step, tokens = job.progress()
    result = job.result()
    figures = {"job": str(job.path), "state": status.state, "step": step, "tokens": tokens}
    figures |= {key: result.get(key) for key in ("eval_loss", "bits_per_byte")}
    figures |= {"reason": status.reason, "reason_code": status.reason_code.value} if status.reason else {}
    if status.state in ("failed", "lost"):
        raise ClpError(f"{job.id} {status.state}: {status.reason}")
    emit(
        figures | dict(more or {}),
        as_json,
        lambda found: echo("\n".join(f"{key}: {written(value)}" for key, value in found.items())),
    )


def follow(job: Job) -> None:
    """Show a run's progress on stderr until it is over; Ctrl+C asks it to save and stop."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),  # a job's name may look like markup
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(job.name), total=job.plan["steps"])
        while not job.status().is_over:
            try:
                status = job.status()
                told = f"{job.name}: {status.state}" + (f", {status.reason}" if status.reason else "")
                bar.update(task, completed=job.progress()[0], total=job.plan["steps"], description=printable(told))
                time.sleep(FOLLOW_S)
            except KeyboardInterrupt:
                job.ask_stop()
        bar.update(task, completed=job.progress()[0])
