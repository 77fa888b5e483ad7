"""Held-out anchors: hide some of the overlap, initialise it as if it were missing, compare with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clp_core.checkpoints.finite import CURE, NonFiniteError
from clp_core.embeddings.row_source import block_ranges, mean_row, non_finite_rows
from clp_core.initializers.base import Context, Initializer
from clp_core.reports.transfer_report import HeldOutSummary

HIDDEN_SHARE = 0.1


@dataclass(frozen=True)
class HeldOut:
    """How well a method finds rows that are known.

    Attributes:
        centred_cosine: mean over hidden tokens of ``cos(pred - c, true - c)``, c the mean row of the visible anchors;
            0 where a vector is zero. 1 is perfect, 0 is no better than knowing the mean.
        relative_error: ``||pred - true||_F / ||true - c||_F``; below 1 is better than the mean row. NaN where all
            hidden rows equal their mean.
        hidden: number of hidden tokens.
    """

    centred_cosine: float
    relative_error: float
    hidden: int

    @property
    def summary(self) -> HeldOutSummary:
        """The scores for reports; ``None`` for one that is not finite, as JSON has no NaN."""
        cosine, error = self.centred_cosine, self.relative_error
        return HeldOutSummary(cosine if np.isfinite(cosine) else None, error if np.isfinite(error) else None)


def hide(context: Context, seed: int, share: float = HIDDEN_SHARE, fold: int = 0) -> tuple[Context, np.ndarray]:
    """Return a context whose anchors are the visible ones, and the positions of the hidden ones (ascending).

    At least one anchor is hidden and at least one stays, where there are two. Folds of one seed hide different anchors,
    as long as there are any left.
    """
    n_anchors = context.n_anchors
    n_hidden = min(max(1, round(share * n_anchors)), max(n_anchors - 1, 0))
    order = np.roll(np.random.default_rng(seed).permutation(n_anchors), -fold * n_hidden)
    hidden = np.sort(order[:n_hidden])
    return context.without(hidden), hidden


def score(
    method: Initializer, context: Context, seed: int = 42, share: float = HIDDEN_SHARE, folds: int = 1
) -> HeldOut | None:
    """Score a method on hidden anchors; ``None`` where there are too few anchors to hide any.

    Args:
        method: the method.
        context: all anchors; their rows have to be finite.
        seed: of the choice of hidden anchors.
        share: of the anchors that is hidden at a time.
        folds: how often another part is hidden; the scores are means over the folds.

    Raises:
        InputError: a source row of an anchor, or one that the method predicts, is not finite.
    """
    return mean_of(score_folds(method, context, seed, share, folds))


def score_folds(
    method: Initializer, context: Context, seed: int = 42, share: float = HIDDEN_SHARE, folds: int = 1
) -> list[HeldOut]:
    """Score a method on hidden anchors, another part of them hidden each time; see ``score``.

    Raises:
        InputError: a source row of an anchor, or one that the method predicts, is not finite.
    """
    bad = non_finite_rows(context.anchor_rows_in_memory)
    if len(bad):
        raise NonFiniteError(
            f"the source's rows of {len(bad):,} of {context.n_anchors:,} anchors are not finite (the first is target "
            f"token {int(context.anchor_ids[bad[0]])}): {CURE}"
        )
    found = [score_fold(method, context, *hide(context, seed, share, fold)) for fold in range(folds)]
    return [part for part in found if part is not None]


def mean_of(folds: Sequence[HeldOut]) -> HeldOut | None:
    """Return the mean scores of folds; ``None`` where there are none."""
    if not folds:
        return None
    cosine = float(np.mean([fold.centred_cosine for fold in folds]))
    return HeldOut(cosine, float(np.mean([fold.relative_error for fold in folds])), sum(fold.hidden for fold in folds))


def score_fold(method: Initializer, context: Context, visible: Context, hidden: np.ndarray) -> HeldOut | None:
    """Score a method that saw the visible anchors on the hidden ones."""
    if not len(hidden):
        return None
    fitted = method.fit(replace(visible, parameters={}))
    truth = context.anchor_rows_in_memory
    width = truth.shape[1]
    centre = mean_row(visible.needed_anchor_rows())
    cosines, error, spread = 0.0, 0.0, 0.0
    for part in block_ranges(len(hidden), width):
        true = truth.take(hidden[part]).astype(np.float64)
        predicted = fitted.rows(context.anchor_ids[hidden[part]]).astype(np.float64)
        if not np.isfinite(predicted).all():
            raise NonFiniteError("the method predicts rows that are not finite; choose another, such as linear")
        error += float(((predicted - true) ** 2).sum())
        predicted -= centre
        true -= centre
        spread += float((true**2).sum())
        lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
        products = (predicted * true).sum(axis=1)
        # A prediction that equals the centre up to rounding has no direction to compare.
        has_direction = lengths > 1e-6 * np.maximum((true**2).sum(axis=1), np.finfo(float).tiny)
        cosines += float(np.divide(products, lengths, out=np.zeros_like(products), where=has_direction).sum())
    relative = float(np.sqrt(error / spread)) if spread > 0 else float("nan")
    return HeldOut(cosines / len(hidden), relative, len(hidden))
