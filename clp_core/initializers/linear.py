"""Ridge regression from helper rows to source rows, fitted on the anchors."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from clp_core.embeddings.row_source import RowSource, Subset, block_ranges, mean_row, row_blocks
from clp_core.initializers.base import Context, Initializer, Setting, SmootherWeights
from clp_core.initializers.smoother import Smoother
from clp_core.initializers.topk import AnchorSearch, softmax

LAMBDA_STEPS = np.logspace(-6, 3, 55)
"""Candidates for lambda, as multiples of the mean variance that the anchors' features have per direction."""

PROJECTIONS = 48
"""Random directions of the source rows on which lambda is chosen, where the rows are wider than this."""

PROJECTION_STREAM = 2
SCREENED_SHARE, SCREENED_ROUNDING = 1e-3, 1e-6
"""What float32 may be wrong by, as a share of an error and of the sum of squares that is predicted."""

RESIDUAL_SETTINGS = (
    Setting("temperature", 0.1, "of the softmax over the nearest anchors' centred cosines", minimum=1e-3),
    Setting("strength", 0.5, "share of the nearest anchors' residual that is added", maximum=1.0),
)


class Linear(Initializer):
    """Ridge regression with an unpenalised intercept; lambda by leave-one-out in closed form.

    With X the centred features of the n anchors (here their helper rows), m their mean and E the anchors' source rows,

        e_v = mean(E) + (x_v - m) (X'X + lambda I)^-1 X'E,

    which is a linear smoother with the weights ``w_u = 1/n + (x_v - m) (X'X + lambda I)^-1 x_u``. The error on an
    anchor left out of the fit is its residual over ``1 - H_uu`` with the hat matrix H (Allen 1974, PRESS), so every
    lambda is judged from one eigendecomposition. For wide rows it is judged on random projections of E.

    With ``neighbours`` k above 0 the weighted residuals of the k nearest anchors are added: with s the softmax of
    their centred cosines times ``strength``, ``e_v + sum_u s_u (e_u - fit_u)``. This too is a linear smoother.
    """

    name = "linear"
    summary = "ridge regression from helper rows to source rows, lambda by leave-one-out"
    formula = r"e_v = \sum_u w_u e_u, \quad w_u = \tfrac{1}{n} + (h_v - \bar h)(X^\top X + \lambda I)^{-1} x_u"
    dense = True
    settings = (
        Setting("neighbours", 0, "nearest anchors whose residual is added; 0: none", whole=True),
        *RESIDUAL_SETTINGS,
    )

    def fit(self, context: Context) -> FittedLinear:
        """Fit on the anchors; lambda is taken from the context's parameters where it is there."""
        return FittedLinear(context, self.resolve(context.settings), context.helper_rows)


class FittedLinear(Smoother):
    """A ridge regression for one pair and one embedding matrix.

    Its points are the anchors' centred features, turned into the basis of the eigenvectors of ``X'X``.
    """

    def __init__(self, context: Context, settings: dict[str, float], features: RowSource) -> None:
        """Decompose the anchors' features and choose lambda.

        Args:
            context: the anchors.
            settings: all settings of the method.
            features: by target id, ``[n_target, p]``.
        """
        super().__init__(context, context.anchor_rows, context.n_anchors, features.shape[1])
        self._features = features
        self._settings = settings
        self._mean, second = moments(Subset(features, context.anchor_ids))
        eigenvalues, self._directions = np.linalg.eigh(second)
        self._variances = np.clip(eigenvalues, 0, None)
        self.scale = float(self._variances.sum()) / max(len(self._variances), 1) or 1.0
        if "lambda" in context.parameters:
            chosen = float(context.parameters["lambda"])
        else:
            candidates = LAMBDA_STEPS * self.scale
            chosen = chosen_lambda(self, context.needed_anchor_rows(), candidates)
        self.parameters = {"lambda": chosen}
        self._shrunk = self.shrinkage(chosen)

    def turned(self, ids: np.ndarray) -> np.ndarray:
        """Return centred features in the basis of the eigenvectors, float64 ``[len(ids), p]``."""
        return (self._features.take(ids).astype(np.float64) - self._mean) @ self._directions

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Return the turned features of anchors, float64 ``[m, p]``."""
        return self.turned(self.context.anchor_ids[positions])

    def narrow_points(self, positions: np.ndarray) -> np.ndarray:
        """Return the turned features of anchors in float32; they are centred in float64 and turned in float32."""
        features = self._features.take(self.context.anchor_ids[positions])
        return np.asarray((features.astype(np.float64) - self._mean).astype(np.float32) @ self._narrow_directions)

    @cached_property
    def _narrow_directions(self) -> np.ndarray:
        return self._directions.astype(np.float32)

    @property
    def gram(self) -> np.ndarray:
        """The diagonal of the turned ``X'X``, float64 ``[p]``."""
        return self._variances

    @property
    def point_sum(self) -> np.ndarray:
        """Zeros: the anchors' features are centred."""
        return np.zeros(self.width)

    def shrinkage(self, ridge: float) -> np.ndarray:
        """Return ``1 / (s^2 + lambda)`` for every direction, ``[p]``; 0 where both are 0."""
        total = self._variances + ridge
        return np.divide(1, total, out=np.zeros_like(total), where=total > 0)

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the smoother's weights; each row sums to 1."""
        turned = self.turned(ids)
        constants = np.full(len(ids), 1 / max(self.n_columns, 1))
        if not self._settings["neighbours"]:
            return SmootherWeights(ids, turned * self._shrunk, constants)
        cosines, found = self._nearest.of(ids, int(self._settings["neighbours"]))
        shares = self._settings["strength"] * softmax(cosines, self._settings["temperature"])
        near = sparse.csr_array(
            (shares.ravel(), found.ravel(), np.arange(len(ids) + 1) * found.shape[1]), (len(ids), self.n_columns)
        )
        used, local = np.unique(near.indices, return_inverse=True)
        by_column = sparse.csr_array((near.data, local, near.indptr), (len(ids), len(used))).tocsc()
        fitted_part = np.zeros_like(turned)
        for part in block_ranges(len(used), self.width):
            fitted_part += by_column[:, part] @ self.points_at(used[part])
        taken = shares.sum(axis=1)
        return SmootherWeights(ids, (turned - fitted_part) * self._shrunk, constants * (1 - taken), near)

    @cached_property
    def _nearest(self) -> AnchorSearch:
        return AnchorSearch(self.context, centred=True)


def moments(rows: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``[d]`` and the centred second moment ``X'X`` ``[d, d]`` of rows, in float64, in two passes."""
    width = rows.shape[1]
    mean = mean_row(rows)
    second = np.zeros((width, width))
    for _, block in row_blocks(rows):
        centred = block.astype(np.float64) - mean
        second += centred.T @ centred
    return mean, second


def chosen_lambda(fitted: FittedLinear, source: RowSource, candidates: np.ndarray) -> float:
    """Choose the lambda with the least leave-one-out error.

    All candidates are screened in float32; those that its rounding could exchange with the best are judged in float64.

    Args:
        fitted: a regression whose features are decomposed.
        source: the anchors' source rows, ``[n, D]``.
        candidates: lambdas, ``[c]``.
    """
    targets = projected(fitted, source)
    screened = leave_one_out_errors(fitted, targets, candidates, np.float32)
    margin = SCREENED_SHARE * screened.min() + SCREENED_ROUNDING * float((targets**2).sum())
    finalists = np.flatnonzero(~(screened > screened.min() + margin))
    if len(finalists) > 1:
        finalists = finalists[[int(np.argmin(leave_one_out_errors(fitted, targets, candidates[finalists])))]]
    return float(candidates[finalists[0]])


def projected(fitted: FittedLinear, source: RowSource) -> np.ndarray:
    """Return the anchors' source rows on random directions, centred, float64 ``[n, q]``; narrow rows as they are."""
    width = source.shape[1]
    # Not the stream of the seed itself, which chooses the held-out anchors.
    generator = np.random.default_rng(np.random.SeedSequence(fitted.context.seed, spawn_key=(PROJECTION_STREAM,)))
    project = generator.standard_normal((width, PROJECTIONS)) if width > PROJECTIONS else np.eye(width)
    targets = np.concatenate([rows.astype(np.float64) @ project for _, rows in row_blocks(source)])
    return np.asarray(targets - targets.mean(axis=0))


def leave_one_out_errors(
    fitted: FittedLinear, targets: np.ndarray, candidates: np.ndarray, dtype: type[np.floating[Any]] = np.float64
) -> np.ndarray:
    """Return the summed squared leave-one-out error of every candidate lambda, float64 ``[c]``.

    Memory grows with the anchors by ``PROJECTIONS`` numbers each, not by the width of either side. Features that fit in
    memory are turned in float32, which moves an error by about 1e-8 of itself; all sums are in float64.

    Args:
        fitted: a regression whose features are decomposed.
        targets: what the features predict, centred, ``[n, q]``; see ``projected``.
        candidates: lambdas, ``[c]``.
        dtype: of the predictions and of each anchor's error; sums over the anchors are float64.
    """
    n_anchors, n_targets = targets.shape
    blocks = list(block_ranges(n_anchors, max(fitted.width, n_targets * len(candidates))))
    product = np.zeros((fitted.width, n_targets))
    for part in blocks:
        product += fitted.wide_points(part).T @ targets[part]
    shrunk = np.stack([fitted.shrinkage(ridge) for ridge in candidates])
    coefficients = (shrunk[:, :, None] * product).transpose(1, 0, 2).reshape(fitted.width, -1).astype(dtype)
    spread = shrunk.T.astype(dtype)
    errors, least_left = np.zeros(len(candidates)), np.ones(len(candidates))
    for part in blocks:
        points = fitted.wide_points(part).astype(dtype, copy=False)
        predicted = (points @ coefficients).reshape(len(points), len(candidates), -1)
        left = 1 - 1 / n_anchors - points**2 @ spread
        least_left = np.minimum(least_left, left.min(axis=0, initial=1.0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            np.subtract(targets[part, None, :].astype(dtype), predicted, out=predicted)
            squares = np.einsum("ncq,ncq->nc", predicted, predicted)
            errors += (squares / left**2).sum(axis=0, dtype=np.float64)
    # An anchor that decides its own fit tells nothing about lambda.
    return np.where(np.isfinite(errors) & (least_left > 1e-12), errors, np.inf)
