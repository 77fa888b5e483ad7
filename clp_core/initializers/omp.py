"""Orthogonal matching pursuit: each helper row as a sum of few anchors' helper rows, the same sum of source rows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from clp_core.embeddings.row_source import Subset, block_ranges
from clp_core.errors import InputError
from clp_core.initializers.base import Context, Initializer, Setting, SmootherWeights
from clp_core.initializers.smoother import Smoother
from clp_core.initializers.sparsemax import stacked


class Omp(Initializer):
    """Orthogonal matching pursuit (Pati et al. 1993), as Goddard and Fernandes Neto (2025) use it on embeddings.

    Step by step the anchor with the largest absolute inner product with what is left of ``h_v`` is added, and all
    coefficients are fitted anew by least squares,

        c_v = argmin || h_v - sum_{u in S} c_u h_u ||,   e_v = sum_{u in S} c_u e_u.

    The coefficients need not sum to 1. With k near the helper's width the least squares become singular and the rows
    blow up, so k is at most half of it.
    """

    name = "omp"
    summary = "few anchors that add up to the helper row (orthogonal matching pursuit)"
    formula = (
        r"e_v = \sum_{u \in S} w_u e_u, \quad w = \arg\min_w \big\| h_v - \sum_{u \in S} w_u h_u \big\|, \ |S| \le k"
    )
    settings = (Setting("k", 16, "anchors that are added up; at most half the helper's width", minimum=1, whole=True),)

    def fit(self, context: Context) -> FittedOmp:
        """Take the anchors' helper rows.

        Raises:
            InputError: k was asked for and is more than half the helper's width.
        """
        most = max(1, context.helper_rows.shape[1] // 2)
        k = int(context.parameters.get("k", min(self.resolve(context.settings)["k"], context.n_anchors or 1)))
        if "k" in context.settings and "k" not in context.parameters and k > most:
            raise InputError(
                f"k={k} is more than half the helper's width for omp, which is singular; give {most} or less"
            )
        return FittedOmp(context, min(k, most))


class FittedOmp(Smoother):
    """Pursuit over the anchors of one pair."""

    def __init__(self, context: Context, k: int) -> None:
        """Take a context and the number of steps."""
        super().__init__(context, context.anchor_rows, context.n_anchors)
        self._k = k
        self.parameters = {"k": k}
        self._anchors = Subset(context.helper_rows, context.anchor_ids)

    @cached_property
    def _atoms(self) -> np.ndarray:
        return self._anchors.take(np.arange(self.n_columns))

    @cached_property
    def _held(self) -> Any:
        return self.context.device.hold(np.ascontiguousarray(self._atoms.T))

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the coefficients, in blocks of tokens within the stated bound."""
        targets = self.context.helper_rows.take(ids)
        widest = max(self.n_columns, 2 * self._k * targets.shape[1])
        parts = [self._pursue(targets[part]) for part in block_ranges(len(ids), widest)]
        near = stacked(parts, self.n_columns)
        near.eliminate_zeros()
        empty = ~targets.any(axis=1)  # nothing to pursue: such a token gets the mean
        constants = np.where(empty, 1 / max(self.n_columns, 1), 0.0)
        return SmootherWeights(ids, constants=constants if empty.any() else None, near=near)

    def _pursue(self, targets: np.ndarray) -> sparse.csr_array:
        """Pursue a block of helper rows ``[b, d]``: products in float32, least squares in float64."""
        n_rows, width = targets.shape
        wide = targets.astype(np.float64)
        left, lines = wide.copy(), np.arange(n_rows)
        chosen = np.zeros((n_rows, 0), dtype=np.int64)
        basis = np.zeros((n_rows, self._k, width))
        triangle = np.zeros((n_rows, self._k, self._k))
        for step in range(self._k):
            products = np.abs(self.context.device.product(left.astype(np.float32), self._held))
            if step:
                products[lines[:, None], chosen] = -1
            new = products.argmax(axis=1)
            atoms = self._atoms[new].astype(np.float64)
            along = np.einsum("bkd,bd->bk", basis[:, :step], atoms)
            rest = atoms - np.einsum("bk,bkd->bd", along, basis[:, :step])
            again = np.einsum(
                "bkd,bd->bk", basis[:, :step], rest
            )  # twice is enough (Kahan): the basis stays orthogonal
            rest -= np.einsum("bk,bkd->bd", again, basis[:, :step])
            length = np.linalg.norm(rest, axis=1)
            size = np.linalg.norm(atoms, axis=1)
            fresh = length > 1e-10 * np.maximum(size, np.finfo(float).tiny)
            direction = np.divide(rest, length[:, None], out=np.zeros_like(rest), where=fresh[:, None])
            triangle[:, :step, step] = along + again
            triangle[:, step, step] = np.where(fresh, length, 1.0)
            basis[:, step] = direction
            chosen = np.column_stack([chosen, new])
            left -= np.einsum("bd,bd->b", direction, left)[:, None] * direction
        onto = np.einsum("bkd,bd->bk", basis, wide)
        coefficients = np.linalg.solve(triangle, onto[:, :, None])[:, :, 0]
        starts = np.arange(n_rows + 1) * self._k
        found = sparse.csr_array((coefficients.ravel(), chosen.ravel(), starts), (n_rows, self.n_columns))
        found.sort_indices()
        return found
