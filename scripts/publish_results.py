"""``python -m scripts.publish_results``: write the tables, numbers and figures of experiments into the documents.

A document holds what is measured between two markers, which readers do not see::

    <!-- result demo runs -->          a table of the experiment demo
    <!-- /result -->

    saves <!-- result demo runs taught: saved against scratch -->93 %<!-- /result --> of the tokens

Nothing between markers is written by hand, and a test holds the documents to what the raw measurements give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from clp_core.errors import InputError
from clp_core.experiments.design import read_design
from clp_core.experiments.figure import draw
from clp_core.experiments.records import Records, experiments_here
from clp_core.experiments.tables import Table, tables_of
from clp_core.files.atomic import write_whole
from notebooks.experiments.trials.trial_tables import trial_tables

MARKED = re.compile(
    r"<!-- result (?P<experiment>\S+) (?P<table>\S+)(?: (?P<row>[^>]+?): (?P<column>[^>]+?))? -->"
    r".*?<!-- /result -->",
    re.DOTALL,
)
SHOWN = re.compile(r"!\[[^]]*\]\((?:docs/)?experiment-([a-z0-9-]+)\.svg\)")
TRIALS = "trials"


def documents() -> list[Path]:
    """Return the documents of the project that hold what was measured."""
    root = experiments_here().parents[1]
    found = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [path for path in found if MARKED.search(path.read_text(encoding="utf-8"))]


@lru_cache
def tables_by_name(experiment: str) -> Mapping[str, Table]:
    """Return the tables of an experiment of the project, or of the trials beside them."""
    if experiment == TRIALS:
        return {table.name: table for table in trial_tables(experiments_here() / TRIALS)}
    records = Records(read_design(experiments_here() / f"{experiment}.yaml"))
    return {table.name: table for table in tables_of(records)}


def filled(text: str) -> str:
    """Return a document with what is measured between its markers.

    Raises:
        InputError: a marker names no experiment, table, row or column that is measured.
    """
    return MARKED.sub(between_markers, text)


def between_markers(marker: re.Match[str]) -> str:
    """Return a pair of markers with what belongs between them."""
    opened = marker[0].partition(" -->")[0] + " -->"
    tables = tables_by_name(marker["experiment"])
    if marker["table"] not in tables:
        raise InputError(f"{opened}: there is no table {marker['table']}; there are {', '.join(tables)}")
    table = tables[marker["table"]]
    if marker["row"] is None:
        return f"{opened}\n\n{table.markdown}\n\n<!-- /result -->"
    rows = {row[0].strip("`"): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    cell = rows.get(marker["row"], {}).get(marker["column"])
    if cell is None:
        raise InputError(f"{opened}: no such cell; there are {', '.join(rows)} with {', '.join(table.columns)}")
    return f"{opened}{cell}<!-- /result -->"


def main() -> None:
    """Bring the documents and their figures up to what is measured."""
    shown: set[str] = set()
    for path in documents():
        text = filled(path.read_text(encoding="utf-8"))
        write_whole(path, text)
        shown.update(SHOWN.findall(text))
    for name in sorted(shown):
        records = Records(read_design(experiments_here() / f"{name}.yaml"))
        draw(records, experiments_here().parents[1] / "docs" / f"experiment-{name}.svg")


if __name__ == "__main__":
    main()
