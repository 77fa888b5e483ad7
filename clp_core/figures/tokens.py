"""Figures about single rows, their health, and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clp_core.figures.style import COLOURS, SERIES, literal, titled
from clp_core.transfer.explanation import Explanation
from clp_core.transfer.provenance import MAX_NORM_RATIO


def anchor_bars(explanation: Explanation, shown: Sequence[str]) -> go.Figure:
    """Show the largest weights of one token's anchors: length = weight, colour = cosine in the helper.

    Args:
        explanation: of a missing token.
        shown: the anchors as text, in the same order; the number after it is the source row.
    """
    anchors = explanation.anchors
    marker: dict[str, Any] = {"color": COLOURS["copied"]}
    told = "%{y}: weight %{x:.5f}"
    if all(anchor.cosine is not None for anchor in anchors):
        told += ", cosine %{marker.color:.3f}"
        marker = {
            "color": np.array([anchor.cosine for anchor in anchors]),
            "colorscale": "RdBu_r",
            "cmin": -1,
            "cmax": 1,
            "colorbar": {"title": "cosine", "thickness": 10},
            "line": {"color": "#8C8C8C", "width": 0.5},
        }
    figure = go.Figure(
        go.Bar(
            y=[f"{literal(text)}  #{anchor.source_id}" for text, anchor in zip(shown, anchors, strict=True)],
            x=np.array([anchor.weight for anchor in anchors]),
            orientation="h",
            marker=marker,
            hovertemplate=told + "<extra></extra>",
        )
    )
    figure.update_layout(yaxis={"autorange": "reversed", "type": "category"})
    title = f"The {len(anchors)} heaviest anchors" if len(anchors) > 1 else "The only anchor"
    return titled(figure, title, "weight", "", max(220, 60 + 26 * len(anchors)))


def health_histograms(table: pd.DataFrame, n_anchors: int, dense: bool) -> tuple[go.Figure, go.Figure]:
    """Show how n_eff and norm ratio are spread over the initialised rows, with the bounds of what is at risk.

    Args:
        table: a stored provenance.
        n_anchors: number of anchors.
        dense: whether the method uses all anchors.
    """
    rows = table[table["status"] == "initialised"]
    n_eff = go.Figure(go.Histogram(x=rows["n_eff"].dropna().to_numpy(), nbinsx=60, marker_color=COLOURS["initialised"]))
    if dense:
        n_eff.add_vline(x=n_anchors / 2, line_dash="dot", line_color=SERIES[6], annotation_text="half the anchors")
    ratio = go.Figure(go.Histogram(x=rows["norm_ratio"].to_numpy(), nbinsx=60, marker_color=COLOURS["initialised"]))
    ratio.add_vline(
        x=MAX_NORM_RATIO, line_dash="dot", line_color=SERIES[6], annotation_text=f"{MAX_NORM_RATIO:g} times as long"
    )
    return (
        titled(n_eff, "Effective anchors of the new rows", "n_eff", "rows", 300),
        titled(ratio, "Length of the new rows", "length over the mean length of copied rows", "rows", 300),
    )


def agreement_bars(histogram: Sequence[int], first: str, second: str, mean: float) -> go.Figure:
    """Show how many tokens have 0, 1, ... k of their k nearest neighbours in common in two models.

    Args:
        histogram: number of tokens by common neighbours, ``[k + 1]``.
        first: name of the one model.
        second: name of the other.
        mean: mean share of common neighbours.
    """
    k = len(histogram) - 1
    total = max(sum(histogram), 1)
    figure = go.Figure(
        go.Bar(
            x=np.arange(k + 1),
            y=np.array(histogram),
            marker_color=SERIES[0],
            customdata=np.array(histogram) / total,
            hovertemplate="%{x} in common: %{y:,} tokens (%{customdata:.1%})<extra></extra>",
        )
    )
    figure.add_vline(x=mean * k, line_dash="dot", line_color=SERIES[6], annotation_text=f"mean {mean * k:.2f}")
    figure.update_xaxes(dtick=1)
    title = f"Nearest {k} neighbours in common: {first} and {second}"
    return titled(figure, title, "neighbours in common", "tokens", 320)
