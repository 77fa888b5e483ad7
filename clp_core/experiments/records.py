"""The raw measurements of an experiment: one file a measurement, written once, nothing of this machine in them.

``methods.json``, ``overlap.json``, ``agreement.json`` and ``downstream/ARM-sSEED.json`` hold what the commands of the
same names print; ``runs/ARM-sSEED.jsonl`` is the run's own metrics file, line by line as it was written, and
``runs/ARM-sSEED.json`` its spec, its plan and the report of its transfer.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clp_core import __version__
from clp_core.environment.versions import code_version, versions
from clp_core.errors import InputError
from clp_core.experiments.design import Arm, Design, Run, read_design
from clp_core.experiments.staleness import MADE_BY, run_differs
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.json_files import read_json, write_json
from clp_core.jobs.job import Job
from clp_core.jobs.run_metrics import RunMetrics
from clp_core.reports.licence import replaced
from clp_core.reports.transfer_report import TransferReport
from clp_core.run_comparison.curve import Curve, curve_of_metrics
from clp_core.tokenization.text_reading import SCORING_FILE
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

RUNS, DOWNSTREAM = "runs", "downstream"
SECONDS = 3
"""Column of a curve's points."""
SPEC_PARTS = ("kind", "name", "schema", "arguments", "fingerprints", "versions", "code", "devices")


@dataclass(frozen=True)
class Records:
    """The raw measurements of one experiment.

    Attributes:
        design: the experiment.
    """

    design: Design

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.design.folder

    def file(self, *parts: str) -> Path:
        """Return a file of theirs, which need not be there."""
        return self.folder.joinpath(*parts)

    def has_run(self, run: Run) -> bool:
        """Say whether a run is measured as the experiment asks for it now: its description is written last."""
        told = self.read(RUNS, f"{run.key}.json")
        differs = run_differs(self.design, run, told) if told else []
        if differs:
            log.warning("%s %s is measured with other settings: %s", self.design.name, run.key, ", ".join(differs))
        return bool(told) and not differs

    @cached_property
    def measured_runs(self) -> list[Run]:
        """The runs that are measured."""
        return [run for run in self.design.runs if self.has_run(run)]

    @property
    def mixed_precision(self) -> str:
        """What there is to say where machines chose different precisions for runs that are held against each other."""
        found: dict[str, list[str]] = {}
        for run in self.measured_runs:
            told = self.read(RUNS, f"{run.key}.json")
            if told["arguments"]["precision"] == "auto":
                found.setdefault("bf16" if told["plan"]["bf16"] else "float32", []).append(run.key)
        if len(found) < 2:
            return ""
        kinds = "; ".join(f"{precision}: {', '.join(keys)}" for precision, keys in found.items())
        return f"the machine chose the precision, and not the same for all runs ({kinds}); name one under train:"

    def read(self, *parts: str) -> dict[str, Any]:
        """Return what a file holds, an empty object where it is not there."""
        return read_json(self.file(*parts))

    def write(self, content: Mapping[str, Any], workspace: Workspace, *parts: str) -> None:
        """Write a measurement with what it was made by, and without the paths of this machine."""
        path = self.file(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        made_by = {"clp": __version__, "code": code_version(), "versions": versions()}
        write_json(path, without_paths({**content, MADE_BY: made_by}, self.design, workspace))

    def keep_run(self, run: Run, job: Job, workspace: Workspace) -> None:
        """Keep a finished run: its metrics as they are, then what it was."""
        (self.folder / RUNS).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.metrics_file, self.file(RUNS, f"{run.key}.jsonl"))
        spec = {name: job.spec[name] for name in SPEC_PARTS if name in job.spec}
        content = {
            "arm": run.arm.name,
            "seed": run.seed,
            "command": job.command,
            **spec,
            "plan": job.plan,
            "inputs": read_json(job.path / "inputs.json"),
            "warnings": job.warnings,
            "scoring": read_json(job.path / SCORING_FILE),
            "attempts": job.status().attempt,
            "transfer": read_json(job.path / "companions" / REPORT_FILE),
        }
        self.write(content, workspace, RUNS, f"{run.key}.json")

    def transfer_report(self, run: Run) -> TransferReport | None:
        """Return the report of the transfer that a measured run began with; ``None`` where it began with another model.

        Raises:
            InputError: it is damaged.
        """
        content = self.read(RUNS, f"{run.key}.json").get("transfer")
        if not content:
            return None
        try:
            return TransferReport.of_json(content)
        except ValueError as error:
            raise InputError(
                f"{self.file(RUNS, f'{run.key}.json')} is damaged: the entry {str(error)!r} of its transfer is missing "
                "or of another kind; delete it and run the experiment again"
            ) from error

    def curve(self, run: Run) -> Curve:
        """Return the curve of a measured run."""
        told = self.read(RUNS, f"{run.key}.json")
        metrics = RunMetrics(self.file(RUNS, f"{run.key}.jsonl")).read()
        key, name = f"experiment:{self.design.name}/{run.key}", f"{run.arm.name} ({self.design.name}, seed {run.seed})"
        return curve_of_metrics(key, name, told, metrics, f"experiment {self.design.name}")

    @cached_property
    def curves(self) -> dict[str, list[Curve]]:
        """The curves of every arm that is measured, by seed."""
        found: dict[str, list[Curve]] = {}
        for run in self.measured_runs:
            found.setdefault(run.arm.name, []).append(self.curve(run))
        return found

    @cached_property
    def mean_curves(self) -> list[Curve]:
        """The mean over the seeds of every arm that is measured."""
        found = [self.mean_curve(arm) for arm in self.design.arms]
        return [curve for curve in found if curve is not None]

    @property
    def all_curves(self) -> list[Curve]:
        """The means of the arms, and then all runs."""
        return [*self.mean_curves, *(curve for runs in self.curves.values() for curve in runs)]

    def mean_curve(self, arm: Arm) -> Curve | None:
        """Return the mean over an arm's seeds, at the steps that all of them have; ``None`` without any.

        Its seconds are those of the fastest seed: the others may have shared the machine.
        """
        seeds = self.curves.get(arm.name, [])
        if not seeds:
            return None
        points = {}
        for measure in seeds[0].points:
            every = [curve.points[measure] for curve in seeds]
            steps = sorted(set.intersection(*[set(rows[:, 0]) for rows in every]))
            shared = np.stack([rows[np.isin(rows[:, 0], steps)] for rows in every])
            points[measure] = shared.mean(axis=0)
            points[measure][:, SECONDS] = shared[:, :, SECONDS].min(axis=0)
        first = seeds[0]
        told = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        settings = {name: value for name, value in first.settings.items() if len(seeds) == 1 or name != "seed"}
        key, name = f"experiment:{self.design.name}/{arm.name}", f"{arm.name} ({self.design.name}, {told})"
        return Curve(key, name, points, first.facts, settings, f"{first.origin}, {told}")


def without_paths(content: Mapping[str, Any], design: Design, workspace: Workspace) -> dict[str, Any]:
    """Return a measurement with names in the place of this machine's paths."""
    roots = (
        workspace.models,
        workspace.tokenizers,
        workspace.texts,
        workspace.jobs,
        workspace.root,
        design.file.parent,
        Path.home(),
    )
    named = {f"{root}/": "" for root in roots} | {path: Path(path).name for path in design.paths(workspace)}

    def renamed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {replaced(key, named): renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list | tuple) else replaced(value, named)

    return dict(renamed(content))


def experiments_here() -> Path:
    """Return the folder of the experiments that come with the project, which need not be there."""
    return Path(__file__).resolve().parents[2] / "notebooks" / "experiments"


def saved_experiments() -> list[Records]:
    """Return the experiments that come with the project and of which two arms at least are measured, in their order."""
    return [records for records in described_experiments() if len(records.curves) > 1]


def described_experiments() -> list[Records]:
    """Return the experiments that come with the project, measured or not, in their order."""
    found = [Records(read_design(file)) for file in experiments_here().glob("*.yaml")]
    return sorted(found, key=lambda records: (records.design.order, records.design.name))


def saved_curve(key: str) -> Curve:
    """Return a curve of the experiments that come with the project: the mean of an arm, or one of its runs.

    Args:
        key: ``experiment:NAME/ARM`` or ``experiment:NAME/ARM-sSEED``.

    Raises:
        InputError: there is none.
    """
    for records in described_experiments():
        if not key.startswith(f"experiment:{records.design.name}/") or len(records.curves) < 2:
            continue  # the curves of the others need not be read
        for curve in records.all_curves:
            if curve.key == key:
                return curve
    known = [curve.key for records in saved_experiments() for curve in records.mean_curves]
    raise InputError(f"there is no curve {key}; there are {', '.join(known)}" if known else f"there is no curve {key}")
