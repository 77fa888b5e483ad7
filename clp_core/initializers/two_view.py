"""Ridge regression from two views of a token: its helper row, and the source rows of its pieces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from clp_core.embeddings.row_source import RowSource
from clp_core.initializers.anchor_sums import Features, Moments
from clp_core.initializers.base import Context, Initializer, Setting, SubwordSegmentation
from clp_core.initializers.linear import RESIDUAL_SETTINGS, FeatureMap, FittedLinear
from clp_core.initializers.smoother import sparse_product

TWO_VIEWS = "two views"
"""The name of the features, by which sums over them are kept."""
ROUNDING = 1e-14
"""Squared distances of this share of the squared values are float32's rounding."""


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
        views = TwoViews(context.helper_rows, context.source_rows, context.needed_pieces())
        features = Features(TWO_VIEWS, views)
        moments = context.sums.moments(features, context.hidden)
        scaled = ScaledViews.of(moments, views, settings["pieces"], settings["traits"])
        return FittedLinear(context, settings, features, moments, scaled)


@dataclass(frozen=True)
class TwoViews:
    """What is known of tokens by target id, made when it is asked for.

    Side by side: the helper row, the mean source row of its pieces, its traits, and 1 where it has pieces.

    Attributes:
        helper: helper rows, ``[n_target, d]``.
        source: all source rows, ``[n_source, D]``.
        pieces: the target's tokens in source tokens.
    """

    helper: RowSource
    source: RowSource
    pieces: SubwordSegmentation

    @cached_property
    def n_traits(self) -> int:
        """Number of traits."""
        return self.pieces.traits(np.zeros(1, dtype=np.int64)).shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens, and of what is known of each."""
        return self.helper.shape[0], self.helper.shape[1] + self.source.shape[1] + self.n_traits + 1

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return what is known of these target ids, float32; a token without pieces has zeros as their mean."""
        weights = self.pieces.of(ids)
        has_pieces = np.diff(weights.indptr) > 0
        views = (
            self.helper.take(ids),
            sparse_product(weights, self.source),
            self.pieces.traits(ids).astype(np.float32),
            has_pieces[:, None].astype(np.float32),
        )
        return np.concatenate(views, axis=1)


@dataclass(frozen=True)
class ScaledViews(FeatureMap):
    """The views as features: pieces less their mean over the anchors that have any, each view with its factor.

    A token without pieces so has a zero there: it counts as one whose pieces are the mean.

    Attributes:
        centre: what is taken off where there are pieces, ``[p]``, 0 but for the pieces.
        factors: what each feature is multiplied with, ``[p]``.
    """

    centre: np.ndarray
    factors: np.ndarray

    @classmethod
    def of(cls, moments: Moments, views: TwoViews, weight: float, traits: float) -> ScaledViews:
        """Scale the views by the anchors' moments; ``weight`` is the pieces', ``traits`` the traits'."""
        width, n = views.helper.shape[1], max(moments.count, 1)
        pieces = slice(width, width + views.source.shape[1])
        centre = np.zeros(len(moments.mean) - 1)
        centre[pieces] = moments.mean[pieces] / (moments.mean[-1] or 1.0)
        raw = np.diag(moments.second)[:-1] / n
        variances = np.diag(cls(centre, np.ones_like(centre)).second(moments.second)) / n
        factors = np.full_like(centre, traits)
        for part, factor in ((slice(0, width), 1.0), (pieces, weight)):
            square = variances[part].sum()
            # Rows that are all the same differ by rounding alone.
            rounding = ROUNDING * (moments.mean[part] ** 2 + centre[part] ** 2 + raw[part]).sum()
            factors[part] = factor / (np.sqrt(square) if square > rounding else 1.0)
        return cls(centre, factors)

    def features(self, known: np.ndarray) -> np.ndarray:
        """Return features ``[b, p]`` of what is known less its mean, float64 ``[b, p + 1]``."""
        return (known[:, :-1] - known[:, -1:] * self.centre) * self.factors

    def transposed(self, directions: np.ndarray) -> np.ndarray:
        """Return directions ``[p, q]`` of the features as such of what is known, ``[p + 1, q]``."""
        scaled = directions * self.factors[:, None]
        return np.concatenate([scaled, -(self.centre @ scaled)[None]])

    def second(self, second: np.ndarray) -> np.ndarray:
        """Return the second moment ``[p, p]`` of features from that of what is known, ``[p + 1, p + 1]``."""
        return self.cross(self.cross(second).T)

    def cross(self, cross: np.ndarray) -> np.ndarray:
        """Return the cross moment ``[p, D]`` of features and rows from that of what is known, ``[p + 1, D]``."""
        return (cross[:-1] - np.outer(self.centre, cross[-1])) * self.factors[:, None]
