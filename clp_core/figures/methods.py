"""Figures about methods on one pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from clp_core.figures.style import SERIES, titled
from clp_core.reports.method_comparison import MethodScore


def methods_chart(scores: Sequence[MethodScore]) -> go.Figure:
    """Show methods one below the other, in the order given: held-out cosine, and bits per byte before training.

    Args:
        scores: as ``compare_methods`` returns them; those without a held-out cosine are left out.
    """
    known = [score for score in scores if score.heldout.centred_cosine is not None]
    names = [score.method for score in known]
    bits = [score.zero_step_bits_per_byte for score in known]
    scored = any(value is not None for value in bits)
    panels = ("centred cosine<br>right is better", "bits per byte<br>left is better")[: 2 if scored else 1]
    figure = make_subplots(cols=len(panels), shared_yaxes=True, subplot_titles=panels, horizontal_spacing=0.06)
    figure.add_bar(
        y=names,
        x=np.array([score.heldout.centred_cosine for score in known]),
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
