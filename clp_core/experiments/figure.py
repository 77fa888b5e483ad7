"""The figure of an experiment as a file."""

from __future__ import annotations

import logging
from pathlib import Path

from clp_core.errors import InputError
from clp_core.experiments.records import Records
from clp_core.figures.experiment import paper_figure
from clp_core.files.atomic import whole_file
from clp_core.run_comparison.curve import published_curves

WIDTH, HEIGHT = 1100, 480
TALKATIVE = ("kaleido", "choreographer")
"""Loggers that tell each step of starting a browser."""


def draw(records: Records, path: Path) -> None:
    """Write the figure of an experiment, its arms beside the published curves.

    Args:
        records: the experiment.
        path: the file: ``.html`` for one that needs no network, else an image, for which kaleido needs a Chromium.

    Raises:
        InputError: nothing is measured yet, or there is no kaleido or no Chromium for it.
    """
    if not records.curves:
        raise InputError(f"nothing of {records.design.name} is measured yet that could be drawn")
    figure = paper_figure(records.curves, published_curves()).update_layout(template="plotly_white")
    if path.suffix == ".html":
        with whole_file(path) as part:
            figure.write_html(part)
        return
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with whole_file(path) as part:
            figure.write_image(part, width=WIDTH, height=HEIGHT)
    except (ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{path} cannot be drawn ({first}); pip install kaleido, install Chromium, or give .html"
        ) from error
