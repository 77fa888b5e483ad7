"""``clp jobs``: list, show, stop, resume, remove, rename, compare, and curves from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clp_core.cli.output import Json, echo, emit, options_command, print_table, written
from clp_core.errors import InputError
from clp_core.files.atomic import write_whole
from clp_core.jobs import Job, JobStore
from clp_core.run_comparison.options import CompareRunsOptions, ImportOptions
from clp_core.workspace import Workspace

jobs_app = typer.Typer(no_args_is_help=True, help="List, show, stop, resume, compare and remove jobs.")


def store() -> JobStore:
    """Return the jobs of the workspace."""
    return JobStore(Workspace.current().jobs)


JOB_HELP = "its directory, its name, the beginning of its name if that is unique, or latest"
JobName = Annotated[str, typer.Argument(help=f"the job: {JOB_HELP}", metavar="JOB")]
JobNames = Annotated[list[str], typer.Argument(help=f"the jobs, each by {JOB_HELP}", metavar="JOB...")]
SUMMARY = ["job", "name", "state", "step", "tokens", "reason"]


def show_jobs(result: dict[str, Any]) -> None:
    """Print jobs as a table."""
    listed = result.get("jobs", [result])
    rows = []
    for job in listed:
        slurm = f"Slurm job {job['slurm_job']}" if job.get("slurm_job") else ""
        told = {**job, "job": Path(job["job"]).name, "reason": "; ".join(filter(None, (job["reason"], slurm)))}
        rows.append([told[key] for key in SUMMARY])
    print_table("Jobs", SUMMARY, rows)


def emit_jobs(jobs: list[Job], as_json: bool) -> None:
    """Print how jobs stand: one alone as it is, several as a list."""
    found = [job.summary() for job in jobs]
    emit(found[0] if len(found) == 1 else {"jobs": found}, as_json, show_jobs)


@jobs_app.command("list")
def jobs_list(as_json: Json = False) -> None:
    """List all jobs, newest first."""
    found = [job.summary() for job in store().jobs()]
    emit({"jobs": found}, as_json, show_jobs)


@jobs_app.command("show")
def jobs_show(names: JobNames, as_json: Json = False) -> None:
    """Say how jobs stand."""
    emit_jobs([store().find(name) for name in names], as_json)


@jobs_app.command("stop")
def jobs_stop(
    names: JobNames,
    kill: Annotated[bool, typer.Option("--kill", help="end at once, without saving")] = False,
    as_json: Json = False,
) -> None:
    """Ask jobs to save and stop; returns at once."""
    jobs = [store().find(name, lambda job: not job.status().is_over) for name in names]
    for job in jobs:
        if job.status().is_over:
            raise InputError(f"{job.id} is {job.status().state} already")
    for job in jobs:
        job.ask_stop(kill=kill)
    emit_jobs(jobs, as_json)


@jobs_app.command("resume")
def jobs_resume(names: JobNames, as_json: Json = False) -> None:
    """Let runs go on from their newest complete checkpoint; returns at once."""
    from clp_core.training.submit import is_resumable, resume

    jobs = [resume(Workspace.current(), store().find(name, is_resumable)) for name in names]
    emit_jobs(jobs, as_json)


@jobs_app.command("rename")
def jobs_rename(
    name: JobName, to: Annotated[str, typer.Argument(help="its new name", metavar="NAME")], as_json: Json = False
) -> None:
    """Give a job another name; its directory keeps its own."""
    job = store().find(name)
    job.rename(to)
    emit({"job": str(job.path), "name": job.name}, as_json, lambda found: echo(found["name"]))


@jobs_app.command("remove")
def jobs_remove(
    names: JobNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Delete the directories of jobs that are over, their checkpoints included, or imported curves (import:NAME)."""
    from clp_core.run_comparison.curve import remove_import

    imported = [name for name in names if name.startswith("import:")]
    jobs = [store().find(name, lambda job: job.status().is_over) for name in names if name not in imported]
    for job in jobs:
        if not job.status().is_over:
            raise InputError(f"{job.id} is {job.status().state}; stop it first")
    told = ", ".join([*imported, *(job.id for job in jobs)])
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete {told}, of runs with all checkpoints?", abort=True, err=True)
    for key in imported:
        remove_import(Workspace.current(), key)
    for job in jobs:
        store().remove(job)
    removed = [*imported, *[str(job.path) for job in jobs]]
    result = {"removed": removed[0] if len(removed) == 1 else removed}
    emit(result, as_json, lambda _: echo(f"removed {told}"))


@options_command(jobs_app, CompareRunsOptions)
def jobs_compare(options: CompareRunsOptions, as_json: Json = False) -> None:
    """Say how much sooner runs reach what a baseline reached."""
    from clp_core.experiments.curve_lookup import curve_named
    from clp_core.run_comparison.curve import Curve, IncompleteRunError
    from clp_core.run_comparison.report import UNITS, answer, as_csv, as_html, as_text, points_csv
    from clp_core.run_comparison.tokens_saved import Comparison

    measure, level = options.measure, options.level
    baseline, runs = curve_named(Workspace.current(), options.names[0]), list[Curve]()
    for name in options.names[1:]:
        try:
            runs.append(curve_named(Workspace.current(), name))
        except IncompleteRunError as error:
            echo(f"warning: {error}", err=True)
    if not runs:
        raise InputError("no run is left to compare with the baseline; name another one, `clp jobs list` shows them")
    if level is None and baseline.best(measure) is None:
        raise InputError(f"{baseline.name} has no {measure} to compare with; choose another baseline or measure")
    comparison = Comparison.of(baseline, runs, measure, level)
    if options.html is not None:
        from clp_core.figures import comparison_figure

        write_whole(options.html, as_html(comparison, comparison_figure(comparison)))
    if options.csv is not None:
        write_whole(options.csv, as_csv(comparison))
        write_whole(options.csv.with_name(f"{options.csv.stem}-points.csv"), points_csv(comparison))
    result = {
        "measure": measure,
        "level": comparison.level,
        "runs": comparison.rows(),
        "differing": comparison.differing,
        "answer": answer(comparison),
    }

    def show(found: dict[str, Any]) -> None:
        echo(found["answer"])
        columns = ["run", "best", "tokens", "verdict", "cautions"]
        rows = [
            [row["run"], row["best"], "-" if row["tokens"] is None else bound(row), row["verdict"], row["cautions"]]
            for row in found["runs"]
        ]
        print_table(f"Tokens to {found['level']:.4g} {UNITS[measure]}", columns, rows)
        differing = [[name, *map(as_text, values)] for name, values in found["differing"].items()]
        if differing:
            print_table("What differs", ["setting", *[row["run"] for row in found["runs"]]], differing)

    emit(result, as_json, show)


def bound(row: dict[str, Any]) -> str:
    """Return the tokens of a row in words; those of a curve that never got there are a bound."""
    return ("" if row["reached"] else "> ") + written(round(row["tokens"]))


@options_command(jobs_app, ImportOptions)
def jobs_import(options: ImportOptions, as_json: Json = False) -> None:
    """Take in the curve of a run made elsewhere, to compare with."""
    from clp_core.files.hashing import content_of
    from clp_core.hub.resolve import locate
    from clp_core.run_comparison.curve import import_curve
    from clp_core.tokenization.vocabulary import Vocabulary

    file, tokenizer = options.file, options.tokenizer
    scored_on = content_of(options.eval_text) if options.eval_text is not None else ""
    content = Vocabulary.open(locate(tokenizer, weights=False)).content if tokenizer else ""
    curve = import_curve(
        Workspace.current(),
        file.read_bytes(),
        file.name,
        options.name or file.stem,
        step_tokens=options.step_tokens,
        eval_text=scored_on,
        tokenizer=content,
    )
    points = {measure: len(rows) for measure, rows in curve.points.items()}
    result = {"curve": curve.key, "name": curve.name, "points": points, "origin": curve.origin}
    emit(result, as_json, lambda found: echo(f"{found['curve']}: {found['origin']}"))
