"""Each missing token gets the mean of the source's own pieces for its text."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from clp_core.embeddings.row_source import mean_row
from clp_core.initializers.base import Context, Initializer, SmootherWeights
from clp_core.initializers.smoother import Smoother


class SubwordMean(Initializer):
    """The mean of the source tokenizer's pieces (FVT, Gee et al. 2022); no helper row takes part.

        e_v = mean of e_s over the pieces s of the text of v

    A token's own match in the source is never among its pieces, so that hidden anchors are split at their last merge. A
    token without pieces gets the mean of the anchors' rows.
    """

    name = "subword-mean"
    summary = "mean of the rows of the source tokenizer's pieces for the token's text"
    formula = r"e_v = \tfrac{1}{m} \sum_{i=1}^{m} e_{p_i}, \quad p_1 \dots p_m \text{ the pieces of } v"
    from_helper = False

    def fit(self, context: Context) -> FittedSubwordMean:
        """Take the pieces and all source rows."""
        return FittedSubwordMean(context)


class FittedSubwordMean(Smoother):
    """Means of pieces; its columns are all source tokens."""

    basis = "source"

    def __init__(self, context: Context) -> None:
        """Take a context that has pieces and source rows."""
        self._pieces = context.needed_pieces()
        rows = context.source_rows
        super().__init__(context, rows, rows.shape[0] if rows is not None else 0)

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return equal weights on each token's pieces."""
        return SmootherWeights(ids, near=self._pieces.of(ids))

    def rows(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return the means, and the anchors' mean where a token has no pieces."""
        found = self.mix(ids) if mix is None else mix
        rows = super().rows(ids, found)
        empty = pieceless(found.near)
        if empty.any():
            rows[empty] = mean_row(self.context.needed_anchor_rows()).astype(np.float32)
        return rows


def pieceless(near: sparse.csr_array | None) -> np.ndarray:
    """Return which rows of sparse weights are empty, ``[b]`` of bool."""
    assert near is not None
    return np.diff(near.indptr) == 0
