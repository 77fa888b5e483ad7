"""CLP as published: the mean of all anchors' source rows, weighted by cosine in the helper, negatives kept."""

from __future__ import annotations

import numpy as np

from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.tensors import Subset, row_blocks


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows ``[n, d]`` scaled to length 1, in float64; a zero row stays zero."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)


class Clp(Initializer):
    """Ostendorff and Rehm (2023), section 3, in closed form.

    The published rule is, over all anchors u,

        e_v = sum_u cos(h_v, h_u) e_u / sum_u cos(h_v, h_u).

    The cosine is linear in the normalised rows, so with ``W = H^' E`` (``[d, D]``) and ``z = sum_u h^_u`` (``[d]``)
    the row is ``(h^_v / (h^_v z)) W``: one sum over the anchors serves all missing tokens. ``z``, the denominators and
    the Gram matrix of the anchors are kept in float64. Where the denominator is exactly 0 (a helper row of zeros) the
    published rule is undefined; such a token gets the mean of the anchors' rows.
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
        """Build ``W``, ``z`` and the Gram matrix from the anchors, block by block."""
        self._context = context
        helper = Subset(context.helper_rows, context.anchor_ids)
        width = helper.shape[1]
        self._sum = np.zeros(width)
        self._gram = np.zeros((width, width))
        source = context.anchor_rows
        product = np.zeros((width, source.shape[1])) if source is not None else None
        mean = np.zeros(source.shape[1]) if source is not None else None
        widest = max(width, source.shape[1] if source is not None else 0)
        for part, block in row_blocks(helper, block_bytes=(64 << 20) * width // max(widest, 1)):
            unit = unit_rows(block)
            self._sum += unit.sum(axis=0)
            self._gram += unit.T @ unit
            if source is not None and product is not None and mean is not None:
                rows = source.take(np.arange(part.start, part.stop))
                product += unit.astype(np.float32).T @ rows
                mean += rows.sum(axis=0, dtype=np.float64)
        self._product = None if product is None else product.astype(np.float32)
        self._mean = None if mean is None else (mean / max(context.n_anchors, 1)).astype(np.float32)

    def _units(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the normalised helper rows ``[b, d]`` and their denominators ``[b]``, both float64."""
        unit = unit_rows(self._context.helper_rows.take(ids))
        return unit, unit @ self._sum

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the new rows, float32 ``[len(ids), D]``."""
        if self._product is None or self._mean is None:
            raise ValueError("fitted without source rows: only weights can be asked for")
        unit, denominator = self._units(ids)
        defined = denominator != 0
        scaled = np.divide(unit, denominator[:, None], out=np.zeros_like(unit), where=defined[:, None])
        rows = scaled.astype(np.float32) @ self._product
        rows[~defined] = self._mean
        return rows

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """Return ``cos / sum cos``, float64 ``[len(ids), n]``."""
        unit, denominator = self._units(ids)
        anchors = unit_rows(self._context.helper_rows.take(self._context.anchor_ids))
        defined = denominator != 0
        weights = np.full((len(ids), self._context.n_anchors), 1 / max(self._context.n_anchors, 1))
        weights[defined] = (unit[defined] @ anchors.T) / denominator[defined, None]
        return weights

    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return ``(h^ z)^2 / (h^' G h^)`` with the Gram matrix G of the anchors."""
        unit, denominator = self._units(ids)
        squares = np.einsum("bi,ij,bj->b", unit, self._gram, unit, optimize=True)
        count = np.full(len(ids), float(self._context.n_anchors))
        return np.divide(denominator**2, squares, out=count, where=(denominator != 0) & (squares > 0))
