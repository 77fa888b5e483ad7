"""From options to a started job: what runs, the command a user would type, and the checks before."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from clp_core.compare_options import CompareMethodsOptions
from clp_core.data.text_sources import absolute
from clp_core.errors import InputError, JobError
from clp_core.export_options import ExportOptions
from clp_core.files.disk import check_disk
from clp_core.files.hashing import content_of, fingerprint
from clp_core.hub.repo_id import is_hub_id
from clp_core.hub.resolve import locate
from clp_core.jobs.job import Job
from clp_core.jobs.launchers import start
from clp_core.jobs.queue import DeviceQueue
from clp_core.jobs.slurm import SCRIPT_FILE
from clp_core.jobs.slurm_control import require
from clp_core.jobs.slurm_script import checked_script, read_script, render
from clp_core.jobs.store import MOST_LISTED, SCHEMA_VERSION, JobStore
from clp_core.options import arguments_of
from clp_core.project_options import ProjectOptions
from clp_core.push_options import PushOptions
from clp_core.train_options import TrainOptions
from clp_core.training_plan import TrainPlan, plan
from clp_core.transfer_options import TransferOptions
from clp_core.workspace import Workspace

POSITIONAL = {"project": ("model",), "export": ("job",), "push": ("model", "repo")}
"""Options that a command takes by their place."""
WORDS = {"export": ("jobs", "export")}
"""The words of a command that is not its kind's own name."""


def command_of(kind: str, options: Any) -> str:
    """Return the command that does the same on the command line; positional arguments come first."""
    arguments = arguments_of(options)
    placed = []
    for name in POSITIONAL.get(kind, ()):
        position = arguments.index(f"--{name}")
        placed.append(arguments[position + 1])
        del arguments[position : position + 2]
    return shlex.join(["clp", *WORDS.get(kind, (kind,)), *placed, *arguments])


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
        kind: one of ``KINDS``.
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


def resume(workspace: Workspace, job: Job) -> Job:
    """Let a run go on from its newest complete checkpoint, or from its beginning where there is none.

    Raises:
        JobError: its spec.json is damaged.
        InputError: it is no run, is under way, has done all its steps, or was made by an earlier version.
    """
    store = JobStore(workspace.jobs)
    job = store.get(job.id)
    with store.lock():
        state = job.status().state
        if not job.status().is_over:
            raise InputError(f"{job.id} is {state}; only what is over can be resumed")
        if job.kind != "train":
            raise InputError(f"{job.id} is a {job.kind} job; only training runs can be resumed, start it again instead")
        if state == "finished":
            raise InputError(f"{job.id} has done all its steps; clone it with more, or train its checkpoint on")
        if job.spec.get("schema") != SCHEMA_VERSION:
            raise InputError(f"{job.id} was made by an earlier version; clone it, or train its checkpoint on")
        check_spec(job)
        check_disk(workspace.jobs, int(job.plan["disk_bytes"]) // 2)
        job.begin_attempt()
    launch(job)
    return job


def check_spec(job: Job) -> None:
    """Refuse to resume a run whose spec.json lacks what its process reads first.

    Raises:
        JobError: it lacks arguments, fields of the plan, or what a local supervisor starts.
    """
    needed = ("arguments",) if job.spec.get("launcher") == "slurm" else ("arguments", "argv", "devices")
    absent = [
        name for name in needed if not job.spec[name] or not all(isinstance(each, str) for each in job.spec[name])
    ]
    planned = job.plan
    absent += [
        f"plan.{field.name}" for field in fields(TrainPlan) if field.default is MISSING and field.name not in planned
    ]
    if absent:
        shown = ", ".join(absent[:MOST_LISTED]) + (", ..." if len(absent) > MOST_LISTED else "")
        raise JobError(
            f"{job.id} cannot be resumed: its spec.json has no valid {shown}; clone it, or train its checkpoint on"
        )


def is_resumable(job: Job) -> bool:
    """Say whether a job is a run that is over before it has done all its steps."""
    return job.kind == "train" and job.status().is_over and job.status().state != "finished"


def submit_command(workspace: Workspace, kind: str, options: Any, models: Sequence[str], name: str = "") -> Job:
    """Start a job that runs one of the ``clp`` commands."""
    command = command_of(kind, options)
    argv = ["-m", "clp_core", *shlex.split(command)[1:], "--json"]
    prints = {model: fingerprint(Path(model)) for model in models if Path(model).is_dir()}
    return submit(workspace, kind, asdict(options), argv, command=command, name=name, fingerprints=prints)


def submit_transfer(workspace: Workspace, options: TransferOptions) -> Job:
    """Start a transfer as a job."""
    name = Path(options.output).name
    return submit_command(workspace, "transfer", options, [options.source, options.helper], name)


def submit_compare(
    workspace: Workspace, source: str, helper: str, text: str = "", match: str = "raw", seed: int = 42
) -> Job:
    """Start a comparison of all methods on a pair as a job.

    Raises:
        OptionsError: an option is refused.
    """
    options = CompareMethodsOptions(source, helper, text=text, match=match, seed=seed, keep_rows=True)
    name = f"methods on {Path(source).name} and {Path(helper).name}"
    return submit_command(workspace, "compare-methods", options, [source, helper], name)


def submit_demo(workspace: Workspace) -> Job:
    """Start unpacking the packaged demo as a job."""
    return submit(workspace, "demo", {}, ["-m", "clp_core", "demo", "--json"], command="clp demo", name="the demo")


def submit_project(workspace: Workspace, options: ProjectOptions) -> Job:
    """Start a projection as a job."""
    return submit_command(
        workspace, "project", options, [options.model], f"{options.method} of {Path(options.model).name}"
    )


def submit_export(workspace: Workspace, options: ExportOptions) -> Job:
    """Start writing a run's checkpoint as a plain model folder as a job."""
    return submit_command(workspace, "export", options, [], f"export {Path(options.output).name}")


def submit_push(workspace: Workspace, options: PushOptions) -> Job:
    """Start pushing a model to the Hub, or a dry run of it, as a job."""
    name = f"{'dry run of ' if options.dry_run else ''}push to {options.repo}"
    return submit_command(workspace, "push", options, [options.model], name)


def submit_plain(workspace: Workspace, kind: str, arguments: Sequence[str], name: str) -> Job:
    """Start a job that runs a ``clp`` command with these arguments."""
    argv = [kind, *arguments]
    command = shlex.join(["clp", *argv])
    return submit(
        workspace, kind, {"arguments": list(arguments)}, ["-m", "clp_core", *argv, "--json"], command=command, name=name
    )


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


def submit_train(workspace: Workspace, options: TrainOptions, script: str = "") -> Job:
    """Plan a training run, check memory and disk, and start it as a job.

    Args:
        workspace: where the run is kept.
        options: what is asked for.
        script: with Slurm, an edited script in place of the one that the options make.

    Raises:
        InputError: model or text cannot be used, memory or disk does not suffice, or Slurm refuses it.
    """
    asked, options = options, options.with_preset()
    if options.launcher == "slurm":
        require()
    reference = options.model
    folder = locate(reference)
    chosen = plan(asked, folder)
    check_disk(workspace.jobs, chosen.disk_bytes)
    arguments = asdict(options) | {
        "model": reference if is_hub_id(reference) and not Path(reference).is_dir() else str(folder)
    }
    arguments["teacher"] = chosen.teacher
    arguments["text"] = [absolute(text) for text in options.text]
    arguments["eval_text"] = absolute(options.eval_text)
    read = [folder, locate(chosen.teacher)] if chosen.teacher else [folder]
    prints = {str(path): fingerprint(path) for path in read}
    edited, script = script_of(workspace, options, chosen, script)
    arguments["script"] = hashlib.sha256(script.encode()).hexdigest()[:12] if edited else ""
    return submit(
        workspace,
        "train",
        arguments,
        training_argv(chosen) if chosen.devices else [],
        command=train_command(asked, script if edited else ""),
        name=options.name,
        plan=chosen.as_json(),
        fingerprints=prints | {"eval_text": content_of(Path(arguments["eval_text"]))},
        devices=chosen.devices,
        launcher=options.launcher,
        script=script,
    )


def train_command(options: TrainOptions, edited: str = "") -> str:
    """Return the command that starts a run; an edited script is the file that the run's directory keeps."""
    return command_of("train", replace(options, script=options.script or (SCRIPT_FILE if edited else "")))


def preview_script(workspace: Workspace, options: TrainOptions) -> str:
    """Return the script that Slurm would get for a run, which is planned and not started.

    Raises:
        InputError: the run is not for Slurm, or would be refused.
    """
    if options.launcher != "slurm":
        raise InputError("--show-script shows what Slurm would get; give --launcher slurm with it")
    return script_of(workspace, options, plan(options, locate(options.model)))[1]


def script_of(workspace: Workspace, options: TrainOptions, chosen: TrainPlan, edited: str = "") -> tuple[bool, str]:
    """Return whether a user has edited the script, and the script that Slurm gets; an empty one on this machine.

    Raises:
        InputError: an edited one cannot be used.
    """
    if options.launcher != "slurm":
        return False, ""
    if edited:
        return True, checked_script(edited)
    if options.script:
        return True, read_script(options.script)
    return False, render(options, chosen, workspace)


def training_argv(chosen: TrainPlan) -> list[str]:
    """Return the interpreter's arguments that start training on this machine: torchrun only for several processes."""
    trainer = ["-m", "clp_core.training", "{job}"]
    if chosen.processes == 1:
        return trainer
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={chosen.processes}", *trainer]
