"""Metrics of a run: lines of loss and lines of evaluation."""

from __future__ import annotations

import math
from typing import Any

from clp_core.training.distributed import is_first
from clp_core.training.divergence import DivergenceGuard
from clp_core.training.step_losses import StepLosses
from clp_core.training.telemetry import RunTelemetry, Stopwatch, system_figures


class RunRecorder:
    """Writes the metrics of a run. All processes call it alike, as losses are means over them; the first one writes."""

    def __init__(
        self, telemetry: RunTelemetry, losses: StepLosses, stopwatch: Stopwatch, guard: DivergenceGuard
    ) -> None:
        """Record the losses of a run beside its speed.

        Args:
            telemetry: the run's plan and its metrics.jsonl.
            losses: of the steps since the last line.
            stopwatch: the speed between lines.
            guard: refuses what is not finite.
        """
        self._telemetry, self._losses, self._stopwatch, self._guard = telemetry, losses, stopwatch, guard
        self._rates = (math.nan, math.nan)
        self.scores: dict[int, dict[str, float]] = {}
        """Figures of each evaluation of this attempt, by step."""

    def note_rates(self, step: int) -> None:
        """Remember the learning rates of a step that is just done, ``step`` counted from 0."""
        self._rates = self._telemetry.rates(step)

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether a line of loss is due after a step, counted from 1."""
        return step == 1 or step % self._telemetry.plan.loss_every == 0 or step == last_step

    def check_losses(self, step: int) -> None:
        """Check the losses since the last line, before anything is saved.

        Raises:
            DivergedError: one is not finite.
        """
        self._guard.check_losses(self._losses.means(), step)

    def record_losses(self, step: int, last_step: int, logs: dict[str, Any]) -> dict[str, float]:
        """Write the line of loss if it is due: the mean of the steps since the last line.

        Args:
            step: the step that is just done, counted from 1.
            last_step: number of steps of the run.
            logs: what the Trainer reports; its ``grad_norm`` is used.

        Returns:
            The figures of the line; empty where none is due.

        Raises:
            DivergedError: the gradient is not finite.
        """
        norm = float(logs.get("grad_norm", math.nan))
        if "grad_norm" in logs:
            self._guard.check_gradient(norm, step)
        if not self.is_due(step, last_step):
            return {}
        losses = self._losses.means()
        self._losses.clear()
        telemetry = self._telemetry
        figures = {"loss": sum(losses) / len(losses), "grad_norm": norm}
        figures |= dict(zip(("lr", "lr_embeddings"), self._rates, strict=True))
        if telemetry.plan.teacher:
            figures["teacher_weight"] = telemetry.teacher_weight(step - 1)
        figures |= self._stopwatch.lap(step) | system_figures(telemetry.plan.device)
        utilisation = telemetry.utilisation(figures["tokens_per_s"]) if "tokens_per_s" in figures else None
        figures |= {"mfu": utilisation} if utilisation is not None else {}
        if is_first():
            telemetry.write(step, **figures)
        return figures

    def record_evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write the line of an evaluation; only the first process calls this."""
        self.scores[step] = scores
        self._telemetry.write(step, **scores)
