"""Experiments that come with the project, opened as ready comparisons on the page Compare."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from clp_core.errors import ClpError
from clp_core.experiments.records import Records, experiments_here, saved_experiments
from clp_core.experiments.summary import summarise
from clp_core.experiments.tables import runs_table
from clp_core.run_comparison.curve import Curve
from components.messages import plain
from components.navigation import put

PREFIX = "experiment:"


def saved() -> list[Records]:
    """Return the experiments that come with the project; their files are read again only where one has changed."""
    files = sorted(path for path in experiments_here().rglob("*") if path.is_file())
    return read_saved(tuple((str(path), path.stat().st_mtime_ns) for path in files))


@st.cache_resource(max_entries=1, show_spinner=False)
def read_saved(files: tuple[tuple[str, int], ...]) -> list[Records]:
    """Return the experiments whose files have these names and times."""
    try:
        return saved_experiments()
    except ClpError as error:
        st.warning(plain(str(error)), icon=":material/warning:")
        return []


def curves_of(experiments: list[Records]) -> list[Curve]:
    """Return the curves of experiments: the mean of every arm, and all runs."""
    return [curve for records in experiments for curve in records.all_curves]


def first_choice(experiments: list[Records]) -> tuple[str, list[str]]:
    """Return the baseline and the runs of the first experiment; empty where there is none."""
    return choice_of(experiments[0]) if experiments else ("", [])


def choice_of(records: Records) -> tuple[str, list[str]]:
    """Return the keys of an experiment's baseline and of its other arms, each the mean over its seeds."""
    keys = [curve.key for curve in records.mean_curves]
    wanted = [f"experiment:{records.design.name}/{name}" for name in records.design.baselines]
    baseline = next((key for key in wanted if key in keys), keys[0])
    return baseline, [key for key in keys if key != baseline]


def offer(experiments: list[Records]) -> None:
    """Offer to open each experiment as a comparison."""
    if not experiments:
        return
    row = st.container(horizontal=True, vertical_alignment="center")
    row.caption("Ready-made:", width="content")
    for records in experiments:
        row.button(
            plain(records.design.title),
            key=f"open_{records.design.name}",
            icon=":material/science:",
            on_click=open_saved,
            args=(records,),
        )


def link() -> None:
    """Link to the first experiment as a comparison, for whoever has no runs to compare yet."""
    for records in saved()[:1]:
        baseline, runs = choice_of(records)
        st.page_link(
            "pages/compare.py",
            label=plain(f"What such runs have saved: {records.design.title}"),
            icon=":material/science:",
            query_params={"measure": "bits_per_byte", "baseline": baseline, "runs": ",".join(runs)},
        )


def open_saved(records: Records) -> None:
    """Put an experiment's baseline and arms into the page's fields."""
    baseline, runs = choice_of(records)
    put("measure", "bits_per_byte")
    put("baseline", baseline)
    put("runs", ",".join(runs))


def details(experiments: list[Records], keys: list[str]) -> None:
    """Show the table of the experiments that are drawn, with the spread over their seeds."""
    for records in experiments:
        if not any(key.startswith(f"experiment:{records.design.name}/") for key in keys):
            continue
        table = runs_table(records, summarise(records))
        st.subheader(plain(records.design.title))
        frame = pd.DataFrame([[cell.strip("`") for cell in row] for row in table.rows], columns=list(table.columns))
        st.dataframe(frame, hide_index=True, alt="Every arm of the experiment, with the range over its seeds")
        st.caption(
            "A saving in this table is the mean over pairs of runs of the same seed; above it stands that of the mean "
            "curves, which can differ by some points."
        )
        arms = [f"{arm.name}: {arm.about}" for arm in records.design.arms if arm.about]
        st.caption(plain("; ".join(arms) + "."))
