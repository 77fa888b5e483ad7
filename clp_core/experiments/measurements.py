"""What an experiment measures beside its runs, by the commands that anybody would type."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clp_core.errors import ClpError, InputError
from clp_core.experiments.design import Design
from clp_core.experiments.records import DOWNSTREAM, Records
from clp_core.experiments.runner import Runner
from clp_core.experiments.staleness import measure_differs
from clp_core.files.json_files import read_state
from clp_core.jobs.store import JobStore
from clp_core.options import arguments_of
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measure:
    """One measurement.

    Attributes:
        file: where it is kept, below the experiment's folder.
        commands: what is measured, by name: the arguments of ``clp``.
    """

    file: tuple[str, ...]
    commands: dict[str, list[str]]


def measures_of(design: Design, workspace: Workspace) -> Iterator[Measure]:
    """Yield the measurements that an experiment asks for and that can be made by now."""
    if design.methods is not None:
        options = CompareMethodsOptions(
            design.model(design.source, workspace),
            design.model(design.helper, workspace),
            match=design.match,
            text=design.text(design.eval_text, workspace),
            folds=design.methods.folds,
            methods=",".join(design.methods.names),
        )
        yield Measure(("methods.json",), {"methods": [*options.COMMAND, *arguments_of(options)]})
    if design.overlap is not None:
        tokenizers = [design.model(name, workspace) for name in design.overlap.tokenizers]
        yield Measure(("overlap.json",), {"overlap": ["overlap", *tokenizers, "--match", design.overlap.match]})
    if design.agreement:
        models = {f"{one} and {other}": (one, other) for one, other in design.agreement}
        commands = {
            name: ["agreement", *(design.model(model, workspace) for model in pair)] for name, pair in models.items()
        }
        yield Measure(("agreement.json",), commands)
    if design.evaluate:
        text = design.text(design.eval_text, workspace)
        scored = {name: ["evaluate", design.model(name, workspace), "--text", text] for name in design.evaluate}
        yield Measure(("evaluate.json",), scored)
    if design.downstream is not None:
        yield from downstream_of(design, workspace)


def downstream_of(design: Design, workspace: Workspace) -> Iterator[Measure]:
    """Yield what is measured of the finished runs, before and after training."""
    asked = design.downstream
    if asked is None:
        return
    runner, store = Runner(design, workspace), JobStore(workspace.jobs)
    ledger = read_state(runner.ledger)
    arguments = ["--text", design.text(design.eval_text, workspace), "--questions", str(asked.questions)]
    words = design.text(asked.words, workspace) if asked.words else ""
    if words and not Path(words).is_file():
        log.warning("%s is not among the texts of the workspace: word pairs are left out", words)
    elif words:
        arguments += ["--words", words, "--source", design.model(design.source, workspace)]
    for run in runner.records.measured_runs:
        if run.arm.name not in (asked.arms or [arm.name for arm in design.arms]) or run.key not in ledger:
            continue
        try:
            checkpoints = store.get(ledger[run.key]["job"]).checkpoints()
        except InputError:
            checkpoints = []
        if not checkpoints:
            if not runner.records.file(DOWNSTREAM, f"{run.key}.json").is_file():
                log.warning("the checkpoints of %s are gone: nothing is measured downstream of it", run.key)
            continue
        models = {"before": workspace.models / runner.target_name(run), "after": checkpoints[-1]}
        commands = {name: ["downstream", str(model), *arguments] for name, model in models.items()}
        yield Measure((DOWNSTREAM, f"{run.key}.json"), commands)


def measure_all(design: Design, workspace: Workspace) -> int:
    """Make the measurements that are not there yet, or that were asked for otherwise; return how many.

    Raises:
        ClpError: a command failed; what was measured before stays.
    """
    records, made = Records(design), 0
    for measure in measures_of(design, workspace):
        told = records.read(*measure.file)
        if told and not measure_differs(measure.commands, told):
            continue
        if told:
            log.warning("%s is of other settings; it is measured again", records.file(*measure.file))
        content = {
            name: {"command": shlex.join(["clp", *arguments]), "result": result_of(arguments)}
            for name, arguments in measure.commands.items()
        }
        records.write(content, workspace, *measure.file)
        made += 1
    return made


def result_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a ``clp`` command and return the object that it prints; its progress goes to stderr.

    Raises:
        ClpError: it failed.
    """
    command = [sys.executable, "-m", "clp_core", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise ClpError(f"`{shlex.join(['clp', *arguments])}` failed; what it said stands above")
    return dict(json.loads(lines[-1]))
