"""The first two principal axes of an embedding matrix, on which the rows of other models can be placed too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clp_core.embeddings.nearest import unit
from clp_core.embeddings.row_source import RowSource

MOST_FITTED = 20_000
WIDEST_EXACT = 1_024


@dataclass(frozen=True)
class PrincipalAxes:
    """Where a picture by PCA has its origin and its axes.

    Attributes:
        values: the mean and the two axes, of rows scaled to length 1, float32 ``[3, d]``.
    """

    values: np.ndarray

    @classmethod
    def of(cls, rows: RowSource, ids: np.ndarray, seed: int = 42) -> PrincipalAxes:
        """Find the axes of some rows; of more than 20,000 the same number is drawn, with a seed.

        Args:
            rows: ``[n_rows, d]``.
            ids: which of them, ``[n]``.
            seed: of the draw, and of the randomised decomposition that rows wider than 1,024 get.
        """
        from sklearn.decomposition import PCA

        if len(ids) > MOST_FITTED:
            ids = np.sort(np.random.default_rng(seed).choice(ids, MOST_FITTED, replace=False))
        block = unit(rows.take(ids))
        values = np.zeros((3, rows.shape[1]), dtype=np.float32)
        n_axes = min(2, *block.shape) if len(block) > 1 else 0
        solver = "auto" if rows.shape[1] <= WIDEST_EXACT else "randomized"
        if n_axes:
            found = PCA(n_axes, svd_solver=solver, random_state=seed).fit(block)
            values[0], values[1 : 1 + n_axes] = found.mean_, found.components_
        return cls(values)

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Return where rows ``[n, d]`` lie on the axes once scaled to length 1, float32 ``[n, 2]``."""
        return np.asarray((unit(rows) - self.values[0]) @ self.values[1:].T, dtype=np.float32)
