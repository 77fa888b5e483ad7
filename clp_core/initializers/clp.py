"""CLP as published: the mean of all anchors' source rows, weighted by cosine in the helper, negatives kept."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.tensors import Subset, mean_row, row_blocks


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
    dense = True

    def fit(self, context: Context) -> FittedClp:
        """Sum over the anchors once."""
        return FittedClp(context)


class FittedClp(Fitted):
    """The published rule for one pair and one embedding matrix."""

    def __init__(self, context: Context) -> None:
        """Sum ``W`` and ``z`` over the anchors, block by block."""
        self._context = context
        self._anchors = Subset(context.helper_rows, context.anchor_ids)
        width = self._anchors.shape[1]
        source = context.anchor_rows
        self._sum = np.zeros(width)
        product = np.zeros((width, source.shape[1])) if source is not None else None
        for part, block in row_blocks(self._anchors):
            wide = block.astype(np.float64)
            inverse = 1 / lengths(wide)
            self._sum += inverse @ wide
            if source is not None and product is not None:
                unit = block * inverse[:, None].astype(np.float32)
                product += unit.T @ source.take(np.arange(part.start, part.stop))
        self._product = None if product is None else product.astype(np.float32)

    @cached_property
    def _gram(self) -> np.ndarray:
        """The Gram matrix of the anchors' normalised helper rows, float64 ``[d, d]``."""
        gram = np.zeros((len(self._sum), len(self._sum)))
        for _, block in row_blocks(self._anchors):
            wide = block.astype(np.float64)
            wide /= lengths(wide)[:, None]
            gram += wide.T @ wide
        return gram

    @cached_property
    def _mean(self) -> np.ndarray:
        """The mean of the anchors' source rows, float32 ``[D]``, for tokens whose denominator is 0."""
        return mean_row(self._context.needed_anchor_rows()).astype(np.float32)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the new rows, float32 ``[len(ids), D]``."""
        if self._product is None:
            raise ValueError("fitted without source rows: only weights can be asked for")
        block = self._context.helper_rows.take(ids)
        # The length of h_v cancels: (h^ / (h^ z)) = h / (h z).
        denominator = block.astype(np.float64) @ self._sum
        defined = denominator != 0
        scale = np.divide(1, denominator, out=np.zeros_like(denominator), where=defined)
        # In float64 first: h may be long and the scale tiny, or the other way round.
        rows = (block * scale[:, None]).astype(np.float32) @ self._product
        if not defined.all():
            rows[~defined] = self._mean
        return rows

    def _units(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the normalised helper rows ``[b, d]`` and their denominators ``[b]``, both float64."""
        wide = self._context.helper_rows.take(ids).astype(np.float64)
        wide /= lengths(wide)[:, None]
        return wide, wide @ self._sum

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """Return ``cos / sum cos``, float64 ``[len(ids), n]``."""
        unit, denominator = self._units(ids)
        anchors = self._anchors.take(np.arange(self._context.n_anchors)).astype(np.float64)
        anchors /= lengths(anchors)[:, None]
        defined = denominator != 0
        weights = np.full((len(ids), self._context.n_anchors), 1 / max(self._context.n_anchors, 1))
        weights[defined] = (unit[defined] @ anchors.T) / denominator[defined, None]
        return weights

    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return ``(h^ z)^2 / (h^' G h^)`` with the Gram matrix G of the anchors."""
        unit, denominator = self._units(ids)
        squares = np.einsum("bi,bi->b", unit @ self._gram, unit)
        count = np.full(len(ids), float(self._context.n_anchors))
        return np.divide(denominator**2, squares, out=count, where=(denominator != 0) & (squares > 0))
