"""The k nearest anchors, weighted by a softmax of their cosines; and the search for nearest anchors itself."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from clp_core.embeddings.nearest import largest_products, unit
from clp_core.embeddings.row_source import RowSource, Subset, block_ranges, mean_row
from clp_core.initializers.base import Context, Initializer, Setting, SmootherWeights
from clp_core.initializers.smoother import Smoother


class ClpTopk(Initializer):
    """CLP with a softmax over the k nearest anchors instead of all cosines.

        e_v = sum_{u in N_k(v)} softmax_u(cos(h_v, h_u) / temperature) e_u

    This is the weighting of WECHSEL (Minixhofer et al. 2022, section 3) on the helper's rows. ``centred`` takes the
    anchors' mean off all helper rows first, and with it the direction that all rows of an anisotropic helper share.
    """

    name = "clp-topk"
    summary = "softmax over the k nearest anchors in the helper"
    formula = (
        r"e_v = \frac{\sum_u a_u e_u}{\sum_u a_u}, \quad a_u = \exp(\cos(h_v, h_u) / T) "
        r"\text{ for the } k \text{ nearest, else } 0"
    )
    settings = (
        Setting("k", 32, "nearest anchors that take part", minimum=1, whole=True),
        Setting("temperature", 0.1, "of the softmax over cosines; small: the nearest counts alone", minimum=1e-3),
        Setting("centred", 1, "1: cosines of rows less the anchors' mean; 0: of the rows as they are", maximum=1,
                whole=True),
    )  # fmt: skip

    def fit(self, context: Context) -> FittedTopk:
        """Take the anchors' helper rows."""
        return FittedTopk(context, self.resolve(context.settings))


class FittedTopk(Smoother):
    """The nearest anchors for one pair and one embedding matrix."""

    def __init__(self, context: Context, settings: dict[str, float]) -> None:
        """Take a context and all settings."""
        super().__init__(context, context.anchor_rows, context.n_anchors)
        self._settings = settings
        self._nearest = AnchorSearch(context, centred=bool(settings["centred"]))

    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the softmax over the nearest anchors."""
        cosines, found = self._nearest.of(ids, int(self._settings["k"]))
        shares = softmax(cosines, self._settings["temperature"])
        starts = np.arange(len(ids) + 1) * found.shape[1]
        near = sparse.csr_array((shares.ravel(), found.ravel(), starts), (len(ids), self.n_columns))
        return SmootherWeights(ids, near=near)


class AnchorSearch:
    """Nearest anchors by cosine, exact, by FAISS in blocks of anchors."""

    def __init__(self, context: Context, centred: bool) -> None:
        """Take the anchors of a context; ``centred`` takes their mean off first."""
        self._context = context
        self._rows = context.helper_rows
        self._anchors = Subset(context.helper_rows, context.anchor_ids)
        self._centred = centred
        self._use_gpu = context.device.is_gpu

    @cached_property
    def _centre(self) -> np.ndarray:
        return mean_row(self._anchors).astype(np.float32) if self._centred else np.zeros(1, dtype=np.float32)

    def units(self, rows: RowSource, ids: np.ndarray) -> np.ndarray:
        """Return rows as they are compared: centred or not, of length 1, float32."""
        return unit(rows.take(ids) - self._centre)

    @cached_property
    def _base(self) -> np.ndarray:
        n_anchors = self._anchors.shape[0]
        return np.concatenate(
            [self.units(self._anchors, np.arange(p.start, p.stop)) for p in block_ranges(*self._anchors.shape)]
        ) if n_anchors else np.zeros((0, self._anchors.shape[1]), dtype=np.float32)  # fmt: skip

    def of(self, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines ``[b, k]`` float64 and positions ``[b, k]`` of the nearest anchors, at most all of them."""
        context = self._context
        return context.sums.nearest(lambda: self._search(ids, k), context.hidden, ids, self._centred, k)

    def _search(self, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cosines, found = largest_products(
            self.units(self._rows, ids), self._base, min(k, self._anchors.shape[0]), use_gpu=self._use_gpu
        )
        return cosines.astype(np.float64), found


def softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax of ``scores / temperature`` along the last axis, float64."""
    wide = np.exp((scores - scores.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(wide / wide.sum(axis=-1, keepdims=True))
