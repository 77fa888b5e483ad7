"""What all figures share: colours with one meaning everywhere, told apart by all eyes, titles and margins."""

from __future__ import annotations

import plotly.graph_objects as go

COLOURS = {
    "copied": "#0072B2",
    "missing": "#E69F00",
    "initialised": "#E69F00",
    "special": "#8C8C8C",
    "source only": "#B8A800",
    "override": "#D55E00",
    "padding": "#C7C7C7",
    "byte": "#CC79A7",
    "word start": "#0072B2",
    "continuation": "#56B4E9",
    "digits": "#009E73",
    "punctuation": "#D55E00",
}
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A800")
GREY = "#8C8C8C"
MARK = "#D55E00"
DASHES = ("solid", "dash", "dot")
HEIGHT = 380
TOP_MARGIN = 48


def titled(figure: go.Figure, title: str, x: str = "", y: str = "", height: int = HEIGHT) -> go.Figure:
    """Give a figure its title, axis titles and the house's margins."""
    figure.update_layout(
        title={"text": literal(title), "font": {"size": 15}},
        xaxis_title=x,
        yaxis_title=y,
        height=height,
        margin={"l": 8, "r": 8, "t": TOP_MARGIN, "b": 8},
        legend={"orientation": "h", "y": -0.18},
        separators=".\u202f",
        uirevision="keep",
    )
    return figure


def line_of(place: int) -> dict[str, object]:
    """Return the colour and the dash of a curve by its place: where the colours are used up, the dashes tell apart."""
    colours = [colour for colour in SERIES if colour != GREY]
    again, colour = divmod(place, len(colours))
    return {"color": colours[colour], "dash": DASHES[again % len(DASHES)], "width": 2}


def literal(text: str) -> str:
    """Return text that plotly shows as it is: it would take some tags in it for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
