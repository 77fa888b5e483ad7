"""How fast runs have been, from their own metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from clp_core.jobs.job import Job
from clp_core.jobs.metrics import read_tail
from clp_core.training_plan import TrainPlan

LINES = 20


def measured_speed(jobs: Iterable[Job], plan: TrainPlan) -> float | None:
    """Return the tokens/s of the newest run with as many parameters on the same kind of device, or ``None``.

    It is the median over the run's last lines of loss; evaluations are not in it.
    """
    for job in jobs:
        earlier = job.spec.get("plan", {})
        if earlier.get("parameters") == plan.parameters and earlier.get("device") == plan.device:
            speeds = [line["tokens_per_s"] for line in read_tail(job.metrics_file) if line.get("tokens_per_s")]
            if speeds:
                return float(statistics.median(speeds[-LINES:]))
    return None


def seconds_left(job: Job, step: int, speed: float | None) -> float | None:
    """Return how long a run will go on at a speed, evaluations not counted; ``None`` where it is not known."""
    plan = job.spec.get("plan", {})
    if not speed or not plan:
        return None
    return float((plan["steps"] - step) * plan["block_length"] * plan["step_blocks"] / speed)
