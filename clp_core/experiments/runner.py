"""Do an experiment: what is not measured yet runs as ordinary jobs, and its measurements are kept one by one.

A ledger in the workspace says which job is which run, so the command may be ended at any time: jobs go on without it,
and the next call takes up what is there. A run that stopped, failed or was lost is resumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from clp_core.errors import ClpError, InputError
from clp_core.experiments.design import Design, Run
from clp_core.experiments.records import Records
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.hashing import content_of, fingerprint
from clp_core.files.json_files import read_state, write_json
from clp_core.hub.resolve import locate
from clp_core.jobs.job import Job
from clp_core.jobs.store import JobStore
from clp_core.progress import report_progress
from clp_core.submission import submit_transfer
from clp_core.training.options import TrainOptions
from clp_core.training.submit import resume, submit_train
from clp_core.training.teacher import HELPER
from clp_core.transfer.options import TransferOptions
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

POLL_S = 2.0
LEDGER = "experiments"


@dataclass(frozen=True)
class Runner:
    """The runs of one experiment in one workspace.

    Attributes:
        design: the experiment.
        workspace: where its models and jobs are.
    """

    design: Design
    workspace: Workspace

    @property
    def records(self) -> Records:
        """Where the measurements go."""
        return Records(self.design)

    @property
    def ledger(self) -> Path:
        """The file that says which job is which run."""
        return self.workspace.root / LEDGER / f"{self.design.name}.json"

    @property
    def left(self) -> list[Run]:
        """The runs that are not measured yet."""
        records = self.records
        return [run for run in self.design.runs if not records.has_run(run)]

    def run_all(self, limit: int = 0) -> list[str]:
        """Do the runs that are not measured yet, and keep each as it ends.

        Args:
            limit: do no more than so many; 0 for all.

        Returns:
            What went wrong, a line a run.

        Raises:
            InputError: a model or a text of the experiment is not there, or a run cannot be planned.
        """
        wanted = self.left[:limit] if limit else self.left
        targets = self.make_targets(wanted)
        jobs = {run.key: self.start(run, targets[self.target_name(run)]) for run in wanted}
        return list(self.follow({run.key: run for run in wanted}, jobs))

    def target_name(self, run: Run) -> str:
        """Return what a run's target model is called: arms with the same method share it, other pairs never do.

        Raises:
            InputError: source or helper is not there.
        """
        asked = f"{run.arm.method}\0{self.pair}"
        method = run.arm.method.partition(":")[0]
        return f"{self.design.name}-{method}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}-s{run.seed}"

    @cached_property
    def pair(self) -> str:
        """Source and helper by their content, and how their tokens are compared.

        Raises:
            InputError: one of them is not there.
        """
        design, space = self.design, self.workspace
        return "\0".join(
            [*(fingerprint(locate(design.model(name, space))) for name in (design.source, design.helper)), design.match]
        )

    def make_targets(self, runs: list[Run]) -> dict[str, Path]:
        """Make the target models that are not there yet, one job at a time; return all by name.

        Raises:
            ClpError: a transfer failed.
        """
        by_name = {self.target_name(run): run for run in runs}
        targets = {name: self.workspace.models / name for name in by_name}
        missing = [name for name, target in targets.items() if not (target / REPORT_FILE).is_file()]
        for i, name in enumerate(missing):
            job = submit_transfer(self.workspace, self.transfer_options(by_name[name], targets[name]))
            while not job.status().is_over:
                report_progress("making the target models", i / len(missing))
                time.sleep(POLL_S)
            if job.status().state != "finished":
                raise ClpError(f"the transfer {job.id} {job.status().state}: {job.status().reason}")
        return targets

    def transfer_options(self, run: Run, output: Path) -> TransferOptions:
        """Return what the transfer of a run is asked to do."""
        method, *settings = run.arm.method.split(":")
        return TransferOptions(
            source=self.design.model(self.design.source, self.workspace),
            helper=self.design.model(self.design.helper, self.workspace),
            output=str(output),
            method=method,
            setting=tuple(settings),
            match=self.design.match,
            seed=run.seed,
        )

    def start(self, run: Run, target: Path) -> Job:
        """Return the job of a run: the one that is under way or done, one that is resumed, or a new one."""
        options = self.design.train_options(run, target, self.workspace)
        digest = digest_of(options)
        known = read_state(self.ledger).get(run.key, {})
        if known.get("options") == digest:
            try:
                job = JobStore(self.workspace.jobs).get(known["job"])
            except InputError:
                log.info("the job of %s is gone; it runs again", run.key)
            else:
                is_cut = job.status().is_over and job.status().state != "finished"
                return resume(self.workspace, job) if is_cut else job
        job = submit_train(self.workspace, options)
        entry = {run.key: {"job": job.id, "options": digest}}
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.ledger, read_state(self.ledger) | entry, durable=True)
        return job

    def follow(self, runs: dict[str, Run], jobs: dict[str, Job]) -> Iterator[str]:
        """Wait for jobs, keep what the finished ones measured, and yield what went wrong."""
        left, total = dict(jobs), len(jobs)
        while left:
            for key, job in list(left.items()):
                status = job.status()
                if not status.is_over:
                    continue
                del left[key]
                if status.state == "finished":
                    self.records.keep_run(runs[key], job, self.workspace)
                    log.info("%s is measured: %d of %d", key, total - len(left), total)
                else:
                    yield f"{key}: {job.id} {status.state}: {status.reason}"
            if left:
                report_progress("training the runs", 1 - len(left) / total)
                time.sleep(POLL_S)


def digest_of(options: TrainOptions) -> str:
    """Return a short name for what a run is asked: its options, its models and texts as they are now."""
    asked = asdict(options)
    read = [locate(model) for model in (options.model, options.teacher) if model not in ("", HELPER)]
    asked["models"] = [fingerprint(folder) for folder in read]
    asked["texts"] = [content_of(path) for path in map(Path, (*options.text, options.eval_text)) if path.is_file()]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
