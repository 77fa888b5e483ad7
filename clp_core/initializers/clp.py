"""CLP as published: the mean of all anchors' source rows, weighted by cosine in the helper, negatives kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clp_core.embeddings.row_source import Subset
from clp_core.initializers.base import Context, Initializer, SmootherWeights
from clp_core.initializers.smoother import Smoother


def lengths(rows: np.ndarray) -> np.ndarray:
    """Return the lengths of float64 rows ``[n, d]``; 1 for a row of zeros, so that dividing leaves it zero."""
    found = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    found[found == 0] = 1
    return found


class Clp(Initializer):
    """Ostendorff and Rehm (2023), section 3, in closed form.

    The published rule is, over all anchors u,

        e_v = sum_u cos(h_v, h_u) e_u / sum_u cos(h_v, h_u).

    The cosine is linear in the normalised rows, so with ``W = H^' E`` (``[d, D]``) and ``z = sum_u h^_u`` (``[d]``)
    the row is ``(h^_v / (h^_v z)) W``: one sum over the anchors serves all missing tokens. ``z``, the denominators and
    the Gram matrix of the anchors are kept in float64, and the helper row is scaled before the product with W, not the
    wide row after it. Where the denominator is exactly 0 (a helper row of zeros) the published rule is undefined; such
    a token gets the mean of the anchors' rows.
    """

    name = "clp"
    summary = "published rule: cosine-weighted mean over all anchors"
    formula = r"e_v = \frac{\sum_u \cos(h_v, h_u)\, e_u}{\sum_u \cos(h_v, h_u)}"
    dense = True

    def filled_in(self, terms: Sequence[tuple[int, float, float | None]], n_more: int | None) -> str:
        """Return the published quotient with its numbers: cosines above, their sum over all anchors below."""
        _, weight, cosine = terms[0]
        if not cosine or weight == 0:
            return super().filled_in(terms, n_more)
        above = " ".join(f"{'+' if (c or 0) >= 0 else '-'} {abs(c or 0):.4f}\\,E_{{{i}}}" for i, _, c in terms)
        more = self.dots(n_more)
        return rf"e_v = \frac{{{above.removeprefix('+ ')}{more}}}{{{cosine / weight:.4f}}}"

    def fit(self, context: Context) -> FittedClp:
        """Sum over the anchors once."""
        return FittedClp(context)


class FittedClp(Smoother):
    """The published rule for one pair and one embedding matrix; its points are the anchors' normalised helper rows."""

    def __init__(self, context: Context) -> None:
        """Take the anchors; the sums over them are made when they are first asked for."""
        self._anchors = Subset(context.helper_rows, context.anchor_ids)
        super().__init__(context, context.anchor_rows, context.n_anchors, self._anchors.shape[1])

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Return normalised helper rows, float64 ``[m, d]``."""
        wide = self._anchors.take(positions).astype(np.float64)
        wide *= (1 / lengths(wide))[:, None]
        return wide

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return ``cos / sum cos`` as queries ``h^ / (h^ z)``, z the sum of the points."""
        block = self.context.helper_rows.take(ids).astype(np.float64)
        # The length of h_v cancels: (h^ / (h^ z)) = h / (h z).
        denominator = block @ self.point_sum
        defined = denominator != 0
        scale = np.divide(1, denominator, out=np.zeros_like(denominator), where=defined)
        constants = np.where(defined, 0.0, 1 / max(self.n_columns, 1))
        # In float64 here: h may be long and the scale tiny, or the other way round.
        block *= scale[:, None]
        return SmootherWeights(ids, block, None if defined.all() else constants)
