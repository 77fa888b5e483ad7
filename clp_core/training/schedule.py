"""Learning rates by step: one stage or two, each with its own rates for the embeddings and for the body.

A stage warms up linearly and falls on a cosine to a share of its peak. A rate of 0 means that the parameters are
frozen: they get no gradient, no weight decay and no optimiser state. Needs no torch, so that pages can draw the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEDULES = ("plain", "two-stage", "new-rows")
ALL_ROWS, MISSING_ROWS = "all", "missing"


@dataclass(frozen=True)
class Stage:
    """Some steps of a run.

    Attributes:
        name: what trains in it.
        steps: how many steps it has.
        body_rate: peak rate of all that is no embedding; 0 freezes it.
        embedding_rate: peak rate of the input and output embeddings.
        warmup_steps: steps until the peak.
        final_share: share of the peak that is left at the end.
        rows: ``all`` rows of the embeddings train, or those of ``missing`` tokens alone.
    """

    name: str
    steps: int
    body_rate: float
    embedding_rate: float
    warmup_steps: int
    final_share: float
    rows: str = ALL_ROWS

    @property
    def told(self) -> str:
        """The stage in words."""
        if self.body_rate == self.embedding_rate:
            rates = f"rate {self.body_rate:g}"
        elif not self.body_rate:
            rates = f"rate {self.embedding_rate:g}"
        else:
            rates = f"rate {self.body_rate:g}, embeddings {self.embedding_rate:g}"
        return f"{self.name} for {self.steps:,} steps, {rates}"

    def factor(self, step: int) -> float:
        """Return the share of the peak at a step of this stage, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        falling = max(self.steps - self.warmup_steps, 1)
        progress = min(1.0, (step - self.warmup_steps) / falling)
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Schedule:
    """The stages of a run, in order."""

    stages: tuple[Stage, ...]

    @classmethod
    def of_json(cls, stages: Iterable[Mapping[str, Any]]) -> Schedule:
        """Return the schedule that ``as_json`` gave."""
        return cls(tuple(Stage(**stage) for stage in stages))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the stages as plain objects."""
        return [asdict(stage) for stage in self.stages]

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def told(self) -> str:
        """The stages in words."""
        return "; ".join(stage.told for stage in self.stages)

    @property
    def trains_missing_rows_alone(self) -> bool:
        """Whether in any stage only rows of missing tokens train."""
        return any(stage.rows == MISSING_ROWS for stage in self.stages)

    @property
    def freezes(self) -> bool:
        """Whether in any stage parameters or rows do not train."""
        return self.trains_missing_rows_alone or any(not s.body_rate or not s.embedding_rate for s in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """Return the stage that a step belongs to, and the step's number in it, both counted from 0."""
        for stage in self.stages[:-1]:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], step

    def rates(self, step: int) -> tuple[float, float]:
        """Return the rates of body and embeddings at a step, counted from 0."""
        stage, within = self.stage_at(step)
        factor = stage.factor(within)
        return stage.body_rate * factor, stage.embedding_rate * factor


def teacher_weight(step: int, steps: int, first: float, share: float) -> float:
    """Return a teacher's part in the loss of a step: falls linearly from ``first`` to 0 over a share of the steps.

    Args:
        step: counted from 0.
        steps: of the whole run.
        first: the part at the first step.
        share: of the steps, above 0.
    """
    return first * max(0.0, 1.0 - step / (share * steps))


def plain(steps: int, rate: float, embedding_rate: float, warmup_share: float, final_share: float) -> Schedule:
    """Return the schedule of one stage in which everything trains."""
    stage = Stage("everything", steps, rate, embedding_rate, math.ceil(warmup_share * steps), final_share)
    return Schedule((stage,))


def staged(
    steps: int,
    first_steps: int,
    first_rate: float,
    rate: float,
    embedding_rate: float,
    warmup_share: float,
    final_share: float,
    *,
    rows: str,
) -> Schedule:
    """Return a schedule whose first stage trains embeddings alone, or only their missing rows; then everything trains.

    With ``first_steps`` equal to ``steps`` there is no second stage.
    """
    name = "embeddings alone" if rows == ALL_ROWS else "missing rows alone"
    warmup = math.ceil(warmup_share * first_steps)
    first = Stage(name, first_steps, 0.0, first_rate, warmup, final_share, rows)
    if first_steps >= steps:
        return Schedule((first,))
    return Schedule((first, *plain(steps - first_steps, rate, embedding_rate, warmup_share, final_share).stages))
