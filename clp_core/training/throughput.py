"""How fast runs have been, evaluations and checkpoints included, from their own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clp_core.jobs.job import Job
from clp_core.jobs.metrics import read_tail
from clp_core.training.plan import TrainPlan

RUNS = 3
LEAST_STEPS = 20


@dataclass(frozen=True)
class RunScale:
    """Scale of a run: what its speed depends on, for a run on this machine in one process."""

    parameters: int
    device: str
    processes: int = 1
    devices: tuple[str, ...] = ("one",)


def pace(tokens: float, seconds: float) -> float | None:
    """Return tokens a second of training, or ``None`` where nothing is known yet."""
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def measured_speeds(jobs: Iterable[Job], plan: TrainPlan | RunScale) -> list[float]:
    """Return the tokens/s of the newest runs, three at most, with as many parameters on the same kind of place.

    They are those of the last lines of each run, 20 steps at least, so what it spends on evaluations and checkpoints
    is in them, and what it spends on its start is not.
    """
    found: list[float] = []
    for job in jobs:
        earlier = job.spec.get("plan", {})
        if earlier.get("parameters") == plan.parameters and place_in(earlier) == place_in(asdict(plan)):
            lines = [line for line in read_tail(job.metrics_file) if "loss" in line]
            if lines and lines[-1]["step"] - lines[0]["step"] >= LEAST_STEPS:
                first, last = lines[0], lines[-1]
                speed = pace(last["tokens"] - first["tokens"], last["seconds"] - first["seconds"])
                found += [speed] if speed is not None else []
        if len(found) == RUNS:
            break
    return found


def place_in(plan: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides how fast a plan's run is: kind of device, number of processes, whether on a cluster."""
    return plan.get("device"), plan.get("processes", 1), not plan.get("devices")


def seconds_left(job: Job, step: int, seconds: float) -> float | None:
    """Return how long a run will go on at its pace so far; ``None`` where it is not known."""
    steps = job.plan.get("steps")
    if steps is None or step <= 0 or seconds <= 0:
        return None
    return float((steps - step) * seconds / step)
