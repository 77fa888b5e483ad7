"""Plotly figures, shared by pages and notebooks.

Colours mean the same everywhere and can be told apart by all eyes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clp_core.explain import Explanation
from clp_core.provenance import MAX_NORM_RATIO

COLOURS = {
    "copied": "#0072B2",
    "missing": "#E69F00",
    "initialised": "#E69F00",
    "special": "#8C8C8C",
    "padding": "#C7C7C7",
    "byte": "#CC79A7",
    "word start": "#0072B2",
    "continuation": "#56B4E9",
    "digits": "#009E73",
    "punctuation": "#D55E00",
}
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A800")
MARK = "#D55E00"
HEIGHT = 380
TOP_MARGIN = 48


def titled(figure: go.Figure, title: str, x: str = "", y: str = "", height: int = HEIGHT) -> go.Figure:
    """Give a figure its title, axis titles and the house's margins."""
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis_title=x,
        yaxis_title=y,
        height=height,
        margin={"l": 8, "r": 8, "t": TOP_MARGIN, "b": 8},
        legend={"orientation": "h", "y": -0.18},
        separators=".\u202f",
        uirevision="keep",
    )
    return figure


def overlap_bars(table: pd.DataFrame, column: str) -> go.Figure:
    """Show copied and missing tokens by category or script, as stacked bars.

    Args:
        table: with the named column, ``copied`` and ``missing`` (counts).
        column: ``category`` or ``script``.
    """
    figure = go.Figure()
    for status in ("copied", "missing"):
        figure.add_bar(
            y=table[column],
            x=table[status].to_numpy(),
            name=status,
            orientation="h",
            marker_color=COLOURS[status],
            customdata=table["share"].to_numpy(),
            hovertemplate="%{y}: %{x:,} " + status + " (%{customdata:.1%} of the group is copied)<extra></extra>",
        )
    figure.update_layout(barmode="stack", yaxis={"autorange": "reversed"})
    return titled(figure, f"Target tokens by {column}", "tokens", "")


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
            y=[f"{text}  #{anchor.source_id}" for text, anchor in zip(shown, anchors, strict=True)],
            x=np.array([anchor.weight for anchor in anchors]),
            orientation="h",
            marker=marker,
            hovertemplate=told + "<extra></extra>",
        )
    )
    figure.update_layout(yaxis={"autorange": "reversed", "type": "category"})
    title = f"The {len(anchors)} heaviest anchors" if len(anchors) > 1 else "The only anchor"
    return titled(figure, title, "weight", "", max(220, 60 + 26 * len(anchors)))


def methods_chart(methods: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Show methods one below the other, in the order given: held-out cosine, and bits per byte before training.

    Args:
        methods: as ``clp compare-methods --json`` prints them.
    """
    known = [m for m in methods if m["heldout"]["centred_cosine"] is not None]
    names = [m["method"] for m in known]
    bits = [m["zero_step_bits_per_byte"] for m in known]
    scored = any(value is not None for value in bits)
    panels = ("centred cosine<br>right is better", "bits per byte<br>left is better")[: 2 if scored else 1]
    figure = make_subplots(cols=len(panels), shared_yaxes=True, subplot_titles=panels, horizontal_spacing=0.06)
    figure.add_bar(
        y=names,
        x=np.array([m["heldout"]["centred_cosine"] for m in known]),
        orientation="h",
        marker_color=SERIES[0],
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    if scored:
        figure.add_scatter(
            y=names,
            x=np.array([np.nan if value is None else value for value in bits]),
            mode="markers",
            marker={"size": 11, "color": SERIES[1]},
            hovertemplate="%{y}: %{x:.3f} bits per byte<extra></extra>",
            row=1,
            col=2,
        )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_annotations(font_size=12)
    figure.update_layout(showlegend=False)
    return titled(figure, "", height=90 + 24 * len(known))


def scatter(points: pd.DataFrame, colour: str, marked: int | None = None, title: str = "") -> go.Figure:
    """Show a layout: one dot a token, coloured by a column of names; one token can be marked.

    Args:
        points: with columns id, x, y, shown and the colour's column.
        colour: column with the group of each token; a click on the legend hides a group.
        marked: id of the token to mark, if any.
        title: the subject.
    """
    figure = go.Figure()
    # The largest group is drawn first, so that the smaller ones are not hidden under it.
    groups = sorted(points.groupby(colour, observed=True), key=lambda item: (-len(item[1]), str(item[0])))
    for i, (group, part) in enumerate(groups):
        figure.add_scattergl(
            x=part["x"].to_numpy(np.float32),
            y=part["y"].to_numpy(np.float32),
            mode="markers",
            name=f"{group} ({len(part):,})",
            marker={"size": 4, "opacity": 0.65, "color": COLOURS.get(str(group), SERIES[i % len(SERIES)])},
            customdata=part["id"].to_numpy(np.int32),
            hovertemplate="#%{customdata}<extra>" + str(group) + "</extra>",
        )
    found = points[points["id"] == marked]
    if len(found):
        row = found.iloc[0]
        figure.add_scatter(
            x=[row["x"]],
            y=[row["y"]],
            mode="markers+text",
            name="searched",
            text=[row["shown"]],
            textposition="top center",
            marker={"size": 15, "symbol": "circle-open", "color": MARK, "line": {"width": 3}},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_xaxes(showticklabels=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, zeroline=False, scaleanchor="x")
    return titled(figure, title, height=620)


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
        n_eff.add_vline(x=n_anchors / 2, line_dash="dot", annotation_text="half the anchors")
    ratio = go.Figure(go.Histogram(x=rows["norm_ratio"].to_numpy(), nbinsx=60, marker_color=COLOURS["initialised"]))
    ratio.add_vline(x=MAX_NORM_RATIO, line_dash="dot", annotation_text=f"{MAX_NORM_RATIO:g} times as long")
    return (
        titled(n_eff, "Effective anchors of the new rows", "n_eff", "rows", 300),
        titled(ratio, "Length of the new rows", "length over the mean length of copied rows", "rows", 300),
    )


AXES = {"tokens": "tokens seen", "bytes": "bytes of text seen", "step": "steps", "hours": "hours"}
MEASURES = {
    "loss": "training loss (nats a token)",
    "eval_loss": "held-out loss (nats a token)",
    "bits_per_byte": "bits per byte (held-out text)",
}


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], measure: str, axis: str = "tokens") -> go.Figure:
    """Show one measure of several runs.

    Args:
        runs: metrics lines by the run's name.
        measure: ``loss``, ``eval_loss`` or ``bits_per_byte``.
        axis: ``tokens``, ``bytes``, ``step`` or ``hours``.
    """
    figure = go.Figure()
    for i, (name, lines) in enumerate(runs.items()):
        kept = [line for line in lines if line.get(measure) is not None]
        start = min((float(line["time"]) for line in lines), default=0.0)
        x = [(float(line["time"]) - start) / 3600 if axis == "hours" else line[axis] for line in kept]
        figure.add_scatter(
            x=np.array(x, dtype=np.float64),
            y=np.array([line[measure] for line in kept], dtype=np.float64),
            mode="lines+markers" if measure != "loss" else "lines",
            name=name,
            line={"color": SERIES[i % len(SERIES)], "width": 2},
            marker={"size": 6},
            hovertemplate="%{y:.4f} at %{x:,}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(showlegend=True)
    return titled(figure, MEASURES[measure].capitalize(), AXES[axis], MEASURES[measure])


def spark(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the loss of a run in at most 60 points, for a spark line."""
    values = [float(line["loss"]) for line in lines if line.get("loss") is not None]
    step = max(1, len(values) // 60)
    return values[::step]
