"""Figures about training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clp_core.figures.style import SERIES, titled

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
