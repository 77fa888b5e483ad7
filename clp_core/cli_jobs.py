"""``clp jobs``: list, show, stop and remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clp_core.cli_output import Json, emit, print_table
from clp_core.errors import InputError
from clp_core.jobs import Job, JobStore
from clp_core.workspace import Workspace

jobs_app = typer.Typer(no_args_is_help=True, help="List, show, stop and remove jobs.")


def store() -> JobStore:
    """Return the jobs of the workspace."""
    return JobStore(Workspace.current().jobs)


def job_named(name: str) -> Job:
    """Return a job of the workspace by its name."""
    return store().get(name)


JobName = Annotated[str, typer.Argument(help="the name of the job's directory", metavar="JOB")]
SUMMARY = ["job", "state", "step", "tokens", "reason"]


def show_jobs(result: dict[str, Any]) -> None:
    """Print jobs as a table."""
    listed = result.get("jobs", [result])
    print_table("Jobs", SUMMARY, [[Path(job["job"]).name, *[job[key] for key in SUMMARY[1:]]] for job in listed])


@jobs_app.command("list")
def jobs_list(as_json: Json = False) -> None:
    """List all jobs, newest first."""
    found = [job.summary() for job in store().jobs()]
    emit({"jobs": found}, as_json, show_jobs)


@jobs_app.command("show")
def jobs_show(name: JobName, as_json: Json = False) -> None:
    """Say how a job stands."""
    emit(job_named(name).summary(), as_json, show_jobs)


@jobs_app.command("stop")
def jobs_stop(name: JobName, as_json: Json = False) -> None:
    """Ask a job to save and stop; returns at once."""
    job = job_named(name)
    if job.status().is_over:
        raise InputError(f"{job.id} is {job.status().state} already")
    job.ask_stop()
    emit(job.summary(), as_json, show_jobs)


@jobs_app.command("remove")
def jobs_remove(name: JobName, as_json: Json = False) -> None:
    """Delete the directory of a job that is over, its checkpoints included."""
    job = job_named(name)
    store().remove(job)
    emit({"removed": str(job.path)}, as_json, lambda found: typer.echo(f"removed {found['removed']}"))
