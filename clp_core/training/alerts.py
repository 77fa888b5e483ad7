"""What a reader of a run should be told without looking for it."""

from __future__ import annotations

import shutil

import numpy as np

from clp_core.jobs.job import Job
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.run_metrics import RunMetrics
from clp_core.jobs.status import Status
from clp_core.training.plan import CHECKPOINT_BYTES_PER_PARAMETER

EXPLODING_FACTOR, EXPLODING_NATS = 1.3, 0.5
"""The last lines of loss are all so much above the least one, as a factor and in nats."""
SPIKE_FACTOR = 20.0
"""The last gradient is so much longer than the median one."""
WORSE_SHARE = 0.003
"""The last two evaluations are both worse than the best one by this share of it."""
LAST_LINES = 3
MIN_LINES = 10


def alerts_of(job: Job, status: Status, metrics: RunMetrics) -> list[str]:
    """Return what is wrong with a run or may soon be, one sentence each; an empty list if nothing is."""
    found = [told for told in (stalled(status), exploding(metrics), spike(metrics), getting_worse(metrics)) if told]
    found += [f"{told}." for told in job.warnings]
    if not status.is_over and (told := disk_too_small(job)):
        found.append(told)
    return found


def stalled(status: Status) -> str | None:
    """Tell of a living process that has not given a sign for longer than it said."""
    if status.state in ("running", "stopping") and status.reason_code == ReasonCode.NO_SIGN:
        return f"Stalled: {status.reason}. Its process lives; look at the log, or end it and resume."
    return None


def exploding(metrics: RunMetrics) -> str | None:
    """Tell of a loss that is far above its least value."""
    points = metrics.points("loss")
    if len(points) < MIN_LINES:
        return None
    best, last = points[points[:, -1].argmin()], points[-LAST_LINES:, -1].min()
    if last > EXPLODING_FACTOR * best[-1] and last > best[-1] + EXPLODING_NATS:
        return f"The training loss explodes: {last:.3g} now, {best[-1]:.3g} at step {best[0]:.0f}."
    return None


def spike(metrics: RunMetrics) -> str | None:
    """Tell of a gradient that is far longer than usual."""
    points = metrics.points("grad_norm")
    if len(points) < MIN_LINES:
        return None
    usual = float(np.median(points[:, -1]))
    if points[-1, -1] > SPIKE_FACTOR * usual > 0:
        return f"The gradient is {points[-1, -1] / usual:.0f} times as long as usual at step {points[-1, 0]:.0f}."
    return None


def getting_worse(metrics: RunMetrics) -> str | None:
    """Tell of a held-out text that is predicted worse and worse."""
    points = metrics.points("bits_per_byte")
    if len(points) < LAST_LINES:
        return None
    best = points[points[:, -1].argmin()]
    if (points[-2:, -1] > best[-1] * (1 + WORSE_SHARE)).all() and points[-1, -1] >= points[-2, -1]:
        now = f"{points[-1, -1]:.4f} now"
        return f"The held-out text gets worse: {best[-1]:.4f} bits per byte at step {best[0]:.0f}, {now}."
    return None


def disk_too_small(job: Job) -> str | None:
    """Tell of a disk that has no room for the next checkpoint."""
    needed = CHECKPOINT_BYTES_PER_PARAMETER * int(job.spec.get("plan", {}).get("parameters", 0))
    free = shutil.disk_usage(job.path).free
    if free < needed:
        return (
            f"The next checkpoint needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: the run will fail on it."
        )
    return None
