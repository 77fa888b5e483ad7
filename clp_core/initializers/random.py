"""Every missing token gets a random row with the mean and the spread of the anchors' source rows."""

from __future__ import annotations

import numpy as np

from clp_core.embeddings.row_source import RowSource, mean_row, row_blocks
from clp_core.initializers.base import Context, Fitted, Initializer, SmootherWeights, TopAnchors


class Random(Initializer):
    """Rows drawn from N(mean, std) per dimension of the anchors' rows; the baseline of every comparison.

    Each row is drawn from a stream of its own, keyed by seed and token id, so that it does not depend on which other
    tokens are asked for.
    """

    name = "random"
    summary = "random rows with the anchors' mean and spread per dimension"
    formula = r"e_v \sim \mathcal{N}(\mu, \sigma^2) \text{ in every dimension, } \mu, \sigma \text{ of the anchors}"

    def fit(self, context: Context) -> FittedRandom:
        """Take the mean and the standard deviation of every dimension."""
        return FittedRandom(context)


class FittedRandom(Fitted):
    """A normal distribution over the rows of one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Measure mean and spread block by block, in float64."""
        self._seed = context.seed
        self._mean = self._std = np.zeros(0)
        if context.anchor_rows is not None:
            self._mean, self._std = mean_and_spread(context.anchor_rows)

    def mix(self, ids: np.ndarray) -> None:
        """Return nothing: a random row is no mean of anchors."""

    def rows(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:  # noqa: ARG002
        """Return one random row an id, float32 ``[len(ids), D]``."""
        return drawn_rows(self._mean, self._std, self._seed, ids)

    def n_eff(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:  # noqa: ARG002
        """Return NaN: there are no weights."""
        return np.full(len(ids), np.nan)

    def weights(self, ids: np.ndarray) -> None:
        """Return nothing."""

    def top(self, mix: SmootherWeights, k: int) -> TopAnchors:  # noqa: ARG002
        """Refuse: there are no weights."""
        raise ValueError("a random row has no anchors")


def mean_and_spread(rows: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of every dimension, float64 ``[D]`` each."""
    mean = mean_row(rows)
    squares = np.zeros(rows.shape[1])
    for _, block in row_blocks(rows):
        squares += ((block - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(squares / max(rows.shape[0], 1))


def drawn_rows(mean: np.ndarray, std: np.ndarray, seed: int, ids: np.ndarray) -> np.ndarray:
    """Return rows of N(mean, std), each from a stream keyed by seed and token id, float32 ``[len(ids), D]``."""
    rows = np.empty((len(ids), len(mean)), dtype=np.float32)
    for i, token_id in enumerate(ids):
        generator = np.random.Generator(np.random.Philox(key=[seed, int(token_id)]))
        rows[i] = mean + std * generator.standard_normal(len(mean))
    return rows
