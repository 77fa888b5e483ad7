"""The picture of an embedding space: one dot a token, and what is drawn on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clp_core.figures.style import COLOURS, MARK, SERIES, literal, titled

HEIGHT = 640
ZOOM = 6.0
"""A search shows at least this part of the picture around the token, and all of its neighbours."""


@dataclass(frozen=True)
class Marks:
    """What is drawn on top of the dots.

    Attributes:
        token: id of the token that was searched.
        neighbours: ids of its nearest tokens, to which lines lead.
        labels: text of these tokens by id.
        picked: ids that are ringed, such as those selected in the picture beside.
        arrows: rows of x before, y before, x after, y after, ``[n, 4]``.
        fly: whether the picture shows the token's surroundings only.
    """

    token: int | None = None
    neighbours: tuple[int, ...] = ()
    labels: Mapping[int, str] = field(default_factory=dict)
    picked: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    arrows: np.ndarray | None = None
    fly: bool = True


def scatter(
    points: pd.DataFrame, colour: str, marks: Marks | None = None, title: str = "", unit: str = ""
) -> go.Figure:
    """Show a layout: one dot a token, coloured by a column of names or of numbers.

    Only ids and float32 go into the figure, no text per point.

    Args:
        points: with columns id, x, y and the colour's.
        colour: column; names make groups that a click in the legend hides, numbers a colour scale.
        marks: what is drawn on top.
        title: the subject.
        unit: what a colour scale measures.
    """
    marks = marks or Marks()
    figure = go.Figure()
    if pd.api.types.is_numeric_dtype(points[colour]):
        add_scale(figure, points, colour, unit or colour)
    else:
        add_groups(figure, points, colour)
    add_marks(figure, points, marks)
    figure.update_xaxes(showticklabels=False, zeroline=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, zeroline=False, showgrid=False, scaleanchor="x")
    found = points[points["id"] == marks.token]
    if len(found) and marks.fly:
        x, y = float(found["x"].iloc[0]), float(found["y"].iloc[0])
        span = max(float(np.ptp(points["x"])), float(np.ptp(points["y"])), 1e-6)
        near = points[points["id"].isin(marks.neighbours)]
        furthest = max(np.abs(near["x"] - x).max(), np.abs(near["y"] - y).max()) if len(near) else 0.0
        half = max(1.15 * float(furthest), span / ZOOM / 2)
        figure.update_xaxes(range=[x - half, x + half])
        figure.update_yaxes(range=[y - half, y + half])
    figure.update_layout(dragmode="pan" if len(found) and marks.fly else "select")
    figure = titled(figure, title, height=HEIGHT)
    figure.update_layout(legend={"orientation": "h", "y": -0.02})
    # Another token is another view; otherwise the user's zoom is kept.
    figure.update_layout(uirevision=f"{title}-{marks.token if marks.fly else None}")
    return figure


def dots(points: pd.DataFrame, **marker: object) -> go.Scattergl:
    """Return points as dots that carry their ids as integers."""
    return go.Scattergl(
        x=points["x"].to_numpy(np.float32),
        y=points["y"].to_numpy(np.float32),
        mode="markers",
        marker={"size": 4, "opacity": 0.65, **marker},
        customdata=points["id"].to_numpy(np.int32),
        hovertemplate="#%{customdata}<extra></extra>",
    )


def add_groups(figure: go.Figure, points: pd.DataFrame, colour: str) -> None:
    """Add one trace a group, the largest first, so that smaller ones are not hidden under it."""
    groups = sorted(points.groupby(colour, observed=True), key=lambda item: (-len(item[1]), str(item[0])))
    for i, (group, part) in enumerate(groups):
        trace = dots(part, color=COLOURS.get(str(group), SERIES[i % len(SERIES)]))
        figure.add_trace(trace.update(name=f"{group} ({len(part):,})"))


def add_scale(figure: go.Figure, points: pd.DataFrame, colour: str, unit: str) -> None:
    """Add the points coloured by a number, those without one in grey; the scale leaves out the outermost 1 %."""
    known = points[colour].notna()
    if not known.all():
        without = points[~known]
        figure.add_trace(dots(without, color=COLOURS["padding"]).update(name=f"no {colour} ({len(without):,})"))
    values = points.loc[known, colour].to_numpy(np.float32)
    low, high = np.percentile(values, [1, 99]) if len(values) else (0.0, 1.0)
    bar = {"title": unit, "thickness": 12}
    trace = dots(points[known], color=values, colorscale="Viridis", cmin=float(low), cmax=float(high), colorbar=bar)
    figure.add_trace(trace.update(name=f"{colour} ({int(known.sum()):,})", showlegend=not known.all()))


def add_marks(figure: go.Figure, points: pd.DataFrame, marks: Marks) -> None:
    """Add arrows, rings, and the searched token with lines to its neighbours."""
    if marks.arrows is not None and len(marks.arrows):
        xs, ys = broken_lines(marks.arrows[:, :2], marks.arrows[:, 2:])
        line = {"color": MARK, "width": 1}
        figure.add_scattergl(x=xs, y=ys, mode="lines", line=line, opacity=0.6, showlegend=False, hoverinfo="skip")
        figure.add_scattergl(
            x=marks.arrows[:, 2].astype(np.float32),
            y=marks.arrows[:, 3].astype(np.float32),
            mode="markers",
            marker={"size": 6, "color": MARK, "symbol": "diamond"},
            name="after training",
            hoverinfo="skip",
        )
    place = points.set_index("id")
    picked = place.loc[place.index.intersection(marks.picked)]
    if len(picked):
        ring = {"size": 9, "symbol": "circle-open", "color": MARK, "line": {"width": 1.5}}
        figure.add_scattergl(
            x=picked["x"].to_numpy(np.float32),
            y=picked["y"].to_numpy(np.float32),
            mode="markers",
            marker=ring,
            name=f"marked ({len(picked):,})",
            hoverinfo="skip",
        )
    if marks.token is None or marks.token not in place.index:
        return
    centre = place.loc[marks.token]
    near = place.loc[[i for i in marks.neighbours if i in place.index]]
    if len(near):
        ends = near[["x", "y"]].to_numpy()
        xs, ys = broken_lines(np.broadcast_to(centre[["x", "y"]].to_numpy(np.float64), ends.shape), ends)
        thin = {"color": MARK, "width": 1}
        figure.add_scatter(x=xs, y=ys, mode="lines", line=thin, showlegend=False, hoverinfo="skip")
        figure.add_scatter(
            x=near["x"].to_numpy(),
            y=near["y"].to_numpy(),
            mode="markers+text",
            text=[literal(marks.labels.get(int(i), f"#{i}")) for i in near.index],
            textposition="top center",
            textfont={"size": 11, "color": MARK},
            marker={"size": 7, "color": MARK},
            name="nearest in the full space",
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[centre["x"]],
        y=[centre["y"]],
        mode="markers+text",
        text=[f"<b>{literal(marks.labels.get(marks.token, f'#{marks.token}'))}</b>"],
        textposition="bottom center",
        marker={"size": 15, "symbol": "circle-open", "color": MARK, "line": {"width": 3}},
        showlegend=False,
        hoverinfo="skip",
    )


def broken_lines(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of one line a pair of points ``[n, 2]``, with gaps between them, float32 ``[3 n]``."""
    gaps = np.full((len(starts), 1), np.nan)
    xs, ys = (np.concatenate([starts[:, [i]], ends[:, [i]], gaps], axis=1).ravel() for i in (0, 1))
    return xs.astype(np.float32), ys.astype(np.float32)
