"""Signs of life of a training process, and how long the next one may take."""

from __future__ import annotations

from clp_core.progress import HEART
from clp_core.training.telemetry import Stopwatch

FIRST_STEPS_EXPECT_S = 600.0
MIN_EXPECT_S = 15.0
SLACK = 10
"""How many times longer than measured a step, an evaluation or a save may take before a page says "no sign"."""


class StepHeartbeat:
    """Writes heartbeat.json after each step; only the first process does."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        """Expect what the stopwatch has measured."""
        self._stopwatch = stopwatch
        self._took_longer = False

    def expected_seconds(self, *, evaluates: bool, saves: bool) -> float:
        """Seconds until the next sign; ten minutes while a part of them is not measured yet."""
        watch = self._stopwatch
        extra = [watch.longest["evaluation"]] * evaluates + [watch.longest["save"]] * saves
        if not (watch.step_seconds and all(extra)):
            return FIRST_STEPS_EXPECT_S
        return max(MIN_EXPECT_S, SLACK * (watch.step_seconds + sum(extra)))

    def beat(self, step: int, max_steps: int, *, evaluates: bool, saves: bool) -> None:
        """Write a sign of life.

        Args:
            step: steps done.
            max_steps: number of steps of the run.
            evaluates: whether an evaluation follows.
            saves: whether a checkpoint follows.
        """
        is_longer = evaluates or saves
        HEART.beat(
            "training",
            step / max(max_steps, 1),
            step=step,
            expect_next_s=self.expected_seconds(evaluates=evaluates, saves=saves),
            force=is_longer or self._took_longer,
        )
        self._took_longer = is_longer
