"""Figures about what vocabularies have in common."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from clp_core.figures.style import COLOURS, literal, titled
from clp_core.tokenization.overlap_matrix import OverlapMatrix

UNITS = {"length": "length in bytes", "rank": "rank (id)"}


def overlap_bars(table: pd.DataFrame, field: str) -> go.Figure:
    """Show copied and missing tokens by group, as stacked bars.

    Args:
        table: as ``Overlap.by`` returns it.
        field: what the groups are.
    """
    figure = go.Figure()
    for status in ("copied", "missing"):
        figure.add_bar(
            y=table["group"],
            x=table[status].to_numpy(),
            name=status,
            orientation="h",
            marker_color=COLOURS[status],
            customdata=table["share"].to_numpy(),
            hovertemplate="%{y}: %{x:,} " + status + " (%{customdata:.1%} of the group is copied)<extra></extra>",
        )
    figure.update_layout(
        legend={"traceorder": "normal"}, barmode="stack", yaxis={"autorange": "reversed", "type": "category"}
    )
    title = f"Target tokens by {UNITS.get(field, field)}"
    figure = titled(figure, title, "tokens", "", max(260, 120 + 26 * len(table)))
    return figure.update_layout(legend_y=-0.32)


def matrix_heatmap(matrix: OverlapMatrix, of: str = "source") -> go.Figure:
    """Show the overlap of every vocabulary with every other as a heat map.

    Args:
        matrix: the overlaps.
        of: whether shares are of the ``source`` vocabulary (as in the paper's Table 1) or of the ``target``.
    """
    shares = matrix.share_of_source if of == "source" else matrix.share_of_target
    names = [f"{literal(name)} ({size:,})" for name, size in zip(matrix.names, matrix.sizes.tolist(), strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            customdata=matrix.counts,
            texttemplate="%{z:.1%}",
            hovertemplate="source %{y}, target %{x}: %{customdata:,} tokens in common, %{z:.2%}<extra></extra>",
            colorbar={"title": "share", "tickformat": ".0%", "thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    title = f"Tokens in common, as a share of the {of} vocabulary ({matrix.match} matching)"
    return titled(figure, title, "target", "source", max(320, 140 + 44 * len(names)))
