"""Neighbour agreement of two models of one tokenizer, as in the paper's Figure 1."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from clp_core.errors import InputError
from clp_core.figures import agreement_bars
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.geometry.neighbor_graph import Agreement, find_agreement, graph_file
from clp_core.submission import submit_agreement
from components.jobs import last_job, wait_or_offer
from components.messages import cards, number, offer_csv, plain, share
from components.models import choose_model, folder_of, models, prepared_or_stop, workspace
from components.neighbours import warn_of_rows

MOST_ROWS = 100


@st.cache_resource(max_entries=8, show_spinner="Comparing the neighbours")
def agreement_of(key: str, _first: EmbeddingCache, _second: EmbeddingCache) -> tuple[Agreement, pd.DataFrame] | None:
    """Compare two models whose graphs were made, once; return the agreement and its tokens, least common first."""
    found = find_agreement(_first, _second, workspace().cache)
    if found is None:
        return None
    table = found.table(_first.vocabulary)
    table["token"] = [_first.vocabulary.shown(i) for i in found.ids.tolist()]
    return found, table.sort_values("common", kind="stable")


def show_agreement(helper: str, target: str) -> None:
    """Show the share of nearest neighbours that two models have in common, over all tokens."""
    names = [entry.name for entry in models()]
    st.markdown(
        "Of each token's 10 nearest tokens, how many are the same in two models? It asks for one tokenizer: helper and "
        "target, two targets, or a target before and after training."
    )
    left, right = st.columns(2)
    with left:
        first = choose_model("First model", "first", names, helper)
    with right:
        second = choose_model("Second model", "second", names, target)
    if not first or not second:
        st.info("Choose two models; a target is written on the page Transfer.", icon=":material/info:")
        return
    opened = prepared_or_stop(first), prepared_or_stop(second)
    try:
        made = all(graph_file(prepared, workspace().cache).is_file() for prepared in opened)
        compared = agreement_of(f"{opened[0].path.name}-{opened[1].path.name}-{made}", *opened)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    if compared is None:
        folders = [str(folder_of(first)), str(folder_of(second))]
        if wait_or_offer(
            last_job("agreement", folders), "Compare the neighbours", shlex.join(["clp", "agreement", *folders])
        ):
            submit_agreement(workspace(), *folders)
            st.rerun()
        return
    warn_of_rows(*opened)
    found, table = compared
    st.markdown(
        f"**{share(found.mean)}** of the {found.k} nearest neighbours of a token are the same in **{plain(first)}** "
        f"and **{plain(second)}**, in the mean over {number(len(found.ids))} tokens; by chance it would be "
        f"{share(found.by_chance, 2)}."
    )
    quarters = pd.Series(found.share).quantile([0.25, 0.5, 0.75]).tolist()
    cards(
        {
            "Mean share in common": (share(found.mean), "of the 10 nearest neighbours, over all tokens"),
            "Median token": (share(quarters[1], 0), "half of the tokens have at least this share in common"),
            "Middle half": (f"{share(quarters[0], 0)} to {share(quarters[2], 0)}", "lower and upper quartile"),
            "None in common": (number(found.histogram()[0]), "tokens without a common neighbour"),
        }
    )
    st.plotly_chart(
        agreement_bars(found.histogram(), first, second, found.mean), alt="Tokens by number of common neighbours"
    )
    st.markdown("**The tokens on whose neighbours they agree least**")
    st.dataframe(
        table.head(MOST_ROWS),
        hide_index=True,
        column_config={"share": st.column_config.NumberColumn(format="percent")},
        alt="Tokens with the fewest common neighbours",
    )
    offer_csv(table, "agreement.csv")
