"""Nearest neighbours of one token in a prepared model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.neighbors import nearest_unit, unit
from clp_core.prepared import Prepared


@st.cache_resource(max_entries=4, show_spinner="Reading the rows")
def unit_rows(path: str, _prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a model's tokens and their input rows scaled to length 1."""
    vocabulary = _prepared.vocabulary
    ids = np.array([i for i, token in enumerate(vocabulary.tokens) if token is not None and i < _prepared.meta["rows"]])
    return ids, unit(_prepared.rows("input").take(ids))


def neighbours(prepared: Prepared, token_id: int, k: int = 10) -> pd.DataFrame:
    """Return the k nearest tokens by cosine, best first: columns token, id, cosine."""
    ids, rows = unit_rows(str(prepared.path), prepared)
    query = rows[np.searchsorted(ids, token_id)][None]
    cosines, found = nearest_unit(query, rows, k + 1, use_gpu=False)
    near = [(int(i), float(c)) for i, c in zip(ids[found[0]], cosines[0], strict=True) if i != token_id][:k]
    return pd.DataFrame([(prepared.vocabulary.shown(i), i, c) for i, c in near], columns=["token", "id", "cosine"])


def show_neighbours(title: str, prepared: Prepared, token_id: int | None) -> None:
    """Show the nearest tokens in one model, or that it does not have the token."""
    st.markdown(f"**{title}**")
    if token_id is None:
        st.caption("This vocabulary does not have the token.")
        return
    st.dataframe(
        neighbours(prepared, token_id),
        hide_index=True,
        column_config={"cosine": st.column_config.NumberColumn(format="%.3f")},
        alt=f"Nearest tokens in the {title}",
    )
