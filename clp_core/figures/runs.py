"""Figures about training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from clp_core.figures.style import GREY, MARK, SERIES, line_of, literal, titled

if TYPE_CHECKING:
    from clp_core.jobs.run_metrics import RunMetrics
    from clp_core.run_comparison.tokens_saved import Comparison
    from clp_core.training.schedule import Schedule

AXES = {"tokens": "tokens seen", "bytes": "bytes of text seen", "steps": "steps", "hours": "hours of training"}
COLUMNS = {"steps": 0, "tokens": 1, "bytes": 2, "hours": 3}
MEASURES = {
    "loss": "training loss (nats a token)",
    "eval_loss": "held-out loss (nats a token)",
    "bits_per_byte": "bits per byte (held-out text)",
    "perplexity": "perplexity (held-out text)",
    "lr": "learning rate of the body",
    "lr_embeddings": "learning rate of the embeddings",
    "teacher_weight": "the teacher's part in the loss",
    "grad_norm": "norm of the gradient",
    "tokens_per_s": "tokens a second",
    "mfu": "share of the device's peak (MFU)",
    "memory": "memory",
    "busy": "device busy",
}
FORMATS = {
    "memory": {"tickformat": ".2~s", "ticksuffix": "B"},
    "busy": {"tickformat": ".0%"},
    "mfu": {"tickformat": ".1%"},
}
SMALL = 300
"""Figures less high than this have no room for a title beside the axis."""
SPARSE = ("eval_loss", "perplexity", "bits_per_byte")
MAX_COMPARED_POINTS = 60_000
MAX_RATES = 400
MIN_POINTS_A_LINE = 100
ROW_OF_A_LEGEND = 19
"""Height of a legend's row, in pixels."""


def on_axis(points: np.ndarray, axis: str) -> np.ndarray:
    """Return where points ``[n, 5]`` stand on an axis."""
    values = points[:, COLUMNS[axis]]
    return values / 3600 if axis == "hours" else values


def smoothed(values: np.ndarray, factor: float) -> np.ndarray:
    """Return the exponential moving mean of values, corrected for its start.

    Args:
        values: ``[n]``.
        factor: weight of what came before, 0 (none) to below 1.
    """
    mean, out = 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        mean = factor * mean + (1 - factor) * value
        out[i] = mean / (1 - factor ** (i + 1))
    return out


def curves(
    runs: Mapping[str, RunMetrics],
    measure: str,
    axis: str = "tokens",
    *,
    log_y: bool = False,
    smoothing: float = 0.0,
    height: int = 380,
) -> go.Figure:
    """Show one measure of several runs, each in at most 2,000 points.

    Args:
        runs: what was read of each run, by its name.
        measure: one of ``MEASURES``.
        axis: ``tokens``, ``bytes``, ``steps`` or ``hours``.
        log_y: whether the measure is on a logarithmic scale.
        smoothing: 0 to below 1, weight of what came before in the moving mean over the means of the points drawn;
            above 0 the measured line stays, paler.
        height: of the figure, in pixels.
    """
    figure = go.Figure()
    for i, (name, run) in enumerate(runs.items()):
        points = run.points(measure)
        x, y, colour = on_axis(points, axis), points[:, -1], SERIES[i % len(SERIES)]
        shown = literal(name)
        line = {
            "x": x,
            "mode": "lines+markers" if measure in SPARSE else "lines",
            "marker": {"size": 6, "color": colour},
            "hovertemplate": "%{y:.4g} at %{x:,.4g}<extra>" + shown + "</extra>",
            "legendgroup": name,
        }
        if smoothing and measure not in SPARSE:
            figure.add_scatter(
                **line,
                y=y,
                line={"color": colour, "width": 1},
                opacity=0.3,
                showlegend=False,
                name=f"{shown}, measured",
            )
            means = run.means(measure)
            line["x"], y = on_axis(means, axis), smoothed(means[:, -1], smoothing)
        figure.add_scatter(**line, y=y, line={"color": colour, "width": 2}, name=shown)
    figure.update_layout(showlegend=len(runs) > 1)
    if log_y:
        figure.update_yaxes(type="log")
    if measure in FORMATS:
        figure.update_yaxes(**FORMATS[measure])
    is_small = height < SMALL
    return titled(figure, MEASURES[measure].capitalize(), AXES[axis], "" if is_small else MEASURES[measure], height)


def schedule_figure(schedule: Schedule, height: int = 240) -> go.Figure:
    """Show the rates of body and embeddings by step, with the stages named.

    Args:
        schedule: the stages of a run.
        height: of the figure, in pixels.
    """
    steps = np.unique(np.linspace(0, schedule.steps - 1, min(schedule.steps, MAX_RATES)).astype(int))
    rates = np.array([schedule.rates(int(step)) for step in steps])
    figure = go.Figure()
    for column, (name, dash) in enumerate((("body", "solid"), ("embeddings", "dot"))):
        line = {"color": SERIES[column], "width": 2, "dash": dash}
        hover = "%{y:.3g} at step %{x:,}<extra>" + name + "</extra>"
        figure.add_scatter(x=steps + 1, y=rates[:, column], line=line, mode="lines", name=name, hovertemplate=hover)
    begin = 0
    for stage in schedule.stages:
        if begin:
            figure.add_vline(begin + 0.5, line={"color": GREY, "width": 1, "dash": "dash"})
        figure.add_annotation(
            x=begin + stage.steps / 2, y=1.08, yref="paper", text=stage.name, showarrow=False, font={"size": 11}
        )
        begin += stage.steps
    figure.update_yaxes(tickformat=".0e")
    titled(figure, "", "", "learning rate", height)
    legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.12, "yanchor": "bottom"}
    return figure.update_layout(legend=legend, margin_t=56)


def comparison_figure(
    comparison: Comparison, axis: str = "tokens", *, log_x: bool = True, overlay: Sequence[object] = ()
) -> go.Figure:
    """Show curves with the level they are to reach, and the largest saving as the horizontal gap.

    Args:
        comparison: what is compared.
        axis: ``tokens``, ``bytes``, ``steps`` or ``hours``.
        log_x: whether the axis is logarithmic.
        overlay: further curves, drawn pale and not compared.
    """
    figure = go.Figure()
    every = [*comparison.curves, *overlay]
    limit = max(MIN_POINTS_A_LINE, min(2000, MAX_COMPARED_POINTS // max(len(every), 1)))
    for i, curve in enumerate(every):
        points = curve.drawn(comparison.measure, limit)  # type: ignore[attr-defined]
        x = on_axis(points, axis)
        kept = np.isfinite(x) & ((x > 0) | (not log_x))
        is_pale = i >= len(comparison.curves)
        line = {"color": GREY, "dash": "dot", "width": 2} if is_pale else line_of(i)
        shown = literal(curve.name)  # type: ignore[attr-defined]
        figure.add_scatter(
            x=x[kept],
            y=points[kept, -1],
            mode="lines+markers" if len(points) <= MIN_POINTS_A_LINE else "lines",
            name=shown + (" (baseline)" if i == 0 else ""),
            line=line | {"width": 3} if i == 0 else line,
            marker={"size": 5},
            hovertemplate="%{y:.4g} at %{x:,.4g}<extra>" + shown + "</extra>",
        )
    if log_x:
        figure.update_xaxes(type="log")
    add_gap(figure, comparison, axis)
    figure.update_layout(showlegend=True)
    title = f"{MEASURES[comparison.measure].capitalize()} by {AXES[axis]}"
    height = 460 + ROW_OF_A_LEGEND * max(0, len(every) - 6)
    titled(figure, title, AXES[axis], MEASURES[comparison.measure], height)
    # At the bottom of the picture, whatever its width: a long legend would lie on the axis' title.
    return figure.update_layout(legend={"yref": "container", "y": 0, "yanchor": "bottom"})


def add_gap(figure: go.Figure, comparison: Comparison, axis: str) -> None:
    """Draw the level, and on it the gap between the baseline and the run that saves most, with its name."""
    if np.isfinite(comparison.level):
        figure.add_hline(comparison.level, line={"color": GREY, "width": 1, "dash": "dash"})
    best = comparison.best
    attribute = {"tokens": "tokens", "steps": "steps", "hours": "seconds"}.get(axis)
    if best is None or attribute is None or best.run_at is None or best.baseline_at is None:
        return
    scale = 3600.0 if axis == "hours" else 1.0
    ends = np.array([getattr(best.run_at, attribute), getattr(best.baseline_at, attribute)]) / scale
    if not np.isfinite(ends).all() or ends.min() <= 0:
        return
    label = best.verdict if axis == "tokens" else gap_in(axis, best.share(attribute), is_bound=best.is_bound)
    middle = float(np.sqrt(ends.prod())) if figure.layout.xaxis.type == "log" else float(ends.mean())
    figure.add_scatter(
        x=ends,
        y=np.full(2, comparison.level),
        mode="lines+markers",
        line={"color": MARK, "width": 4},
        marker={"size": 9, "symbol": "line-ns-open", "line": {"width": 3}},
        name=literal(label),
        hovertemplate="%{x:,.4g}<extra></extra>",
    )
    figure.add_annotation(
        x=np.log10(middle) if figure.layout.xaxis.type == "log" else middle,
        y=comparison.level,
        text=literal(label),
        showarrow=False,
        yshift=-20,
        bgcolor=MARK,
        borderpad=3,
        font={"color": "white", "size": 13},
    )


def gap_in(axis: str, share: float | None, *, is_bound: bool) -> str:
    """Return the name of a gap on an axis other than tokens."""
    if share is None:
        return "gap"
    unit = {"steps": "steps", "hours": "time"}[axis]
    return f"{'more than ' if is_bound else ''}{100 * share:.0f} % of {unit} saved"


def spark(run: RunMetrics) -> list[float]:
    """Return the loss of a run in at most 60 points, for a spark line."""
    values = run.points("loss")[:, -1]
    step = max(1, -(-len(values) // 60))
    return [float(value) for value in values[::step]]
