"""Tokens saved: how much sooner a run reaches what another one reached.

``T(L)`` is where the running minimum of a curve first reaches the level ``L``, linear in log tokens between two
evaluations (linear in tokens where the first of both is before any training). A run saves ``T_baseline(L) - T_run(L)``
tokens. A run that never got there gives a bound: more than the tokens it has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clp_core.data.contamination import STANDS_IN_IT
from clp_core.evaluation.bits_per_byte import NON_FINITE, UNKNOWN_TOKENS
from clp_core.run_comparison.curve import BEGIN, BLOCK, BYTES, EVAL_TEXT, LEAK, STEP_TOKENS, TOKENIZER, Curve, differing


@dataclass(frozen=True)
class Crossing:
    """Where a curve first reaches a level; where it never does, its end.

    Attributes:
        reached: whether it does.
        is_upper: whether it was there already at its first point, after training that nothing is known of: it reached
            the level with at most so many tokens.
        tokens: tokens seen until then.
        steps: optimiser steps until then, not a number if unknown.
        seconds: seconds of training until then, not a number if unknown.
    """

    reached: bool
    tokens: float
    steps: float
    seconds: float
    is_upper: bool = False


def crossing(points: np.ndarray, level: float) -> Crossing | None:
    """Return where a curve ``[n, 5]`` (step, tokens, bytes, seconds, value) reaches a level; ``None`` if empty."""
    if not len(points):
        return None
    steps, tokens, seconds = points[:, 0], points[:, 1], points[:, 3]
    lowest = np.minimum.accumulate(points[:, -1])
    below = np.flatnonzero(lowest <= level)
    if not len(below):
        return Crossing(False, float(tokens[-1]), float(steps[-1]), float(seconds[-1]))
    i = int(below[0])
    if i == 0:
        return Crossing(True, float(tokens[0]), float(steps[0]), float(seconds[0]), is_upper=tokens[0] > 0)
    part = (lowest[i - 1] - level) / (lowest[i - 1] - lowest[i])
    if tokens[i - 1] > 0:
        at = math.exp((1 - part) * math.log(tokens[i - 1]) + part * math.log(tokens[i]))
    else:
        at = part * tokens[i]
    share = (at - tokens[i - 1]) / (tokens[i] - tokens[i - 1]) if tokens[i] > tokens[i - 1] else 1.0
    at_step, at_second = (float(axis[i - 1] + share * (axis[i] - axis[i - 1])) for axis in (steps, seconds))
    return Crossing(True, float(at), at_step, at_second)


@dataclass(frozen=True)
class Saving:
    """What a run saves against a baseline at one level.

    Attributes:
        run: the run's curve.
        level: loss or bits per byte that both are to reach.
        baseline_at: where the baseline reaches it.
        run_at: where the run reaches it.
        obstacles: why the two cannot be compared; empty if they can.
        cautions: what a reader should know of the comparison.
    """

    run: Curve
    level: float
    baseline_at: Crossing | None
    run_at: Crossing | None
    obstacles: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is a saving or a lower bound of it."""
        if self.obstacles or self.baseline_at is None or self.run_at is None:
            return False
        return self.run_at.reached and not self.baseline_at.is_upper

    @property
    def is_bound(self) -> bool:
        """Whether the saving is a lower bound: the baseline never got there, or the run did before its first point."""
        never = self.baseline_at is not None and not self.baseline_at.reached
        return never or (self.run_at is not None and self.run_at.is_upper)

    def saved(self, axis: str) -> float | None:
        """Return what is saved of an axis (``tokens``, ``steps``, ``seconds``); negative if the run needs more."""
        if not self.is_known or self.baseline_at is None or self.run_at is None:
            return None
        value = getattr(self.baseline_at, axis) - getattr(self.run_at, axis)
        return None if math.isnan(value) else float(value)

    def share(self, axis: str = "tokens") -> float | None:
        """Return what is saved as a share of what the baseline needs, at most 1; negative if the run needs more."""
        saved = self.saved(axis)
        whole = getattr(self.baseline_at, axis, 0.0)
        return saved / whole if saved is not None and whole > 0 else None

    @property
    def verdict(self) -> str:
        """The saving in a few words."""
        if self.obstacles:
            return "not comparable: " + "; ".join(self.obstacles)
        if self.run_at is None or self.baseline_at is None:
            return "nothing measured yet"
        if not self.run_at.reached:
            return f"> {short(self.run_at.tokens)} tokens: not there yet"
        if self.baseline_at.is_upper:
            return "the baseline begins below this level: how soon it was there is not known"
        share = self.share()
        if share is None:
            return "there before the first token" if self.run_at.tokens == 0 else "–"
        if share < 0 and self.baseline_at.reached:
            at_most = "at most " if self.run_at.is_upper else ""
            return f"{at_most}{-100 * share:.0f} % more tokens"
        if share < 0:
            baseline = short(self.baseline_at.tokens)
            return f"there after {short(self.run_at.tokens)} tokens, the baseline not within {baseline}"
        return f"{'more than ' if self.is_bound else ''}{100 * share:.0f} % of tokens saved"


def short(tokens: float) -> str:
    """Return a number of tokens in a few characters."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g} {unit}"
    return f"{tokens:.0f}"


def obstacles(baseline: Curve, run: Curve, measure: str) -> tuple[str, ...]:
    """Return why two curves cannot be compared by a measure; empty if they can."""
    wanted = [EVAL_TEXT, STEP_TOKENS] + ([TOKENIZER] if measure == "eval_loss" else [])
    found = []
    for fact in wanted:
        one, other = baseline.facts.get(fact), run.facts.get(fact)
        if one is None or other is None:
            names = [curve.name for curve, value in ((baseline, one), (run, other)) if value is None]
            found.append(f"{fact} of {' and '.join(names)} not known")
        elif one != other:
            found.append(f"{fact} differs ({told(one)} against {told(other)})")
    for fact in (BLOCK, BYTES):
        values = baseline.facts.get(fact), run.facts.get(fact)
        if None not in values and values[0] != values[1]:
            found.append(f"{fact} differs ({values[0]} against {values[1]})")
    found += begin_differs(baseline, run)
    if measure == "bits_per_byte":
        found += [
            f"{each['reason']} ({curve.name})" for curve, each in reasons(baseline, run) if hinders(each, baseline, run)
        ]
    if measure not in run.points or not len(run.points[measure]):
        found.append(f"{run.name} has no such measure")
    return tuple(found)


def begin_differs(baseline: Curve, run: Curve) -> list[str]:
    """State that two curves of one tokenizer were scored with the begin-of-text token in other places.

    Across tokenizers each may follow its own template; one that does not has a reason not to be compared.
    """
    one, other = baseline.facts.get(BEGIN), run.facts.get(BEGIN)
    if not is_one_tokenizer(baseline, run) or None in (one, other) or one == other:
        return []
    return [f"{BEGIN} differs ({one} window against {other})"]


def is_one_tokenizer(baseline: Curve, run: Curve) -> bool:
    """Whether two curves are known to be of one tokenizer."""
    one = baseline.facts.get(TOKENIZER)
    return one is not None and one == run.facts.get(TOKENIZER)


def reasons(baseline: Curve, run: Curve) -> list[tuple[Curve, dict[str, str]]]:
    """List why the bits per byte of two curves cannot be compared across tokenizers, each with its curve."""
    return [(curve, each) for curve in (baseline, run) for each in curve.not_comparable]


def hinders(reason: dict[str, str], baseline: Curve, run: Curve) -> bool:
    """Whether a reason hinders a comparison: what one tokenizer drops is the same for two curves of it."""
    return reason["code"] in (UNKNOWN_TOKENS, NON_FINITE) or not is_one_tokenizer(baseline, run)


def told(value: object) -> str:
    """Return a fact in a few characters."""
    return str(value)[:12] if isinstance(value, str) and len(str(value)) >= 32 else str(value)


def cautions(baseline: Curve, run: Curve) -> tuple[str, ...]:
    """Return what may favour one of two curves that can be compared."""
    found = [
        f"{curve.name}: {curve.settings[LEAK]}"
        for curve in (baseline, run)
        if STANDS_IN_IT in str(curve.settings.get(LEAK, ""))
    ]
    found += [
        f"{curve.name}: {each['reason']}" for curve, each in reasons(baseline, run) if not hinders(each, baseline, run)
    ]
    places = {baseline.facts.get(BEGIN), run.facts.get(BEGIN)} - {None}
    if len(places) == 2 and not is_one_tokenizer(baseline, run):
        found.append(f"{BEGIN}: {baseline.facts[BEGIN]} window against {run.facts[BEGIN]}")
    watched = {
        "steps": "planned length of the schedule",
        "learning_rate": "learning rate",
        "warmup_steps": "warm-up steps",
        "weight_decay": "weight decay",
        "seed": "seed",
        "text": "path of the training text",
        "streaming": "order of the text",
        "bf16": "precision",
        "devices": "devices",
    }
    for key, name in watched.items():
        if key in baseline.settings and key in run.settings and baseline.settings[key] != run.settings[key]:
            found.append(f"{name}: {told(baseline.settings[key])} against {told(run.settings[key])}")
    return tuple(found)


@dataclass(frozen=True)
class Comparison:
    """Some curves against a baseline at one level of one measure.

    Attributes:
        baseline: what the others are held against.
        runs: the others.
        measure: ``bits_per_byte`` or ``eval_loss``.
        level: the value that is to be reached.
    """

    baseline: Curve
    runs: tuple[Curve, ...]
    measure: str
    level: float

    @classmethod
    def of(cls, baseline: Curve, runs: Sequence[Curve], measure: str, level: float | None = None) -> Comparison:
        """Compare at a level, by default the best that the baseline has reached."""
        best = baseline.best(measure)
        chosen = level if level is not None else (best if best is not None else math.nan)
        return cls(baseline, tuple(run for run in runs if run.key != baseline.key), measure, chosen)

    @property
    def curves(self) -> list[Curve]:
        """All curves, the baseline first."""
        return [self.baseline, *self.runs]

    def saving(self, run: Curve) -> Saving:
        """Return what a run saves."""
        in_the_way = obstacles(self.baseline, run, self.measure)
        empty = np.empty((0, 5))
        at = [crossing(curve.points.get(self.measure, empty), self.level) for curve in (self.baseline, run)]
        return Saving(run, self.level, at[0], at[1], in_the_way, cautions(self.baseline, run))

    @property
    def savings(self) -> list[Saving]:
        """What every run saves, in the order of the runs."""
        return [self.saving(run) for run in self.runs]

    @property
    def best(self) -> Saving | None:
        """The largest saving there is, or ``None``."""
        known = [saving for saving in self.savings if saving.share() is not None]
        return max(known, key=lambda saving: saving.share() or 0.0) if known else None

    @property
    def differing(self) -> dict[str, list[Any]]:
        """The settings in which the curves differ: name to one value a curve, the baseline's first."""
        return differing(self.curves)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a curve: where it reaches the level, and what it saves."""
        table = []
        for saving in [None, *self.savings]:
            curve = self.baseline if saving is None else saving.run
            at = crossing(curve.points.get(self.measure, np.empty((0, 5))), self.level)
            row: dict[str, Any] = {
                "run": curve.name,
                "key": curve.key,
                "is_baseline": saving is None,
                "best": curve.best(self.measure),
                "reached": at.reached if at else None,
                "tokens": finite(at.tokens) if at else None,
                "steps": finite(at.steps) if at else None,
                "seconds": finite(at.seconds) if at else None,
            }
            for axis in ("tokens", "steps", "seconds"):
                row[f"{axis}_saved"] = saving.saved(axis) if saving else None
            row["share_saved"] = saving.share() if saving else None
            row["is_lower_bound"] = bool(saving and saving.is_known and saving.is_bound)
            row["verdict"] = "baseline" if saving is None else saving.verdict
            row["cautions"] = "; ".join(saving.cautions) if saving else ""
            row["not_comparable"] = curve.not_comparable
            table.append(row)
        return table


def finite(value: float) -> float | None:
    """Return a number, or ``None`` for what is not one."""
    return None if math.isnan(value) else float(value)
