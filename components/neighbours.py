"""Nearest neighbours of one token in several models, and its row under several methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.method_rows import MethodRows
from clp_core.prepared import Prepared
from components.messages import number, plain
from components.models import Pair, folder_of, prepared_or_offer, prepared_or_stop, workspace
from components.targets import last_comparison

K = 10
PER_METHOD = 5
COSINE = st.column_config.NumberColumn(format="%.3f")


@st.cache_data(max_entries=512, show_spinner=False)
def nearest_tokens(path: str, content: str, token_id: int, k: int, _prepared: Prepared) -> list[tuple[int, float]]:
    """Return the nearest tokens of a token once: id and cosine."""
    return _prepared.index.neighbours(token_id, k)


@st.cache_data(max_entries=512, show_spinner=False)
def nearest_rows(key: str, k: int, _rows: np.ndarray, _base: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a model nearest to some rows once: cosines and ids."""
    return _base.index.nearest(_rows, k)


def token_table(prepared: Prepared, pairs: list[tuple[int, float]]) -> pd.DataFrame:
    """Return tokens with id and cosine as a table."""
    rows = [(prepared.vocabulary.shown(i), i, cosine) for i, cosine in pairs]
    return pd.DataFrame(rows, columns=["token", "id", "cosine"])


def show_neighbours(title: str, prepared: Prepared, token_id: int) -> None:
    """Show the nearest tokens in one model."""
    pairs = nearest_tokens(str(prepared.path), prepared.meta["content"], token_id, K, prepared)
    st.markdown(f"**{title}**")
    alt = f"Nearest tokens in the {title}"
    st.dataframe(token_table(prepared, pairs), hide_index=True, column_config={"cosine": COSINE}, alt=alt)


def show_nearest_to_row(title: str, base: Prepared, row: np.ndarray, key: str) -> None:
    """Show the tokens of one model that lie nearest to a row of another."""
    cosines, ids = nearest_rows(key, K, row[None], base)
    pairs = list(zip(ids[0].tolist(), cosines[0].tolist(), strict=True))
    st.markdown(f"**{title}**")
    st.dataframe(token_table(base, pairs), hide_index=True, column_config={"cosine": COSINE}, alt=title)


@st.fragment
def show_all_neighbours(pair: Pair, token_id: int, source_id: int | None, target: str, trained: str) -> None:
    """Show the neighbours of a token in helper, source and target, before and after training."""
    source, helper = prepared_or_stop(pair.source), prepared_or_stop(pair.helper)
    columns = st.columns(4 if trained else 3)
    written = prepared_or_offer(target) if target else None
    with columns[0]:
        show_neighbours("helper", helper, token_id)
    with columns[1]:
        if source_id is not None:
            show_neighbours("source", source, source_id)
        elif written is not None:
            row = written.rows("input").take(np.array([token_id]))[0]
            show_nearest_to_row("source, nearest to the new row", source, row, f"{written.path}-{token_id}")
        else:
            st.markdown("**source**")
            st.caption("The source does not have this token, and no target with a row for it is written yet.")
    with columns[2]:
        if written is not None:
            show_neighbours(f"target {plain(target)}", written, token_id)
        else:
            st.markdown("**target**")
            st.caption("Not written yet: the page Transfer does it.")
    if trained:
        with columns[3]:
            after = prepared_or_offer(trained)
            if after is not None:
                show_neighbours(f"after training: {plain(trained)}", after, token_id)


@st.fragment
def show_methods(pair: Pair, token_id: int) -> None:
    """Show the row of a token under every method of the last comparison, by what lies nearest to it in the source."""
    compared = last_comparison(pair)
    told: dict[str, Any] = compared.spec["arguments"] if compared else {"match": "raw", "seed": 42}
    folders = folder_of(pair.source), folder_of(pair.helper)
    kept = MethodRows.of(workspace().cache, *folders, told["match"], told["seed"])
    if not kept.methods:
        st.info("The methods were not compared on this pair yet.", icon=":material/info:")
        st.page_link("pages/transfer.py", label="Compare them on the page Transfer", icon=":material/arrow_forward:")
        return
    rows = kept.of_token(token_id)
    if not rows:
        st.info("This token is copied: its row is the same under every method.", icon=":material/info:")
        return
    source = prepared_or_stop(pair.source)
    key = f"{kept.folder.name}-{token_id}-{'-'.join(kept.methods)}-{source.path.name}"
    cosines, ids = nearest_rows(key, PER_METHOD, np.stack([row.row for row in rows]), source)
    shown = source.vocabulary.shown
    table = pd.DataFrame(
        [
            (
                row.method,
                None if np.isnan(row.n_eff) else row.n_eff,
                row.norm_ratio,
                float(near_cosines[0]),
                "  ".join(shown(i) for i in near.tolist()),
                "  ".join(f"{shown(i)} {weight:.3f}" for i, weight in row.anchors),
            )
            for row, near, near_cosines in zip(rows, ids, cosines, strict=True)
        ],
        columns=["method", "n_eff", "norm ratio", "cosine", "nearest source tokens to the row", "heaviest anchors"],
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "n_eff": st.column_config.NumberColumn(format="%.1f", help="effective anchors"),
            "norm ratio": st.column_config.NumberColumn(format="%.2f", help="length over that of copied rows"),
            "cosine": st.column_config.NumberColumn(format="%.3f", help="to the nearest source token"),
            "nearest source tokens to the row": st.column_config.TextColumn(width="large"),
        },
        alt="The row of this token under every method",
    )
    st.caption(
        f"{number(len(rows))} methods, {told['match']} matching, seed {told['seed']}, best first by the comparison."
    )
