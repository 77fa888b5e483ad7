"""What the page Compare is made of: curves of runs, cards, tables, the import of a curve from elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.errors import ClpError
from clp_core.figures.runs import AXES, on_axis
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.hashing import content_of
from clp_core.files.json_files import read_state
from clp_core.jobs.job import Job
from clp_core.run_comparison.curve import Curve, curve_of_run, import_curve, imported_curves, incomplete, remove_import
from clp_core.run_comparison.report import as_text
from clp_core.run_comparison.tokens_saved import Comparison, short
from clp_core.workspace import Workspace
from components.messages import cards, number, plain, share
from components.models import models, vocabulary_of
from components.models import texts as texts_here
from components.run_view import duration, metrics_of

MEASURE_NAMES = {"bits_per_byte": "bits per byte", "eval_loss": "held-out loss"}
UNKNOWN = "not known"
WITHOUT_TRANSFER = ("scratch", "random")


def curve_of(job: Job) -> Curve:
    """Return a run's curve, of which only what is new is read."""
    return curve_of_run(job, metrics_of(job))


def warn_of_incomplete(jobs: Sequence[Job]) -> None:
    """Name the runs that are left out, one line each."""
    for job in jobs:
        st.warning(plain(f"{incomplete(job)}."), icon=":material/warning:")


def names_of(curves: Iterable[Curve]) -> dict[str, str]:
    """Return what each curve is called in a list, by its key."""
    found = list(curves)
    names = [curve.name for curve in found]
    return {
        curve.key: curve.name if names.count(curve.name) == 1 else f"{curve.name} ({curve.key[-4:]})" for curve in found
    }


def likely_baseline(jobs: Sequence[Job], usable: Mapping[str, Curve]) -> str:
    """Return the run that others will be held against: one without transferred rows, else the oldest.

    One that has done all its steps goes before one that was stopped, and the one that went furthest before others.
    """
    runs = [job for job in jobs if job.id in usable]
    for method in WITHOUT_TRANSFER:
        found = []
        for job in runs:
            model = str(job.spec.get("arguments", {}).get("model", ""))
            if read_state(Path(model) / REPORT_FILE).get("method") == method:
                found.append(job)
        if found:
            best = max(found, key=lambda job: (job.status().state == "finished", usable[job.id].tokens or 0.0))
            return best.id
    return runs[-1].id if runs else next(reversed(list(usable)))


def warn_of_absent(keys: Sequence[str]) -> None:
    """Say which curves of an address are not here, or have not the measure."""
    if keys:
        told = ", ".join(key[:60] for key in keys)
        st.warning(
            plain(f"There is no curve {told} with this measure here; others are shown."), icon=":material/warning:"
        )


def not_drawn(curves: Sequence[Curve], measure: str, axis: str) -> None:
    """Say which curves cannot be drawn because they are not known by this axis."""
    absent = [curve.name for curve in curves if not np.isfinite(on_axis(curve.points[measure], axis)).any()]
    if absent:
        st.caption(plain(f"Not drawn, as its {AXES[axis]} are not known: {', '.join(absent)}."))


def saved_cards(comparison: Comparison) -> None:
    """Show what the best run saves as cards."""
    best = comparison.best
    share_saved = best.share() if best else None
    more = "> " if best is not None and best.is_bound else ""
    figures = {
        axis: (best.saved(axis) if best is not None and share_saved is not None else None)
        for axis in ("tokens", "steps", "seconds")
    }
    tokens = figures["tokens"]
    cards(
        {
            "Tokens saved": (
                f"{more}{share(share_saved, 0)}" if share_saved is not None else "–",
                "of what the baseline needs to reach the level; > where it never got there",
            ),
            "In tokens": (f"{more}{short(tokens) if tokens and tokens > 0 else number(tokens)}", ""),
            "In steps": (f"{more}{number(figures['steps'])}", ""),
            "In time": (
                f"{more}{duration(figures['seconds'])}",
                "of training, evaluations and checkpoints included, on the machine as it was then",
            ),
            "Level": (number(comparison.level, 4), "what all are to reach"),
        }
    )


def savings_table(comparison: Comparison) -> None:
    """Show where every curve reaches the level, and what it saves."""
    rows = comparison.rows()
    table = pd.DataFrame(
        [
            (
                row["run"],
                row["verdict"],
                row["cautions"],
                row["best"],
                tokens_told(row["tokens"], reached=bool(row["reached"])),
                number(row["steps"]) if row["reached"] else "–",
                duration(row["seconds"]) if row["reached"] else "–",
            )
            for row in rows
        ],
        columns=["run", "verdict", "with care", "best", "tokens", "steps", "time"],
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "verdict": st.column_config.TextColumn(width=330),
            "best": st.column_config.NumberColumn(format="%.4f"),
        },
        alt="Where every run reaches the level, and what it saves",
    )


def tokens_told(tokens: float | None, *, reached: bool) -> str:
    """Return tokens in words; of a curve that never got there, its end is a bound."""
    if tokens is None:
        return "–"
    return short(tokens) if reached else f"> {short(tokens)}"


def differing_table(comparison: Comparison) -> None:
    """Show the settings in which the curves differ."""
    found = comparison.differing
    if not found:
        st.caption("All settings that are known are the same.")
        return
    names = names_of(comparison.curves)
    table = pd.DataFrame(
        [(name, *map(as_text, values)) for name, values in found.items()],
        columns=["setting", *[names[curve.key] for curve in comparison.curves]],
    )
    st.dataframe(table, hide_index=True, alt="Settings in which the runs differ")


def command_of(comparison: Comparison, has_level: bool) -> str:
    """Return the command that prints the same comparison."""
    arguments = ["clp", "jobs", "compare", *[curve.key for curve in comparison.curves]]
    arguments += ["--measure", comparison.measure]
    return shlex.join(arguments + (["--level", f"{comparison.level:g}"] if has_level else []))


def import_form(space: Workspace) -> None:
    """Take in a curve from elsewhere, or let one go."""
    if told := st.session_state.pop("imported", ""):
        st.success(plain(told), icon=":material/check:")
    texts = {path.name: path for path in texts_here()}
    names = [entry.name for entry in models()]
    with st.form("import", border=False, clear_on_submit=True):
        file = st.file_uploader("CSV file or trainer_state.json", type=["csv", "json"])
        a, b, c, d = st.columns(4)
        name = a.text_input("Name", help="what the curve is called in lists and charts")
        step_tokens = int(b.number_input("Tokens a step", 0, value=0, help="needed where the file counts steps only"))
        about = "the text its scores are of: without that the curve is drawn, but not compared"
        text = c.selectbox("Scored on", [UNKNOWN, *texts], help=about) or UNKNOWN
        about = "the model whose tokenizer it used: without that its loss a token is drawn, but not compared"
        model = d.selectbox("Tokenizer of", [UNKNOWN, *names], help=about) or UNKNOWN
        st.caption(
            "A CSV file has a header that names `tokens` (or `step`) and `eval_loss`, `perplexity` or `bits_per_byte`."
        )
        sent = st.form_submit_button("Import", icon=":material/upload:")
    imported = {curve.name: curve.key for curve in imported_curves(space)}
    if imported:
        row = st.container(horizontal=True, vertical_alignment="bottom")
        gone = row.selectbox("Imported curves", list(imported), key="imported_curve")
        if row.button("Delete this curve", icon=":material/delete:") and gone:
            remove_import(space, imported[gone])
            st.rerun()
    if not sent:
        return
    if file is None:
        st.error("Choose a file first.", icon=":material/error:")
        return
    try:
        curve = import_curve(
            space,
            file.getvalue(),
            file.name,
            name or Path(file.name).stem,
            step_tokens=step_tokens,
            eval_text=content_of(texts[text]) if text in texts else "",
            tokenizer=vocabulary_of(model)[0].content if model != UNKNOWN else "",
        )
    except ClpError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    measures = " and ".join(MEASURE_NAMES[measure] for measure in curve.points)
    st.session_state["imported"] = f"{curve.name} is here, {curve.origin}: it can be chosen above by {measures}."
    st.rerun()
