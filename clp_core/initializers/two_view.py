"""Ridge regression from two views of a token: its helper row, and the source rows of its pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clp_core.embeddings.row_source import RowSource, Subset, block_ranges, mean_row, row_blocks
from clp_core.initializers.base import Context, Initializer, Setting, SubwordSegmentation
from clp_core.initializers.linear import RESIDUAL_SETTINGS, FittedLinear
from clp_core.initializers.smoother import sparse_product


class TwoView(Initializer):
    """The regression of ``linear`` on more of what is known of a token.

    The features are ``x_v = [h_v / s_h, w (p_v - m_p) / s_p, r t_v]``: the helper row; the mean p of the source rows
    of the token's pieces (see ``subword-mean``), with weight w; and its traits t (no pieces, how many, bytes, word
    start). s are root mean square distances of the anchors' features from their mean. The rows stay weighted sums of
    anchors' rows, so n_eff and anchors mean the same; the residual of the nearest anchors is added as in ``linear``.
    """

    name = "two-view"
    summary = "ridge regression on the helper row and on the rows of the source's pieces, plus the nearest residuals"
    formula = (
        r"e_v = \bar e + (f_v - \bar f)(F^\top F + \lambda I)^{-1} F^\top (E - \bar e) + s \sum_{u \in N(v)} a_u r_u"
    )
    dense = True
    from_helper = False
    settings = (
        Setting("neighbours", 16, "nearest anchors whose residual is added; 0: none", whole=True),
        *RESIDUAL_SETTINGS,
        Setting("pieces", 1.0, "weight w of the pieces' rows against the helper's"),
        Setting("traits", 0.3, "weight r of the traits"),
    )

    def fit(self, context: Context) -> FittedLinear:
        """Scale the views on the anchors, and fit."""
        settings = self.resolve(context.settings)
        if context.source_rows is None:
            raise ValueError("this context has no source rows to take pieces from")
        return FittedLinear(
            context, settings, TwoViews.of(context, context.source_rows, settings["pieces"], settings["traits"])
        )


@dataclass(frozen=True)
class TwoViews:
    """Rows of features by target id, made when they are asked for.

    Attributes:
        helper: helper rows, ``[n_target, d]``.
        source: all source rows, ``[n_source, D]``.
        pieces: the target's tokens in source tokens.
        centre: mean over the anchors of their pieces' mean source row, ``[D]``.
        factors: what the two views and the traits are multiplied with.
        n_traits: number of traits.
    """

    helper: RowSource
    source: RowSource
    pieces: SubwordSegmentation
    centre: np.ndarray
    factors: tuple[float, float, float]
    n_traits: int

    @classmethod
    def of(cls, context: Context, source: RowSource, weight: float, traits: float) -> TwoViews:
        """Measure the anchors' views; ``weight`` is the pieces', ``traits`` the traits'."""
        pieces = context.needed_pieces()
        n_traits = pieces.traits(context.anchor_ids[:1]).shape[1]
        raw = cls(
            context.helper_rows, source, pieces, np.zeros(source.shape[1], np.float32), (1.0, 1.0, traits), n_traits
        )
        mean = mean_row(Subset(raw, context.anchor_ids))
        width = context.helper_rows.shape[1]
        pieceless = sum(
            int((np.diff(pieces.of(context.anchor_ids[part]).indptr) == 0).sum())
            for part in block_ranges(context.n_anchors, 1)
        )
        share = 1 - pieceless / max(context.n_anchors, 1)
        middle = (mean[width:-n_traits] / (share or 1.0)).astype(np.float32)
        centred = cls(context.helper_rows, source, pieces, middle, (1.0, 1.0, traits), n_traits)
        spread = np.zeros(2)
        for _, block in row_blocks(Subset(centred, context.anchor_ids)):
            spread += ((block[:, :width] - mean[:width]) ** 2).sum(), (block[:, width:-n_traits] ** 2).sum()
        lengths = np.sqrt(spread / max(context.n_anchors, 1))
        factors = 1 / (lengths[0] or 1.0), weight / (lengths[1] or 1.0), traits
        return cls(context.helper_rows, source, pieces, middle, factors, n_traits)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens and of features."""
        return self.helper.shape[0], self.helper.shape[1] + self.source.shape[1] + self.n_traits

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the features of these target ids, float32; a token without pieces has the centre as their mean."""
        weights = self.pieces.of(ids)
        means = sparse_product(weights, self.source)
        means[np.diff(weights.indptr) == 0] = self.centre
        views = (
            self.helper.take(ids) * np.float32(self.factors[0]),
            (means - self.centre) * np.float32(self.factors[1]),
            (self.factors[2] * self.pieces.traits(ids)).astype(np.float32),
        )
        return np.concatenate(views, axis=1)
