"""Nearest neighbours of one token in several models, and its row under several methods."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.embeddings.row_source import ArrayRows, non_finite_rows
from clp_core.errors import InputError
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.transfer.method_rows_cache import MethodRows
from components.messages import number, plain
from components.models import SelectedPair, folder_of, prepared_or_offer, prepared_or_stop, workspace
from components.targets import last_method_comparison

K = 10
PER_METHOD = 5
COSINE = st.column_config.NumberColumn(format="%.3f")


Near = list[tuple[int, float]]


@st.cache_data(max_entries=512, show_spinner=False)
def nearest_tokens(path: str, content: str, token_id: int, k: int, _prepared: EmbeddingCache) -> Near:
    """Return the nearest tokens of a token once: id and cosine."""
    return _prepared.index.neighbours(token_id, k)


@st.cache_data(max_entries=512, show_spinner="Looking for neighbours")
def nearest_in_all(key: str, token_id: int, _bases: list[tuple[EmbeddingCache, np.ndarray]]) -> list[Near]:
    """Return for each model the tokens nearest to a row, the row's own token among them; one more than is shown.

    The models are searched side by side: one search uses one core.

    Args:
        key: names the models and the token.
        token_id: the token.
        _bases: models with the row ``[D]`` to look for.
    """

    def search(ask: tuple[EmbeddingCache, np.ndarray]) -> Near:
        base, row = ask
        cosines, ids = base.index.nearest(row[None], K + 1)
        return list(zip(ids[0].tolist(), cosines[0].tolist(), strict=True))

    with ThreadPoolExecutor(len(_bases)) as pool:
        return list(pool.map(search, _bases))


@st.cache_data(max_entries=512, show_spinner=False)
def nearest_rows(key: str, k: int, _rows: np.ndarray, _base: EmbeddingCache) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a model nearest to some rows once: cosines and ids."""
    return _base.index.nearest(_rows, k)


def token_table(prepared: EmbeddingCache, pairs: list[tuple[int, float]]) -> pd.DataFrame:
    """Return tokens with id and cosine as a table."""
    rows = [(prepared.vocabulary.shown(i), i, cosine) for i, cosine in pairs]
    return pd.DataFrame(rows, columns=["token", "id", "cosine"])


@st.fragment
def show_all_neighbours(pair: SelectedPair, token_id: int, source_id: int | None, target: str, trained: str) -> None:
    """Show the neighbours of a token in helper, source and target, before and after training.

    The source is searched with the row of the target where it does not have the token itself.
    """
    source, helper = prepared_or_stop(pair.source), prepared_or_stop(pair.helper)
    columns = st.columns(4 if trained else 3)
    with columns[2]:
        written = prepared_or_offer(target) if target else None
    after = None
    if trained:
        with columns[3]:
            after = prepared_or_offer(trained)
    warn_of_rows(written, after)
    row = row_of(written, token_id)
    asks: dict[int, tuple[str, EmbeddingCache, np.ndarray, int]] = {}
    if (own := row_of(helper, token_id)) is not None:
        asks[0] = ("helper", helper, own, token_id)
    if source_id is not None and (own := row_of(source, source_id)) is not None:
        asks[1] = ("source", source, own, source_id)
    elif row is not None:
        asks[1] = ("source, nearest to the new row", source, row, -1)
    if written is not None and row is not None:
        asks[2] = (f"target {plain(target)}", written, row, token_id)
    if after is not None and (own := row_of(after, token_id)) is not None:
        asks[3] = (f"after training: {plain(trained)}", after, own, token_id)
    key = "-".join(base.path.name for _, base, _, _ in asks.values()) + f"-{source_id}"
    found = nearest_in_all(key, token_id, [(base, own) for _, base, own, _ in asks.values()]) if asks else []
    for (place, (title, base, _, itself)), near in zip(asks.items(), found, strict=True):
        pairs = [pair for pair in near if pair[0] != itself][:K]
        columns[place].markdown(f"**{title}**")
        table, alt = token_table(base, pairs), f"Nearest tokens, {title}"
        columns[place].dataframe(table, hide_index=True, column_config={"cosine": COSINE}, alt=alt)
    models = [(helper, token_id), (source, source_id), (written, token_id), (after, token_id)]
    not_finite = [place for place, (model, i) in enumerate(models) if place not in asks and is_not_finite(model, i)]
    for place in not_finite:
        columns[place].markdown(f"**{('helper', 'source', 'target', 'after training')[place]}**")
        columns[place].caption("The row of this token is not finite, so it has no neighbours.")
    if 1 not in asks and 1 not in not_finite:
        columns[1].markdown("**source**")
        columns[1].caption("The source does not have this token, and no target with a row for it is written yet.")
    if not target:
        columns[2].markdown("**target**")
        columns[2].caption("Not written yet: the page Transfer does it.")


def row_of(prepared: EmbeddingCache | None, token_id: int) -> np.ndarray | None:
    """Return the input row of a token, ``[D]``, or ``None`` where the model has none or it is not finite."""
    if prepared is None or token_id >= prepared.meta["rows"] or is_not_finite(prepared, token_id):
        return None
    return prepared.rows("input").take(np.array([token_id]))[0]


def warn_of_rows(*models: EmbeddingCache | None) -> None:
    """Name the rows of models that are not finite; neighbours and layouts leave them out."""
    for prepared in models:
        for warning in prepared.warnings if prepared is not None else []:
            st.warning(plain(warning), icon=":material/warning:")


def is_not_finite(prepared: EmbeddingCache | None, token_id: int | None) -> bool:
    """Say whether a token has an input row that is not finite, so that it has no neighbours."""
    return prepared is not None and token_id is not None and token_id in prepared.non_finite()


@st.fragment
def show_methods(pair: SelectedPair, token_id: int) -> None:
    """Show the row of a token under every method of the last comparison, by what lies nearest to it in the source."""
    compared = last_method_comparison(pair)
    told: dict[str, Any] = {"match": "raw", "seed": 42} | (compared.spec["arguments"] if compared else {})
    folders = folder_of(pair.source), folder_of(pair.helper)
    kept = MethodRows.of(workspace().cache, *folders, told["match"], told["seed"])
    if not kept.methods:
        st.info("The methods were not compared on this pair yet.", icon=":material/info:")
        st.page_link("pages/transfer.py", label="Compare them on the page Transfer", icon=":material/arrow_forward:")
        return
    try:
        rows = kept.of_token(token_id)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        st.page_link("pages/transfer.py", label="Compare them on the page Transfer", icon=":material/arrow_forward:")
        return
    if not rows:
        st.info("This token is copied: its row is the same under every method.", icon=":material/info:")
        return
    source = prepared_or_stop(pair.source)
    made = (kept.folder / "methods.json").stat().st_mtime_ns
    key = f"{kept.folder.name}-{token_id}-{made}-{source.path.name}"
    queries = np.stack([row.row for row in rows])
    cosines, ids = nearest_rows(key, PER_METHOD, queries, source)
    bad = set(non_finite_rows(ArrayRows(queries)).tolist())  # too large for the half precision in which they are kept
    shown = source.vocabulary.shown
    table = pd.DataFrame(
        [
            (
                row.method,
                None if np.isnan(row.n_eff) else row.n_eff,
                row.norm_ratio,
                None if place in bad else float(near_cosines[0]),
                "(row not finite)" if place in bad else "  ".join(shown(i) for i in near.tolist()),
                "  ".join(f"{shown(i)} {weight:.3f}" for i, weight in row.anchors),
            )
            for place, (row, near, near_cosines) in enumerate(zip(rows, ids, cosines, strict=True))
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
