"""Divergence of a run: losses, gradients and scores that are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clp_core.errors import DivergedError
from clp_core.jobs.job import Job
from clp_core.jobs.training_checkpoints import step_of


class DivergenceGuard:
    """Ends a run whose numbers are not finite, and names the step and what is left to continue from."""

    def __init__(self, job: Job) -> None:
        """Guard the run of a job, whose checkpoints the message names."""
        self._job = job

    def check_losses(self, losses: Sequence[float], last_step: int) -> None:
        """Check the losses of consecutive steps.

        Args:
            losses: one per step, in nats per token.
            last_step: the step of the last one.

        Raises:
            DivergedError: one is not finite.
        """
        first_step = last_step - len(losses) + 1
        for step, loss in enumerate(losses, first_step):
            if not math.isfinite(loss):
                raise self.error(f"the loss is {non_finite_name(loss)} at step {step}")

    def check_gradient(self, norm: float, step: int) -> None:
        """Check the norm of a step's gradient.

        Raises:
            DivergedError: it is not finite.
        """
        if not math.isfinite(norm):
            raise self.error(f"the gradient is {non_finite_name(norm)} at step {step}")

    def error(self, problem: str) -> DivergedError:
        """Describe a problem, the newest checkpoint and the cure."""
        kept = self._job.checkpoints()
        newest = f"the newest checkpoint is that of step {step_of(kept[-1])}" if kept else "nothing is kept"
        return DivergedError(f"{problem}; {newest}; a smaller learning rate or a longer warm-up may help")


def non_finite_name(value: float) -> str:
    """Name of a number that is not finite."""
    return "not a number (NaN)" if math.isnan(value) else "infinite"
