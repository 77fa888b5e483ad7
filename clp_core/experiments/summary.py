"""The tables of an experiment, computed from its raw measurements and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clp_core.experiments.design import Arm
from clp_core.experiments.records import Records
from clp_core.reports.transfer_report import TransferReport
from clp_core.run_comparison.curve import Curve
from clp_core.run_comparison.tokens_saved import Comparison, Saving

MEASURE = "bits_per_byte"


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def low(self) -> float:
        """The least of them."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest of them."""
        return max(self.values)

    def told(self, form: str, unit: str = "") -> str:
        """Return the mean, and with several seeds the range, in a format such as ``.3f``."""
        if len(self.values) == 1:
            return f"{shown(self.mean, form)}{unit}"
        return f"{shown(self.mean, form)}{unit} ({shown(self.low, form)} to {shown(self.high, form)})"


@dataclass(frozen=True)
class Reached:
    """How an arm stands against a baseline, each seed against the baseline's run of the same seed.

    Attributes:
        baseline: name of the baseline.
        savings: one a seed.
    """

    baseline: str
    savings: tuple[Saving, ...]

    @property
    def tokens(self) -> Spread | None:
        """Tokens to the baseline's best score; ``None`` where a seed never got there."""
        at = [saving.run_at for saving in self.savings]
        reached = tuple(crossing.tokens for crossing in at if crossing is not None and crossing.reached)
        return Spread(reached) if len(reached) == len(self.savings) else None

    @property
    def share(self) -> Spread | None:
        """Tokens saved as a share of what the baseline needs to its best score; ``None`` where a seed never got there.

        Negative where more were needed.
        """
        shares = [saving.share() for saving in self.savings]
        known = tuple(share for share in shares if share is not None)
        return Spread(known) if known and len(known) == len(self.savings) else None


@dataclass(frozen=True)
class ArmSummary:
    """One row of an experiment's table.

    Attributes:
        arm: the arm.
        curves: its runs, by seed.
        heldout: centred cosine and relative error on hidden anchors, where the transfer measured them.
        reached: how it stands against every baseline.
        seconds: of training, evaluations and checkpoints included.
    """

    arm: Arm
    curves: tuple[Curve, ...]
    heldout: tuple[Spread, Spread] | None
    reached: tuple[Reached, ...]
    seconds: Spread

    @property
    def first(self) -> Spread:
        """Bits per byte before training."""
        return Spread(tuple(float(curve.points[MEASURE][0, -1]) for curve in self.curves))

    @property
    def best(self) -> Spread:
        """The lowest bits per byte that were measured."""
        return Spread(tuple(float(curve.points[MEASURE][:, -1].min()) for curve in self.curves))

    @property
    def best_at(self) -> Spread:
        """Tokens seen when they were measured."""
        points = [curve.points[MEASURE] for curve in self.curves]
        return Spread(tuple(float(rows[rows[:, -1].argmin(), 1]) for rows in points))

    @property
    def last(self) -> Spread:
        """Bits per byte at the end."""
        return Spread(tuple(float(curve.points[MEASURE][-1, -1]) for curve in self.curves))

    @property
    def tokens(self) -> Spread:
        """Tokens seen."""
        return Spread(tuple(float(curve.points[MEASURE][-1, 1]) for curve in self.curves))


def shown(value: float, form: str) -> str:
    """Return a figure in a format, without a sign where it is shown as 0."""
    text = f"{value:{form}}"
    return text if float(text) else text.lstrip("-")


def summarise(records: Records) -> list[ArmSummary]:
    """Return a row for every arm that is measured, in the order of the experiment's file."""
    return [summary_of(records, arm) for arm in records.design.arms if arm.name in records.curves]


def summary_of(records: Records, arm: Arm) -> ArmSummary:
    """Return the row of an arm."""
    runs = [run for run in records.measured_runs if run.arm.name == arm.name]
    heldout = heldout_of([records.transfer_report(run) for run in runs])
    curves = records.curves[arm.name]
    seconds = Spread(tuple(float(curve.points[MEASURE][-1, 3]) for curve in curves))
    seeds = [run.seed for run in runs]
    reached = tuple(
        Reached(name, savings_of(records, seeds, curves, name)) for name in records.design.baselines if name != arm.name
    )
    kept = tuple(found for found in reached if found.savings)
    return ArmSummary(arm, tuple(curves), heldout, kept, seconds)


def heldout_of(reports: Sequence[TransferReport | None]) -> tuple[Spread, Spread] | None:
    """Return centred cosine and relative error over the seeds; ``None`` where a transfer did not measure both."""
    scores = [report.heldout for report in reports if report is not None]
    cosines = tuple(score.centred_cosine for score in scores if score.centred_cosine is not None)
    errors = tuple(score.relative_error for score in scores if score.relative_error is not None)
    if not reports or not len(cosines) == len(errors) == len(reports):
        return None
    return Spread(cosines), Spread(errors)


def savings_of(records: Records, seeds: Sequence[int], curves: Sequence[Curve], baseline: str) -> tuple[Saving, ...]:
    """Return what runs save against the baseline's runs of the same seeds, where these are measured."""
    others = {run.seed: curve for run, curve in zip_runs(records, baseline)}
    return tuple(
        Comparison.of(others[seed], [curve], MEASURE).savings[0]
        for seed, curve in zip(seeds, curves, strict=True)
        if seed in others
    )


def zip_runs(records: Records, arm: str) -> list[tuple[Any, Curve]]:
    """Return the measured runs of an arm with their curves."""
    runs = [run for run in records.measured_runs if run.arm.name == arm]
    return list(zip(runs, records.curves.get(arm, []), strict=True))
