"""Every missing token gets the mean of the anchors' source rows."""

from __future__ import annotations

import numpy as np

from clp_core.initializers.base import Context, Initializer, SmootherWeights
from clp_core.initializers.smoother import Smoother


class Mean(Initializer):
    """The mean of the anchors' rows: a smoother with the weights ``1/n``, blind to the token."""

    name = "mean"
    summary = "the mean of the anchors' rows for every token"
    formula = r"e_v = \tfrac{1}{n} \sum_u e_u"
    dense = True

    def fit(self, context: Context) -> FittedMean:
        """Take the mean."""
        return FittedMean(context, context.anchor_rows, context.n_anchors)


class FittedMean(Smoother):
    """The mean row of one embedding matrix."""

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return ``1/n`` for every anchor."""
        return SmootherWeights(ids, constants=np.full(len(ids), 1 / max(self.n_columns, 1)))
