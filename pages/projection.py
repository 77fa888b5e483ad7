"""What does the space look like, and where did the new rows land?"""

import numpy as np
import streamlit as st

from components.messages import number, plain, question
from components.models import choose_model, models, pair_bar, prepared_or_offer
from components.navigation import kept, opened_by_app, remember
from components.neighbours import warn_of_rows
from components.projection_view import (
    COLUMNS,
    MOVERS,
    marks_of,
    movement_of,
    open_space,
    same_tokens,
    searched,
    show_export,
    show_movement,
    show_picture,
    show_selection,
)
from components.targets import before_and_after, targets_of

NOTHING = "(nothing)"
QUESTION = "What does the space look like, and where did the new rows land?"

opened_by_app()
pair = pair_bar()
names = [entry.name for entry in models()]
left, middle, right, search = st.columns([3, 2, 3, 3], vertical_alignment="bottom")
with left:
    target = st.query_params.get("target") or st.session_state.get("kept_target", "")
    name = choose_model("Model", "shown", names, target if target in names else pair.helper)
method = middle.segmented_control("Layout", ["pca", "umap"], key=kept("layout", "pca"), format_func=str.upper) or "pca"
colour = (
    right.selectbox("Colour", list(COLUMNS), key=kept("colour", "status"), format_func=lambda c: COLUMNS[c]) or "status"
)
query = search.text_input("Find a token", key=kept("token", ""), placeholder="a token, part of one, a text, or #id")
for key, value in (("layout", method), ("colour", colour), ("token", query)):
    remember(key, value)

targets = targets_of(pair)
before, after = before_and_after(targets, next((entry for entry in targets if entry.name == name), None))
with st.popover("More", icon=":material/tune:"):
    beside = (
        st.selectbox("Beside it", [NOTHING, *(n for n in names if n != name)], key=kept("beside", NOTHING)) or NOTHING
    )
    remember("beside", beside)
    fly = st.toggle("A search flies to the token", value=True)
    can_move = bool(after) and method == "pca"
    arrows = st.toggle(
        "Arrows: how far rows moved in training",
        key="arrows",
        disabled=not can_move,
        help="for a target with a trained checkpoint, by PCA: before and after lie on the same axes there, which two "
        "layouts by UMAP do not",
    )
    image = st.segmented_control("The camera takes", ["png", "svg"], default="png", format_func=str.upper)

shown = before if arrows and can_move else name
head = st.container()
space = open_space(pair, shown, method)
if space is None:
    with head:
        question(QUESTION, f"**{plain(shown)}** is not laid out by {method.upper()} yet.")
    st.stop()
if colour not in space.points:
    st.info(f"{plain(shown)} has no {COLUMNS[colour]}: only what a transfer wrote has. Status is shown.")
    colour = "status"
token_id = searched(space.vocabulary, query)
counts = space.points["status"].value_counts()
with head:
    question(
        QUESTION,
        f"**{number(len(space.points))}** tokens of **{plain(shown)}** by {method.upper()}: "
        + ", ".join(f"{number(int(count))} {status}" for status, count in counts.items() if count)
        + ".",
    )

warn_of_rows(space.prepared)
moved = None
if arrows and can_move:
    trained = prepared_or_offer(after)
    warn_of_rows(trained)
    if trained is not None:
        moved = movement_of(f"{space.prepared.path.name}-{trained.path.name}", space.prepared, trained)
columns = st.columns(2) if beside != NOTHING else [st.container()]
with columns[0]:
    lines = moved.places[moved.furthest(MOVERS)] if moved is not None else None
    marks = marks_of(space, token_id, np.zeros(0, np.int64), fly, lines)
    figure, selected = show_picture(space, colour, marks, image or "png")
if beside != NOTHING:
    with columns[1]:
        other = open_space(pair, beside, method)
        if other is not None:
            warn_of_rows(other.prepared)
            ids = selected["id"].to_numpy() if len(selected) <= len(space.points) // 4 else np.zeros(0, np.int64)
            same = same_tokens(other, space.vocabulary, ids)
            twin = same_tokens(other, space.vocabulary, np.array([token_id] if token_id is not None else [], int))
            own = colour if colour in other.points else "status"
            marks = marks_of(other, int(twin[0]) if len(twin) else None, same, fly, None)
            show_picture(other, own, marks, image or "png")
if moved is not None:
    show_movement(space, moved)
show_selection(space, selected)
show_export(space, figure)
