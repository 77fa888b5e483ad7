"""Ridge regression from helper rows to source rows, fitted on the anchors."""

from __future__ import annotations

import numpy as np

from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.tensors import RowSource, Subset, mean_row, row_blocks

LAMBDA_STEPS = np.logspace(-6, 3, 55)
"""Candidates for lambda, as multiples of the mean variance that the anchors' helper rows have per direction."""

PROJECTIONS = 48
"""Random directions of the source rows on which lambda is chosen, where the rows are wider than this."""


class Linear(Initializer):
    """Ridge regression with an unpenalised intercept; lambda by leave-one-out in closed form.

    With X the centred helper rows of the n anchors, m their mean and E the anchors' source rows,

        e_v = mean(E) + (h_v - m) (X'X + lambda I)^-1 X'E,

    which is a linear smoother with the weights ``w_u = 1/n + (h_v - m) (X'X + lambda I)^-1 x_u``. The error on an
    anchor left out of the fit is its residual over ``1 - H_uu`` with the hat matrix H (Allen's PRESS), so every lambda
    is judged from one eigendecomposition. For wide rows it is judged on random projections of E.
    """

    name = "linear"
    summary = "ridge regression from helper rows to source rows, lambda by leave-one-out"
    dense = False

    def fit(self, context: Context) -> FittedLinear:
        """Fit on the anchors; lambda is taken from the context's parameters where it is there."""
        return FittedLinear(context)


class FittedLinear(Fitted):
    """A ridge regression for one pair and one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Decompose the anchors' helper rows, choose lambda, and solve for the coefficients."""
        self._context = context
        helper = Subset(context.helper_rows, context.anchor_ids)
        self._mean, second = moments(helper)
        eigenvalues, self._directions = np.linalg.eigh(second)
        self._variances = np.clip(eigenvalues, 0, None)
        scale = float(self._variances.sum()) / max(len(self._variances), 1) or 1.0
        if "lambda" in context.parameters:
            chosen = float(context.parameters["lambda"])
        else:
            candidates = LAMBDA_STEPS * scale
            errors = leave_one_out_errors(self, context.needed_anchor_rows(), candidates)
            chosen = float(candidates[int(np.argmin(errors))])
        self.parameters = {"lambda": chosen}
        self._shrunk = 1 / (self._variances + chosen)
        if context.anchor_rows is not None:
            self._solve(context.anchor_rows)

    def _solve(self, source: RowSource) -> None:
        """Solve for the intercept ``[D]`` and the coefficients ``[d, D]``."""
        product = np.zeros((len(self._mean), source.shape[1]))
        total = np.zeros(source.shape[1])
        for part, rows in row_blocks(source):
            turned = self.turned(self._context.anchor_ids[part])
            product += turned.T @ rows
            total += rows.sum(axis=0, dtype=np.float64)
        self._source_mean = total / max(self._context.n_anchors, 1)
        self._coefficients = (self._shrunk[:, None] * product).astype(np.float32)

    def turned(self, ids: np.ndarray) -> np.ndarray:
        """Return centred helper rows in the basis of the eigenvectors, float64 ``[len(ids), d]``."""
        return (self._context.helper_rows.take(ids).astype(np.float64) - self._mean) @ self._directions

    def hat_diagonal(self, turned: np.ndarray, ridge: float) -> np.ndarray:
        """Return the diagonal of the hat matrix for rows of anchors, ``[b]``."""
        return 1 / self._context.n_anchors + (turned**2) @ (1 / (self._variances + ridge))

    @property
    def context(self) -> Context:
        """What it was fitted to."""
        return self._context

    def shrinkage(self, ridge: float) -> np.ndarray:
        """Return ``1 / (s^2 + lambda)`` for every direction, ``[d]``."""
        return 1 / (self._variances + ridge)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the new rows, float32 ``[len(ids), D]``."""
        rows = self.turned(ids).astype(np.float32) @ self._coefficients
        return rows + self._source_mean.astype(np.float32)

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """Return the smoother's weights, float64 ``[len(ids), n]``; each row sums to 1."""
        anchors = self.turned(self._context.anchor_ids)
        return 1 / self._context.n_anchors + (self.turned(ids) * self._shrunk) @ anchors.T

    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return ``1 / sum w^2``; the weights sum to 1 because the anchors are centred."""
        turned = self.turned(ids)
        squares = 1 / self._context.n_anchors + (turned * self._shrunk) ** 2 @ self._variances
        return 1 / squares


def moments(rows: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``[d]`` and the centred second moment ``X'X`` ``[d, d]`` of rows, in float64, in two passes."""
    width = rows.shape[1]
    mean = mean_row(rows)
    second = np.zeros((width, width))
    for _, block in row_blocks(rows):
        centred = block.astype(np.float64) - mean
        second += centred.T @ centred
    return mean, second


def leave_one_out_errors(fitted: FittedLinear, source: RowSource, candidates: np.ndarray) -> np.ndarray:
    """Return the summed squared leave-one-out error of every candidate lambda, ``[len(candidates)]``.

    Args:
        fitted: a regression whose helper side is decomposed.
        source: the anchors' source rows, ``[n, D]``.
        candidates: lambdas, ``[c]``.
    """
    width = source.shape[1]
    generator = np.random.default_rng(fitted.context.seed)
    project = generator.standard_normal((width, PROJECTIONS)) if width > PROJECTIONS else np.eye(width)
    targets = np.concatenate([rows.astype(np.float64) @ project for _, rows in row_blocks(source)])
    targets -= targets.mean(axis=0)
    turned = fitted.turned(fitted.context.anchor_ids)
    product = turned.T @ targets
    errors = np.empty(len(candidates))
    for i, ridge in enumerate(candidates):
        residuals = targets - turned @ (fitted.shrinkage(ridge)[:, None] * product)
        left = 1 - fitted.hat_diagonal(turned, ridge)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = float(((residuals / left[:, None]) ** 2).sum())
        errors[i] = error if np.isfinite(error) and (left > 1e-12).all() else np.inf
    return errors
