"""The health of all rows of a target: which are at risk, why, and what to do about one."""

from __future__ import annotations

import shlex
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.errors import InputError
from clp_core.figures import health_histograms
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.geometry.neighbor_graph import DUPLICATE_COSINE, NeighborGraph, find_graph
from clp_core.initializers import initializer
from clp_core.submission import submit_near_duplicates
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.overrides import OverrideList, name_for_override, resolve_overrides
from clp_core.transfer.provenance import Health
from components.jobs import last_job, wait_or_offer
from components.messages import cards, number, offer_csv, plain, question
from components.models import SelectedPair, folder_of, prepared_or_stop, workspace
from components.navigation import put

WORST = {
    "flagged, longest first": ("norm_ratio", False),
    "fewest effective anchors": ("n_eff", True),
    "most effective anchors": ("n_eff", False),
    "longest rows": ("norm_ratio", False),
    "nearest to another row": ("nearest cosine", False),
}
FLAGGED = next(iter(WORST))
MOST_ROWS = 100


@st.cache_resource(max_entries=8, show_spinner="Judging the rows")
def judged(key: str, _explainer: Explainer, _graph: NeighborGraph | None) -> pd.DataFrame:
    """Return the made rows of a target with what speaks against each: columns id, token, n_eff, norm_ratio, why, ..."""
    rows = _explainer.table
    made = (rows["status"] == "initialised").to_numpy()
    dense = np.array([bool(method) and initializer(method).dense for method in rows["method"].fillna("")], dtype=bool)
    health = Health(
        rows["n_eff"].to_numpy(float),
        rows["norm"].to_numpy(float),
        made,
        rows["source_id"].notna().to_numpy(),
        len(_explainer.anchor_ids),
        dense,
    )
    table = rows[made].copy()
    vocabulary = _explainer.vocabulary
    ids = table["id"].to_numpy()
    reasons = {
        "too long": health.too_long[made],
        "cancelled": health.cancelled[made],
        "collapsed": health.collapsed[made],
    }
    table["token"] = [vocabulary.shown(i) for i in ids.tolist()]
    table["nearest cosine"] = np.nan
    table["nearest row"] = ""
    if _graph is not None:
        known = np.isin(ids, _graph.ids)  # rows that are not finite have no neighbours
        places = np.searchsorted(_graph.ids, ids[known])
        table.loc[known, "nearest cosine"] = _graph.cosines[places, 0]
        table.loc[known, "nearest row"] = [vocabulary.shown(i) for i in _graph.near[places, 0].tolist()]
        reasons["near-duplicate"] = np.isin(ids, _graph.near_duplicates())
    why = np.full(len(table), "", dtype=object)
    for reason, holds in reasons.items():
        why[holds] += np.where(why[holds] == "", reason, ", " + reason)
    table["why"] = why
    columns = ["id", "token", "why", "method", "n_eff", "norm_ratio", "nearest row", "nearest cosine"]
    return table[columns].reset_index(drop=True)


def show_health(pair: SelectedPair, explainer: Explainer, target: str) -> None:
    """Show the spread of health over all new rows, the worst of them, and let one be overridden."""
    report, health = explainer.report, explainer.report.health
    prepared = prepared_or_stop(target)
    graph = find_graph(prepared, workspace().cache)
    table = judged(f"{prepared.path.name}-{graph is not None}", explainer, graph)
    duplicates = int((table["nearest cosine"] >= DUPLICATE_COSINE).sum()) if graph is not None else None
    n_risk = health.rows_at_risk
    question(
        "Which rows are at risk?",
        f"**{number(n_risk)}** of the {number(len(table))} rows that `{report.method}` made are too long, cancelled "
        f"or collapsed."
        + (" Another method, or `--guard fallback`, would make them otherwise." if n_risk else "")
        + (f" **{number(duplicates)}** are near-duplicates of another row." if duplicates else ""),
    )
    cards(
        {
            "Rows at risk": (
                number(health.rows_at_risk),
                f"of {number(len(table))}: too long, cancelled or collapsed",
            ),
            "Collapsed": (number(health.collapsed), "n_eff above half the anchors, where a method uses all of them"),
            "Cancelled": (number(health.cancelled), "n_eff below 1"),
            "Too long": (number(health.too_long), "more than 3 times as long as copied rows"),
            "Near-duplicates": (
                number(duplicates),
                f"new rows whose nearest other row has a cosine of {DUPLICATE_COSINE}",
            ),
        }
    )
    charts = health_histograms(explainer.table, report.overlap, initializer(report.method).dense)
    for column, chart, alt in zip(st.columns(2), charts, ("Spread of n_eff", "Spread of norm ratio"), strict=True):
        column.plotly_chart(chart, alt=alt)
    if graph is None:
        job = last_job("near-duplicates", [str(folder_of(target))])
        if wait_or_offer(
            job, "Look for near-duplicates", shlex.join(["clp", "near-duplicates", str(folder_of(target))])
        ):
            submit_near_duplicates(workspace(), str(folder_of(target)))
            st.rerun()
    show_worst(pair, table, target, prepared)


def show_worst(pair: SelectedPair, table: pd.DataFrame, target: str, prepared: EmbeddingCache) -> None:
    """Show the worst rows by a measure of choice; a selected one can be opened or overridden."""
    about, choice = st.columns([3, 2], vertical_alignment="bottom")
    by = choice.selectbox("Worst by", list(WORST), key="worst_by", help="the table's heads sort it too") or FLAGGED
    column, ascending = WORST[by]
    shown = table[table["why"] != ""] if by == FLAGGED else table[table[column].notna()]
    shown = shown.sort_values(column, ascending=ascending, kind="stable").head(MOST_ROWS)
    if shown.empty:
        about.success("No row stands out by that measure.", icon=":material/check:")
        return
    about.markdown(f"**{number(len(shown))}** rows, {by}. Select one to open it or to set what it is made of.")
    others = urlencode({"target": target, "source": pair.source, "helper": pair.helper})
    links = [f"?token=%23{i}&{others}" for i in shown["id"]]
    event = st.dataframe(
        shown.assign(link=links),
        hide_index=True,
        key=f"worst_{by}_{target}",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "n_eff": st.column_config.NumberColumn(format="%.1f"),
            "norm_ratio": st.column_config.NumberColumn("norm ratio", format="%.2f"),
            "nearest cosine": st.column_config.NumberColumn(format="%.4f"),
            "link": st.column_config.LinkColumn("", display_text="open"),
        },
        alt="The rows that stand out, with the reason",
    )
    offer_csv(table, "health.csv", "Download all new rows as CSV")
    for place in event["selection"]["rows"][:1]:
        offer_override(pair, int(shown["id"].iloc[place]), prepared)


def offer_override(pair: SelectedPair, token_id: int, prepared: EmbeddingCache) -> None:
    """Let a row be opened, or let its token be noted as made of a text."""
    vocabulary = prepared.vocabulary
    noted = OverrideList.of(workspace().root, folder_of(pair.source), folder_of(pair.helper))
    name = name_for_override(vocabulary, token_id)
    with st.form(f"override_{token_id}", border=True):
        st.markdown(
            f"Override {plain(vocabulary.shown(token_id))}: in the next transfer its row is the mean of a text's."
        )
        text = st.text_input(
            "Made of this text",
            dict(noted.pairs()).get(name, ""),
            placeholder="a source token such as Ġcastle, or any text in the source's language",
            help="empty takes the override away",
        )
        if st.form_submit_button("Note it for the next transfer", icon=":material/edit_note:"):
            try:
                if text.strip():
                    source = prepared_or_stop(pair.source)
                    check_override(name, text, prepared, source)
                noted.note(name, text.strip() and text)
            except InputError as error:
                st.error(plain(str(error)), icon=":material/error:")
            else:
                st.success(plain(f"Noted: {name}={text}") if text.strip() else "Taken away.", icon=":material/check:")
                st.page_link("pages/transfer.py", label="Open Transfer", icon=":material/arrow_forward:")
    st.button("Open this token", icon=":material/open_in_full:", on_click=open_token, args=(token_id,))


def check_override(name: str, text: str, target: EmbeddingCache, source: EmbeddingCache) -> None:
    """Refuse an override that the transfer would refuse.

    Raises:
        InputError: token or text cannot be used.
    """
    if len(text.splitlines()) > 1:
        raise InputError("the text of an override is one line")
    resolve_overrides([(name, text)], source.vocabulary, target.vocabulary, source.meta["rows"])


def open_token(token_id: int) -> None:
    """Open a token in the first tab; for callbacks."""
    put("token", f"#{token_id}")
    st.session_state["view"] = "Token"
