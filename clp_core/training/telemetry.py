"""What a run measures of itself: its lines of metrics, its speed, and what it takes of the machine."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import psutil
import torch

from clp_core.data.block_datasets import Blocks
from clp_core.jobs.job import PLAN_FILE, Job
from clp_core.jobs.metrics import MetricsWriter
from clp_core.training.peaks import peak_flops
from clp_core.training.plan import TrainPlan, evaluation_rhythm
from clp_core.training.schedule import Schedule, teacher_weight

STEPS_TO_MEASURE = 4
PROCESS = psutil.Process()


class RunTelemetry:
    """Telemetry of a run: the plan in force, the seconds of training, and the lines of metrics.jsonl."""

    def __init__(self, job: Job, plan: TrainPlan, blocks: Blocks, attempt: int = 1) -> None:
        """Take the run, its settings, its training text, and how often the run was started, from 1."""
        self.job, self.blocks, self.attempt = job, blocks, attempt
        self.seconds_before = 0.0
        """Seconds of training until the checkpoint that this attempt goes on from."""
        self.is_fitted = not plan.minutes or (job.path / PLAN_FILE).is_file()
        """Whether the number of steps is settled: that of a run by time is, once some steps were telemetry."""
        self._peak = plan.peak_flops
        if self._peak is None and plan.device == "cuda" and not plan.devices:  # a cluster's, not known before
            self._peak = peak_flops(torch.cuda.get_device_name(), bf16=plan.bf16)
        self._began = time.monotonic()
        self._writer: MetricsWriter | None = None
        self._take(plan)

    def _take(self, plan: TrainPlan) -> None:
        self.plan = plan
        self.schedule: Schedule = plan.schedule

    def settle(self, plan: TrainPlan) -> None:
        """Take the plan whose steps fit into the time of the run."""
        self._take(plan)
        self.is_fitted = True

    def teacher_weight(self, step: int) -> float:
        """Return the teacher's part in the loss of a step, counted from 0; 0 without one."""
        if not self.plan.teacher:
            return 0.0
        options = self.job.spec["arguments"]
        return teacher_weight(step, self.plan.steps, options["teacher_weight"], options["teacher_share"])

    def rates(self, step: int) -> tuple[float, float]:
        """Return the rates of body and embeddings at a step, counted from 0."""
        return self.schedule.rates(step)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, evaluations and checkpoints included, what was lost with a crash not."""
        return self.seconds_before + time.monotonic() - self._began

    def utilisation(self, tokens_per_s: float) -> float | None:
        """Return the share of the devices' peak that a speed takes (MFU); ``None`` where the peak is not known."""
        if not self._peak:
            return None
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        return tokens_per_s * self.plan.flops_per_token / (self._peak * processes)

    def write(self, step: int, **figures: Any) -> None:
        """Append a line to metrics.jsonl; what is not finite becomes null."""
        if self._writer is None:
            self._writer = MetricsWriter(self.job.metrics_file)
        tokens = step * self.plan.step_tokens
        line: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "bytes": round(tokens * self.blocks.bytes_per_token),
            "seconds": round(self.seconds, 3),
            "time": time.time(),
            "attempt": self.attempt,
        }
        self._writer.write(line | {key: value if math.isfinite(value) else None for key, value in figures.items()})

    def finish(self) -> None:
        """Write the lines that a full disk did not take.

        Raises:
            OSError: it still does not.
        """
        if self._writer is not None:
            self._writer.flush()


class Stopwatch:
    """How fast training is, evaluations and checkpoints left out."""

    def __init__(self, step_tokens: int) -> None:
        """Begin before the first step."""
        self._step_tokens = step_tokens
        self._began: float | None = None
        self._step = 0
        self.step_seconds = 0.0
        self.longest = {"evaluation": 0.0, "save": 0.0}
        self.last = {"evaluation": 0.0, "save": 0.0}
        self._seen: list[float] = []
        self._left_out = 0.0

    def leave_out(self, seconds: float, what: str) -> None:
        """Take what was no training, an ``evaluation`` or a ``save``, out of the lap."""
        self.last[what] = seconds
        self.longest[what] = max(self.longest[what], seconds)
        self._left_out += seconds
        if self._began is not None:
            self._began += seconds

    def pure_step_seconds(self) -> float | None:
        """Note that a step is done; return the mean seconds of all but the first, ``None`` before there are three."""
        self._seen.append(time.monotonic() - self._left_out)
        if len(self._seen) < STEPS_TO_MEASURE:
            return None
        return (self._seen[-1] - self._seen[0]) / (len(self._seen) - 1)

    def lap(self, step: int) -> dict[str, float]:
        """Return the tokens/s since the last lap; nothing at the first, whose steps include what happens only once."""
        now, figures = time.monotonic(), {}
        if self._began is not None and step > self._step:
            seconds = max(now - self._began, 1e-9)
            self.step_seconds = seconds / (step - self._step)
            figures["tokens_per_s"] = self._step_tokens / self.step_seconds
        self._began, self._step = now, step
        return figures


def steps_that_fit(seconds: float, step_seconds: float, evaluation_seconds: float, eval_every: int) -> int:
    """Return how many steps fit into a time together with the evaluations among them; one at least.

    Args:
        seconds: what is left.
        step_seconds: of one step.
        evaluation_seconds: of one evaluation.
        eval_every: steps between evaluations; 0 where the number of steps decides it.
    """

    def needed(steps: int) -> float:
        evaluations = math.ceil(steps / (eval_every or evaluation_rhythm(steps)))
        return steps * step_seconds + evaluations * evaluation_seconds

    low, high = 1, max(1, int(seconds / max(step_seconds, 1e-9)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle) <= seconds else (low, middle - 1)
    return low


def system_figures(device: str) -> dict[str, float]:
    """Measure this process's memory in bytes, on a GPU its peak, and the share of the device that is busy with it.

    Args:
        device: ``cuda`` or ``cpu``, on which the run trains; on a GPU the driver counts all that runs there as busy.
    """
    if device == "cuda":
        figures = {"memory": float(torch.cuda.max_memory_allocated())}
        try:
            figures["busy"] = torch.cuda.utilization() / 100
        except (RuntimeError, ModuleNotFoundError):  # some drivers do not tell
            return figures
        return figures
    busy = PROCESS.cpu_percent() / 100 / (psutil.cpu_count() or 1)
    return {"memory": float(PROCESS.memory_info().rss), "busy": busy}
