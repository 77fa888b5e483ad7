"""Ridge regression from helper rows to source rows, fitted on the anchors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from clp_core.embeddings.row_source import RowSource, block_ranges
from clp_core.initializers.anchor_sums import SUM_BYTES, Features, Moments
from clp_core.initializers.base import Context, Initializer, Setting, SmootherWeights
from clp_core.initializers.smoother import Smoother
from clp_core.initializers.topk import AnchorSearch, softmax

LAMBDA_STEPS = np.logspace(-6, 3, 55)
"""Candidates for lambda, as multiples of the mean variance that the anchors' features have per direction."""

LEFT_OUT = 1e-8
"""Singular values below this share of the largest are left out where all lambdas are judged at once."""

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
        features = Features("helper rows", context.helper_rows)
        moments = context.sums.moments(features, context.hidden)
        return FittedLinear(context, self.resolve(context.settings), features, moments, FeatureMap())


@dataclass(frozen=True)
class FeatureMap:
    """A linear map of what is known of a token to the features of a regression; here they are the same."""

    def features(self, known: np.ndarray) -> np.ndarray:
        """Return features ``[b, p]`` of what is known less its mean, float64 ``[b, a]``."""
        return known

    def transposed(self, directions: np.ndarray) -> np.ndarray:
        """Return directions ``[p, q]`` of the features as such of what is known, ``[a, q]``."""
        return directions

    def second(self, second: np.ndarray) -> np.ndarray:
        """Return the second moment ``[p, p]`` of features from that of what is known, ``[a, a]``."""
        return second

    def cross(self, cross: np.ndarray) -> np.ndarray:
        """Return the cross moment ``[p, D]`` of features and rows from that of what is known, ``[a, D]``."""
        return cross


class FittedLinear(Smoother):
    """A ridge regression for one pair and one embedding matrix.

    Its points are the anchors' centred features, turned into the basis of the eigenvectors of ``X'X``.
    """

    def __init__(
        self,
        context: Context,
        settings: dict[str, float],
        features: Features,
        moments: Moments,
        feature_map: FeatureMap,
    ) -> None:
        """Decompose the anchors' features and choose lambda.

        Args:
            context: the anchors.
            settings: all settings of the method.
            features: what is known of each token.
            moments: those of the anchors' features.
            feature_map: makes the regression's features of them.
        """
        second = feature_map.second(moments.second)
        rows = None if context.anchor_rows is None else context.anchor_rows_in_memory
        super().__init__(context, rows, context.n_anchors, len(second))
        self._known, self._mean, self._map = features, moments.mean, feature_map
        self._settings = settings
        eigenvalues, self._directions = np.linalg.eigh(second)
        self._variances = np.clip(eigenvalues, 0, None)
        self.scale = float(self._variances.sum()) / max(len(self._variances), 1) or 1.0
        if "lambda" in context.parameters:
            chosen = float(context.parameters["lambda"])
        else:
            candidates = LAMBDA_STEPS * self.scale
            chosen = float(candidates[np.argmin(leave_one_out_errors(self, candidates))])
        self.parameters = {"lambda": chosen}
        self._shrunk = self.shrinkage(chosen)

    def turned(self, ids: np.ndarray) -> np.ndarray:
        """Return centred features in the basis of the eigenvectors, float64 ``[len(ids), p]``."""
        known = self._known.rows.take(ids).astype(np.float64)
        return self._map.features(known - self._mean) @ self._directions

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Return the turned features of anchors, float64 ``[m, p]``."""
        known = self._table.take(self.context.visible[positions]).astype(np.float64)
        return self._map.features(known - self._shift) @ self._directions

    def narrow_points(self, positions: np.ndarray) -> np.ndarray:
        """Return the turned features of anchors in float32; they are centred in float64 and turned in float32."""
        known = self._table.take(self.context.visible[positions])
        known = known - self._shift.astype(np.float32)
        return self.context.device.product(known, self._narrow_turn)

    @property
    def _table(self) -> RowSource:
        return self.context.sums.table(self._known)

    @cached_property
    def _shift(self) -> np.ndarray:
        """The mean of these anchors' features less that of all anchors."""
        return self._mean - self.context.sums.origin(self._known)

    @cached_property
    def _narrow_turn(self) -> Any:
        turn = self._map.transposed(self._directions).astype(np.float32)
        return self.context.device.hold(turn)

    def targets(self) -> np.ndarray:
        """Return the anchors' source rows on random directions, centred, float64 ``[n, q]``; narrow ones as they are.

        Lambda is judged on them.
        """
        found = self.context.sums.projected(self.context.seed)[self.context.visible]
        return np.asarray(found - found.mean(axis=0))

    def targets_product(self) -> np.ndarray:
        """Return ``points' @ targets``, float64 ``[p, q]``."""
        moments = self.context.sums.cross_moments(self._known, self.context.hidden, self.context.seed)
        return np.asarray(self._directions.T @ self._map.cross(moments.cross))

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        moments = self.context.sums.cross_moments(self._known, self.context.hidden)
        return self._directions.T @ self._map.cross(moments.cross), moments.total, self.point_sum

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


def leave_one_out_errors(fitted: FittedLinear, candidates: np.ndarray) -> np.ndarray:
    """Return the summed squared leave-one-out error of every candidate lambda, float64 ``[c]``.

    With s the variances per direction, the predictions of all lambdas are ``sum_d x_d b_d / (s_d + lambda)``. The
    matrix ``(s_d + lambda_0) / (s_d + lambda)`` of candidates by directions, lambda_0 the least of them, has a low
    numerical rank r, as Cauchy matrices have, so that r sets of coefficients serve all candidates; what is left out is
    ``LEFT_OUT`` of its largest singular value.

    Memory grows with the anchors by ``PROJECTIONS`` numbers each, not by the width of either side. Features that fit in
    memory are turned in float32, which moves an error by about 1e-8 of itself; all else is in float64.

    Args:
        fitted: a regression whose features are decomposed.
        candidates: lambdas, ``[c]``.
    """
    targets = fitted.targets()
    n_anchors, n_targets = targets.shape
    shrunk = np.stack([fitted.shrinkage(ridge) for ridge in candidates])
    least = fitted.shrinkage(float(candidates.min(initial=np.inf)))
    ratios = np.divide(shrunk, least, out=np.zeros_like(shrunk), where=least > 0)
    left, strengths, basis = np.linalg.svd(ratios, full_matrices=False)
    rank = int(np.count_nonzero(strengths > LEFT_OUT * strengths[0]))
    mixture, basis = left[:, :rank] * strengths[:rank], basis[:rank] * least
    pairs = np.einsum("ci,cj->ijc", mixture, mixture).reshape(rank**2, -1)
    coefficients = (basis.T[:, :, None] * fitted.targets_product()[:, None, :]).reshape(fitted.width, -1)
    errors, least_left = np.zeros(len(candidates)), np.ones(len(candidates))
    parts = list(block_ranges(n_anchors, 2 * max(fitted.width, rank * (rank + n_targets)), SUM_BYTES))
    room = np.empty((parts[0].stop if parts else 0, fitted.width))
    for part in parts:
        points, wanted = room[: part.stop - part.start], targets[part]
        points[:] = fitted.points_of(part)
        found = (points @ coefficients).reshape(len(points), rank, n_targets)
        grams = (found @ found.transpose(0, 2, 1)).reshape(len(points), -1)
        along = (found @ wanted[:, :, None])[:, :, 0]
        squares = (wanted**2).sum(axis=1, keepdims=True) - 2 * along @ mixture.T + grams @ pairs
        share_left = 1 - 1 / n_anchors - np.square(points, out=points) @ shrunk.T
        least_left = np.minimum(least_left, share_left.min(axis=0, initial=1.0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            errors += (np.clip(squares, 0, None) / share_left**2).sum(axis=0)
    # An anchor that decides its own fit tells nothing about lambda.
    return np.where(np.isfinite(errors) & (least_left > 1e-12), errors, np.inf)
