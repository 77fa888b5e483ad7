"""Every missing token gets the mean of the anchors' source rows."""

from __future__ import annotations

import numpy as np

from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.tensors import mean_row


class Mean(Initializer):
    """The mean of the anchors' rows: a smoother with the weights ``1/n``, blind to the token."""

    name = "mean"
    summary = "the mean of the anchors' rows for every token"
    dense = True

    def fit(self, context: Context) -> FittedMean:
        """Take the mean."""
        return FittedMean(context)


class FittedMean(Fitted):
    """The mean row of one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Sum the anchors' rows block by block."""
        self._n_anchors = context.n_anchors
        self._mean: np.ndarray | None = None
        if context.anchor_rows is not None:
            self._mean = mean_row(context.anchor_rows).astype(np.float32)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the same row for every id, float32 ``[len(ids), D]``."""
        if self._mean is None:
            raise ValueError("fitted without source rows: only weights can be asked for")
        return np.tile(self._mean, (len(ids), 1))

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """Return ``1/n`` everywhere, float64 ``[len(ids), n]``."""
        return np.full((len(ids), self._n_anchors), 1 / max(self._n_anchors, 1))

    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of anchors for every id."""
        return np.full(len(ids), float(self._n_anchors))
