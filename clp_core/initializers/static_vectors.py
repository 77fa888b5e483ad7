"""Word vectors instead of a helper model: the rules of FOCUS and WECHSEL over vectors that the user gives."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from clp_core.embeddings.nearest import largest_products, unit
from clp_core.errors import InputError
from clp_core.initializers.base import Context, Initializer, Setting, SmootherWeights
from clp_core.initializers.random import drawn_rows, mean_and_spread
from clp_core.initializers.smoother import Smoother, blocks_of_products
from clp_core.initializers.sparsemax import sparsemax, stacked
from clp_core.initializers.subword_mean import pieceless
from clp_core.initializers.topk import softmax


class StaticVectors(Initializer):
    """Two published rules over static vectors f of the tokens.

    FOCUS (Dobler and de Melo 2023, section 2), with target vectors alone: ``w_v = sparsemax(cos(f_v, f_u))`` over the
    anchors u that have a vector. WECHSEL (Minixhofer et al. 2022, section 3), with source vectors and a dictionary too:
    the two spaces are aligned by orthogonal Procrustes, then ``w_v = softmax(cos(f_v, f_s) / 0.1)`` over the 10 nearest
    of all source tokens s. Under either rule a token without a vector is drawn from N(mean, std) of the anchors' rows.
    """

    name = "static-vectors"
    summary = "FOCUS or WECHSEL over word vectors that you give as .vec text"
    formula = r"e_v = \sum_u w_u e_u, \quad w \text{ from the cosines of word vectors}"
    from_helper = False
    forms_weights = True
    settings = (
        Setting("k", 10, "WECHSEL: nearest source tokens that take part", minimum=1, whole=True),
        Setting("temperature", 0.1, "WECHSEL: of the softmax over cosines", minimum=1e-3),
    )

    def fit(self, context: Context) -> FittedVectors:
        """Take the vectors.

        Raises:
            InputError: the user gave none.
        """
        if context.vectors is None:
            raise InputError("static-vectors needs word vectors of the target language: --target-vectors FILE.vec")
        return FittedVectors(context, self.resolve(context.settings))


class FittedVectors(Smoother):
    """Weights by static vectors; its columns are the anchors under FOCUS, all source tokens under WECHSEL."""

    def __init__(self, context: Context, settings: dict[str, float]) -> None:
        """Take a context that has vectors, and all settings."""
        assert context.vectors is not None
        self._settings = settings
        self.is_wechsel = context.vectors.source is not None
        self.basis = "source" if self.is_wechsel else "anchors"
        rows = context.source_rows if self.is_wechsel else context.anchor_rows
        super().__init__(context, rows, 0 if rows is None else rows.shape[0])
        self._target = unit(context.vectors.target)
        base = unit(context.vectors.source) if context.vectors.source is not None else self._target[context.anchor_ids]
        if rows is not None:
            base = base[: rows.shape[0]]  # a tokenizer may have ids beyond the source's rows
        self._usable = np.flatnonzero(base.any(axis=1))
        self._base = base[self._usable]
        self._mean, self._std = np.zeros(0), np.zeros(0)
        if context.anchor_rows is not None:
            self._mean, self._std = mean_and_spread(context.anchor_rows)

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the weights; a token without a vector has none."""
        queries = self._target[ids]
        known = np.flatnonzero(queries.any(axis=1)) if len(self._usable) else np.zeros(0, dtype=np.int64)
        near = self._wechsel(ids[known], queries[known]) if self.is_wechsel else self._focus(queries[known])
        spread = near.tocoo()
        places = (known[spread.row], self._usable[spread.col])
        return SmootherWeights(ids, near=sparse.csr_array((spread.data, places), (len(ids), self.n_columns)))

    def _focus(self, queries: np.ndarray) -> sparse.csr_array:
        parts = [sparsemax(queries[part] @ self._base.T) for part in blocks_of_products(len(queries), len(self._base))]
        return stacked(parts, len(self._base))

    def _wechsel(self, ids: np.ndarray, queries: np.ndarray) -> sparse.csr_array:
        """Return the softmax over the nearest source tokens; a hidden token's own match is never among them."""
        k = int(self._settings["k"])
        cosines, found = largest_products(queries, self._base, k + 1, use_gpu=self.context.device.is_gpu)
        if self.context.source_ids is not None:
            cosines[self._usable[found] == self.context.source_ids[ids, None]] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines, found = np.take_along_axis(cosines, order, 1), np.take_along_axis(found, order, 1)
        shares = softmax(cosines.astype(np.float64), self._settings["temperature"]) if len(queries) else cosines
        starts = np.arange(len(queries) + 1) * found.shape[1]
        return sparse.csr_array((shares.ravel(), found.ravel(), starts), (len(queries), len(self._base)))

    def rows(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return the weighted sums, and random rows for tokens without a vector."""
        found = self.mix(ids) if mix is None else mix
        rows = super().rows(ids, found)
        empty = pieceless(found.near)
        if empty.any():
            rows[empty] = drawn_rows(self._mean, self._std, self.context.seed, ids[empty])
        return rows
