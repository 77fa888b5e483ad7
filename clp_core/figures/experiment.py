"""Figures of an experiment: its arms over their seeds, beside the published curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clp_core.figures.style import GREY, line_of, literal, titled
from clp_core.run_comparison.tokens_saved import short

if TYPE_CHECKING:
    from clp_core.run_comparison.curve import Curve

TICKS = (1, 2, 5)


def paper_figure(
    arms: Mapping[str, Sequence[Curve]], published: Sequence[Curve], measure: str = "bits_per_byte"
) -> go.Figure:
    """Show the held-out score of every arm by tokens, and beside it the published curves in the same form.

    Args:
        arms: runs of every arm, one a seed; the line is their mean, the band reaches from the least to the largest.
        published: the curves of the paper's figure, whose measure is the loss, shown as perplexity.
        measure: what is measured of the arms.
    """
    figure = make_subplots(
        1, 2, subplot_titles=("this experiment", "the paper's figure, German, 6.4B"), horizontal_spacing=0.1
    )
    for i, (name, curves) in enumerate(arms.items()):
        add_arm(figure, name, [curve.points[measure] for curve in curves], line_of(i))
    for i, curve in enumerate(published):
        points = curve.points["eval_loss"]
        figure.add_scatter(
            x=points[:, 1],
            y=np.exp(points[:, -1]),
            name=literal(curve.name),
            mode="lines+markers",
            marker={"size": 5},
            line={"color": GREY, "width": 2, "dash": "solid" if i else "dot"},
            row=1,
            col=2,
        )
    titled(figure, "", "", "", 460)
    ticks = [digit * 10**power for power in range(3, 12) for digit in TICKS]
    figure.update_xaxes(type="log", title="tokens seen", tickvals=ticks, ticktext=[short(tick) for tick in ticks])
    figure.update_yaxes(type="log", tickvals=[50, 75, 100, 150], row=1, col=2)
    figure.update_yaxes(title="bits per byte (held-out text)", row=1, col=1)
    figure.update_yaxes(title="perplexity (held-out text)", row=1, col=2)
    legend = {"orientation": "h", "y": -0.18, "x": 0, "yanchor": "top"}
    return figure.update_layout(showlegend=True, legend=legend, margin={"t": 40, "b": 110})


def add_arm(figure: go.Figure, name: str, runs: Sequence[np.ndarray], line: Mapping[str, Any]) -> None:
    """Draw the mean of an arm's runs over the steps they share, and the band between the least and the largest."""
    steps = sorted(set.intersection(*[set(points[:, 0]) for points in runs]) - {0.0})  # a logarithm has no 0
    values = np.stack([points[np.isin(points[:, 0], steps), -1] for points in runs])
    tokens = runs[0][np.isin(runs[0][:, 0], steps), 1]
    if len(runs) > 1:
        red, green, blue = (int(line["color"][i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=np.concatenate([tokens, tokens[::-1]]),
            y=np.concatenate([values.min(axis=0), values.max(axis=0)[::-1]]),
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.2)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=tokens,
        y=values.mean(axis=0),
        name=literal(name),
        mode="lines",
        line=dict(line),
        legendgroup=name,
        hovertemplate="%{y:.4g} at %{x:,.4g}<extra>" + literal(name) + "</extra>",
        row=1,
        col=1,
    )
