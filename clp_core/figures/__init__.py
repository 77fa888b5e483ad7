"""Plotly figures, shared by pages and notebooks."""

from clp_core.figures.experiment import paper_figure
from clp_core.figures.methods import methods_chart
from clp_core.figures.overlap import matrix_heatmap, overlap_bars
from clp_core.figures.projection import Marks, scatter
from clp_core.figures.runs import AXES, MEASURES, comparison_figure, curves, schedule_figure, spark
from clp_core.figures.style import COLOURS, MARK, SERIES
from clp_core.figures.tokens import agreement_bars, anchor_bars, health_histograms

__all__ = [
    "AXES",
    "COLOURS",
    "MARK",
    "MEASURES",
    "SERIES",
    "Marks",
    "agreement_bars",
    "anchor_bars",
    "comparison_figure",
    "curves",
    "health_histograms",
    "matrix_heatmap",
    "methods_chart",
    "overlap_bars",
    "paper_figure",
    "scatter",
    "schedule_figure",
    "spark",
]
