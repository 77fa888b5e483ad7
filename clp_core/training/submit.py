"""Start and resume training runs: plan, check memory and disk, make a job."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

from clp_core.data.text_sources import Texts, absolute
from clp_core.errors import InputError, JobError
from clp_core.files.disk import check_disk
from clp_core.files.hashing import content_of, fingerprint
from clp_core.hub.repo_id import is_hub_id
from clp_core.hub.resolve import locate
from clp_core.jobs.job import Job
from clp_core.jobs.slurm.control import require
from clp_core.jobs.slurm.launcher import SCRIPT_FILE
from clp_core.jobs.store import MOST_LISTED, SCHEMA_VERSION, JobStore
from clp_core.jobs.submit import launch, submit
from clp_core.options import command_of
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan, open_held_out, plan
from clp_core.training.slurm_script import checked_script, read_script, render
from clp_core.workspace import Workspace


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


def submit_train(
    workspace: Workspace, options: TrainOptions, script: str = "", *, planned: TrainPlan | None = None
) -> Job:
    """Plan a training run, check memory and disk, and start it as a job.

    Args:
        workspace: where the run is kept.
        options: what is asked for.
        script: with Slurm, an edited script in place of the one that the options make.
        planned: the plan of these options that a user has seen; without one the run is planned here.

    Raises:
        InputError: model or text cannot be used, memory or disk does not suffice, or Slurm refuses it.
    """
    resolved = options.resolved()
    options = resolved.options
    if options.launcher == "slurm":
        require()
    reference = options.model
    folder = locate(reference)
    if planned is not None:  # its texts may be gone since
        Texts.open(options.text, options.text_field)
        open_held_out(options)
    chosen = planned or plan(resolved, folder, workspace.cache)
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
        command=train_command(resolved.as_given, script if edited else ""),
        name=options.name,
        plan=chosen.to_json(),
        fingerprints=prints | {"eval_text": content_of(Path(arguments["eval_text"]))},
        devices=chosen.devices,
        launcher=options.launcher,
        script=script,
    )


def train_command(options: TrainOptions, edited: str = "") -> str:
    """Return the command that starts a run; an edited script is the file that the run's directory keeps."""
    return command_of(replace(options, script=options.script or (SCRIPT_FILE if edited else "")))


def preview_script(workspace: Workspace, options: TrainOptions) -> str:
    """Return the script that Slurm would get for a run, which is planned and not started.

    Raises:
        InputError: the run is not for Slurm, or would be refused.
    """
    if options.launcher != "slurm":
        raise InputError("--show-script shows what Slurm would get; give --launcher slurm with it")
    chosen = plan(options.resolved(), locate(options.model), workspace.cache)
    return script_of(workspace, options, chosen)[1]


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
