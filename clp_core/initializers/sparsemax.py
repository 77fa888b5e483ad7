"""CLP+: sparsemax over the cosines to all anchors, so that far ones take no part at all."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from clp_core.embeddings.nearest import unit
from clp_core.embeddings.row_source import Subset
from clp_core.initializers.base import Context, Initializer, SmootherWeights
from clp_core.initializers.smoother import Smoother, blocks_of_products


class ClpSparse(Initializer):
    """The published rule's weights put through sparsemax (CLP+, after FOCUS, Dobler and de Melo 2023).

        w_v = sparsemax(cos(h_v, h_u) over all anchors u)

    Sparsemax (Martins and Astudillo 2016) is the projection onto the probability simplex, ``max(z - tau, 0)`` with tau
    such that the weights sum to 1: most are exactly 0, none is negative.
    """

    name = "clp-sparse"
    summary = "CLP+: sparsemax over the cosines, so that far anchors take no part"
    formula = r"e_v = \sum_u w_u e_u, \quad w = \mathrm{sparsemax}\big(\cos(h_v, h_u)\big)_u"
    forms_weights = True

    def fit(self, context: Context) -> FittedSparse:
        """Take the anchors' helper rows."""
        return FittedSparse(context)


class FittedSparse(Smoother):
    """Sparsemax weights for one pair and one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Take a context."""
        super().__init__(context, context.anchor_rows, context.n_anchors)

    @cached_property
    def _held_anchors(self) -> Any:
        anchors = Subset(self.context.helper_rows, self.context.anchor_ids)
        return self.context.device.hold(np.ascontiguousarray(unit(anchors.take(np.arange(self.n_columns))).T))

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the sparsemax of the cosines, in blocks of tokens within the stated bound."""
        queries = unit(self.context.helper_rows.take(ids))
        parts = [
            sparsemax(self.context.device.product(queries[part], self._held_anchors))
            for part in blocks_of_products(len(ids), self.n_columns)
        ]
        return SmootherWeights(ids, near=stacked(parts, self.n_columns))


def stacked(parts: list[sparse.csr_array], n_columns: int) -> sparse.csr_array:
    """Return blocks of sparse rows one below the other."""
    return sparse.csr_array(sparse.vstack(parts, format="csr")) if parts else sparse.csr_array((0, n_columns))


def sparsemax(scores: np.ndarray) -> sparse.csr_array:
    """Return the sparsemax of each row, as sparse rows that sum to 1.

    tau is found by Michelot's iteration: the mean excess of all entries that are still above it, until none drops out.

    Args:
        scores: ``[b, n]``.
    """
    values = scores.astype(np.float64)
    tau = (values.sum(axis=1) - 1) / max(values.shape[1], 1)
    support = np.full(len(values), -1)
    while True:
        above = values > tau[:, None]
        counts = above.sum(axis=1)
        if (counts == support).all():
            break
        support = counts
        tau = (np.where(above, values, 0).sum(axis=1) - 1) / np.maximum(counts, 1)
    lines, columns = np.nonzero(above)
    weights = values[lines, columns] - tau[lines]
    return sparse.csr_array((weights, (lines, columns)), shape=values.shape)
