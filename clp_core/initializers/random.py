"""Every missing token gets a random row with the mean and the spread of the anchors' source rows."""

from __future__ import annotations

import numpy as np

from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.tensors import mean_row, row_blocks


class Random(Initializer):
    """Rows drawn from N(mean, std) per dimension of the anchors' rows; the baseline of every comparison.

    Each row is drawn from a stream of its own, keyed by seed and token id, so that it does not depend on which other
    tokens are asked for.
    """

    name = "random"
    summary = "random rows with the anchors' mean and spread per dimension"
    dense = False

    def fit(self, context: Context) -> FittedRandom:
        """Take the mean and the standard deviation of every dimension."""
        return FittedRandom(context)


class FittedRandom(Fitted):
    """A normal distribution over the rows of one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Measure mean and spread block by block, in float64."""
        self._seed = context.seed
        self._mean = self._std = np.zeros(0)
        source = context.anchor_rows
        if source is not None:
            n_rows, width = source.shape
            squares = np.zeros(width)
            self._mean = mean_row(source)
            for _, rows in row_blocks(source):
                squares += ((rows - self._mean) ** 2).sum(axis=0)
            self._std = np.sqrt(squares / max(n_rows, 1))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return one random row an id, float32 ``[len(ids), D]``."""
        rows = np.empty((len(ids), len(self._mean)), dtype=np.float32)
        for i, token_id in enumerate(ids):
            generator = np.random.Generator(np.random.Philox(key=[self._seed, int(token_id)]))
            rows[i] = self._mean + self._std * generator.standard_normal(len(self._mean))
        return rows

    def weights(self, ids: np.ndarray) -> None:
        """Return nothing: a random row is no mean of anchors."""

    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return NaN: there are no weights."""
        return np.full(len(ids), np.nan)
