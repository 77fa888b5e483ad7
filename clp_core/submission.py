"""One function for each ``clp`` command that runs as a job: from options to the started job."""

from __future__ import annotations

import shlex
from pathlib import Path

from clp_core.geometry.project_options import ProjectOptions
from clp_core.jobs.job import Job
from clp_core.jobs.submit import submit, submit_command, submit_plain
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push_options import PushOptions
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from clp_core.workspace import Workspace


def submit_transfer(workspace: Workspace, options: TransferOptions) -> Job:
    """Start a transfer as a job."""
    name = Path(options.output).name
    return submit_command(workspace, options, [options.source, options.helper], name)


def submit_method_comparison(workspace: Workspace, options: CompareMethodsOptions) -> Job:
    """Start a comparison of methods on a pair as a job."""
    name = f"methods on {Path(options.source).name} and {Path(options.helper).name}"
    return submit_command(workspace, options, [options.source, options.helper], name)


def submit_demo(workspace: Workspace) -> Job:
    """Start unpacking the packaged demo as a job."""
    return submit(workspace, "demo", {}, ["-m", "clp_core", "demo", "--json"], command="clp demo", name="the demo")


def submit_project(workspace: Workspace, options: ProjectOptions) -> Job:
    """Start a projection as a job."""
    return submit_command(workspace, options, [options.model], f"{options.method} of {Path(options.model).name}")


def submit_export(workspace: Workspace, options: ExportOptions) -> Job:
    """Start writing a run's checkpoint as a plain model folder as a job."""
    return submit_command(workspace, options, [], f"export {Path(options.output).name}")


def submit_push(workspace: Workspace, options: PushOptions) -> Job:
    """Start pushing a model to the Hub, or a dry run of it, as a job."""
    name = f"{'dry run of ' if options.dry_run else ''}push to {options.repo}"
    return submit_command(workspace, options, [options.model], name)


def submit_agreement(workspace: Workspace, first: str, second: str) -> Job:
    """Start comparing the neighbours in two models as a job."""
    name = f"neighbours in {Path(first).name} and {Path(second).name}"
    return submit_plain(workspace, "agreement", [first, second], name)


def submit_near_duplicates(workspace: Workspace, model: str) -> Job:
    """Start looking for near-duplicates among a model's rows as a job."""
    return submit_plain(workspace, "near-duplicates", [model], f"near-duplicates in {Path(model).name}")


def submit_prepare(workspace: Workspace, model: str) -> Job:
    """Start preparing a model for the pages as a job."""
    name = f"prepare {Path(model).name}"
    command = shlex.join(["clp", "prepare", model])
    return submit(
        workspace,
        "prepare",
        {"model": model},
        ["-m", "clp_core", "prepare", model, "--json"],
        command=command,
        name=name,
    )
