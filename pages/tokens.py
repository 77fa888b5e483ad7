"""Where does this row come from? One token's card, its anchors, and its neighbours in every model."""

import streamlit as st

from clp_core.files.hashing import fingerprint
from components.agreement import show_agreement
from components.browser import focus
from components.health import show_health
from components.messages import question
from components.models import pair_bar, pair_overlap, prepared_or_stop
from components.navigation import kept, one_of, opened_by_app, remember
from components.neighbours import show_all_neighbours, show_methods, warn_of_rows
from components.targets import before_and_after, explainer_of, targets_of
from components.token_view import (
    SHOWN_ANCHORS,
    answer,
    found_token,
    health_of,
    show_anchors,
    show_card,
    show_formula,
    status_of,
)

opened_by_app()
pair = pair_bar()
source, helper = prepared_or_stop(pair.source), prepared_or_stop(pair.helper)
vocabulary = helper.vocabulary
targets = targets_of(pair)
names = [entry.name for entry in targets]
left, right = st.columns([2, 1], vertical_alignment="bottom")
query = left.text_input(
    "Token",
    key=kept("token", "Ġdas" if "Ġdas" in vocabulary.ids else "#300"),
    live=True,
    icon=":material/search:",
    help="the raw string, part of a token, a text, or #id; the key / brings you here, and the address leads to it",
    placeholder="a token, part of one, a text, or #id",
)
focus("widget_token")
remember("token", query)
chosen = one_of(right, "Target model", "target", names, "its rows are explained") if names else ""
entry = next((entry for entry in targets if entry.name == chosen), None)
key = f"{source.path.name}-{helper.path.name}"
explainer = explainer_of(str(entry.folder), fingerprint(entry.folder), key, source, helper) if entry else None

one, health, agreement = st.tabs(
    ["Token", "Health of all rows", "Neighbour agreement"], key="view", bind="query-params"
)
if one.open:
    with one:
        token_id = found_token(vocabulary, query) if query.strip() else None
        if token_id is None:
            question(
                "Where does this row come from?", "Type a token, part of one, a text, or #id into the field above."
            )
            st.stop()
        explanation = explainer.explain(token_id, SHOWN_ANCHORS) if explainer else None
        if explanation:
            status, source_id = explanation.status, explanation.source_id
        else:
            status, source_id = status_of(pair_overlap(pair, "raw"), token_id)
        trained_steps = explainer.report.trained_steps if explainer else None
        question("Where does this row come from?", answer(explanation, status, source_id, trained_steps))
        card, picture = st.columns([1, 2])
        with card.container(border=True):
            figures = health_of(explanation, explainer) if explanation and explainer else {}
            show_card(vocabulary, token_id, status, source_id, figures)
        with picture:
            if explanation and explainer and entry:
                if explanation.anchors:
                    show_anchors(explanation, vocabulary)
                elif source_id is not None:
                    st.info("A copied row has one origin, so there are no anchors to show.", icon=":material/info:")
                else:
                    st.info("This method draws rows without anchors, so there are none.", icon=":material/info:")
                written = entry.name
                show_formula(explanation, explainer, source, lambda: prepared_or_stop(written))
            else:
                st.info("No target of this pair yet. Write one on the page Transfer.", icon=":material/info:")
                st.page_link("pages/transfer.py", label="Open Transfer", icon=":material/arrow_forward:")
        st.subheader("Nearest neighbours")
        st.caption("By cosine of the input embeddings, exact; the token itself is left out.")
        warn_of_rows(source, helper)
        before, after = before_and_after(targets, entry)
        show_all_neighbours(pair, token_id, source_id, before, after)
        st.subheader("The same token under every method")
        show_methods(pair, token_id)
if health.open:
    with health:
        if explainer and entry:
            show_health(pair, explainer, entry.name)
        else:
            question("Which rows are at risk?")
            st.info("No target of this pair yet. Write one on the page Transfer.", icon=":material/info:")
if agreement.open:
    with agreement:
        question("Do two models agree on what lies near?")
        show_agreement(pair.helper, chosen)
