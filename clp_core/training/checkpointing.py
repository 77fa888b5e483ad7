"""Checkpoints of a run: completed, sealed, and the older ones removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from clp_core.files.json_files import write_json
from clp_core.jobs.job import Job
from clp_core.jobs.training_checkpoints import RUN_STATE_FILE, keep_only, seal
from clp_core.training.companion_files import complete_folder


class CheckpointSealer:
    """Turns what the Trainer has written into a checkpoint that can be trusted; only the first process seals."""

    def __init__(self, job: Job, companions: Path, keep_last: int, *, keep_best: bool) -> None:
        """Seal the checkpoints of a job.

        Args:
            job: the run.
            companions: folder whose files every checkpoint gets: tokenizer, provenance and report.
            keep_last: how many of the newest checkpoints to keep.
            keep_best: whether to keep the one with the least bits per byte too.
        """
        self._job, self._companions, self._keep_last, self._keep_best = job, companions, keep_last, keep_best

    def seal(
        self, folder: Path, step: int, seconds: float, losses: Sequence[float], scores: Mapping[str, float]
    ) -> None:
        """Complete a checkpoint with its companions and the state that a resume needs, seal it, and remove older ones.

        Args:
            folder: ``checkpoint-<step>``, as the Trainer has written it.
            step: steps done.
            seconds: of training so far.
            losses: of the steps since the last line, in nats per token.
            scores: figures of the evaluation at this step; those that are not finite are left out.
        """
        complete_folder(folder, self._companions, step)
        write_json(folder / RUN_STATE_FILE, {"step": step, "seconds": seconds, "losses": list(losses)})
        seal(folder, {key: value for key, value in scores.items() if math.isfinite(value)})
        self._job.add_event("checkpoint", step=step, path=str(folder))
        for removed in keep_only(folder.parent, self._keep_last, best=self._keep_best):
            self._job.add_event("checkpoint removed", path=str(removed))
