"""What the page Compare is made of: curves of runs, cards, tables, the import of a curve from elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from clp_core.comparison_report import as_text
from clp_core.curves import Curve, curve_of_run, import_curve
from clp_core.errors import ClpError
from clp_core.folders import content_of
from clp_core.jobs.job import Job, read_state
from clp_core.savings import Comparison, short
from clp_core.workspace import REPORT_FILE, Workspace
from components.messages import cards, number, plain, share
from components.models import texts as texts_here
from components.run_view import duration, metrics_of

MEASURE_NAMES = {"bits_per_byte": "bits per byte", "eval_loss": "held-out loss"}
WITHOUT_TRANSFER = ("scratch", "random")


def curve_of(job: Job) -> Curve:
    """Return a run's curve, of which only what is new is read."""
    return curve_of_run(job, metrics_of(job))


def names_of(curves: Iterable[Curve]) -> dict[str, str]:
    """Return what each curve is called in a list, by its key."""
    found = list(curves)
    names = [curve.name for curve in found]
    return {
        curve.key: curve.name if names.count(curve.name) == 1 else f"{curve.name} ({curve.key[-4:]})" for curve in found
    }


def likely_baseline(jobs: Sequence[Job], usable: Mapping[str, Curve]) -> str:
    """Return the run that others will be held against: one without transferred rows, else the oldest."""
    runs = [job for job in jobs if job.id in usable]
    for method in WITHOUT_TRANSFER:
        for job in runs:
            model = str(job.spec.get("arguments", {}).get("model", ""))
            if read_state(Path(model) / REPORT_FILE).get("method") == method:
                return job.id
    return runs[-1].id if runs else next(reversed(list(usable)))


def plain_answer(text: str) -> str:
    """Return the answer so that Markdown shows it as it is."""
    return plain(text)


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
            "In time": (f"{more}{duration(figures['seconds'])}", "of training, evaluations and checkpoints included"),
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
                row["best"],
                tokens_told(row["tokens"], reached=bool(row["reached"])),
                row["steps"] if row["reached"] else None,
                duration(row["seconds"]) if row["reached"] else "–",
                None if row["share_saved"] is None else 100 * row["share_saved"],
                row["verdict"],
                row["cautions"],
            )
            for row in rows
        ],
        columns=["run", "best", "tokens", "steps", "time", "saved %", "verdict", "with care"],
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "best": st.column_config.NumberColumn(format="%.4f"),
            "steps": st.column_config.NumberColumn(format="%.0f"),
            "saved %": st.column_config.NumberColumn(format="%.1f"),
            "verdict": st.column_config.TextColumn(width="large"),
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
    """Take in a curve from elsewhere."""
    texts = {path.name: path for path in texts_here()}
    with st.form("import", border=False):
        file = st.file_uploader("CSV file or trainer_state.json", type=["csv", "json"])
        a, b, c = st.columns(3)
        name = a.text_input("Name", help="what the curve is called in lists and charts")
        step_tokens = int(b.number_input("Tokens a step", 0, value=0, help="needed where the file counts steps only"))
        about = "the text its scores are of: without that the curve is drawn, but not compared"
        text = c.selectbox("Scored on", ["not known", *texts], help=about) or "not known"
        st.caption(
            "A CSV file has a header that names `tokens` (or `step`) and `eval_loss`, `perplexity` or `bits_per_byte`."
        )
        sent = st.form_submit_button("Import", icon=":material/upload:")
    if not sent:
        return
    if file is None:
        st.error("Choose a file first.", icon=":material/error:")
        return
    try:
        eval_text = content_of(texts[text]) if text in texts else ""
        curve = import_curve(
            space,
            file.getvalue(),
            file.name,
            name or Path(file.name).stem,
            step_tokens=step_tokens,
            eval_text=eval_text,
        )
    except ClpError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    st.session_state["imported"] = curve.name
    st.rerun()
