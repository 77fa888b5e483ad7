"""One token: finding it, its card, and its anchors with the formula that can be checked."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from clp_core.errors import InputError
from clp_core.figures import anchor_bars
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.scripts import script_of
from clp_core.tokenization.vocabulary import Vocabulary, id_in
from clp_core.transfer.explanation import Explainer, Explanation
from components.messages import number, plain, share
from components.navigation import put
from components.pills import show_pill

MOST_HITS = 40
SHOWN_ANCHORS = 20
AT_ONCE = 20_000_000
"""Numbers to sum for a row that is made again without being asked to."""


def found_token(vocabulary: Vocabulary, query: str) -> int | None:
    """Return the token that a query means, with other tokens that hold it, and what a text contains, to choose from."""
    is_id = id_in(query) is not None
    named_so = [vocabulary.ids[query]] if query in vocabulary.ids else []  # a token may be spelled as an id is
    hits = named_so if is_id else vocabulary.search(query, MOST_HITS)
    pieces: list[int] = []
    try:
        token_id: int | None = meant(vocabulary, query)
    except InputError as error:
        pieces = [] if is_id else list(dict.fromkeys(vocabulary.encode(query)))[:MOST_HITS]
        token_id = hits[0] if hits else None
        if token_id is None:
            st.warning(plain(str(error)), icon=":material/search_off:")
        else:
            first = f"the first {MOST_HITS}" if len(hits) == MOST_HITS else number(len(hits))
            st.caption(f"No token is just that; the best of {first} that hold it is shown.")
    choose("Tokens that hold it", "hits", vocabulary, [hit for hit in hits if hit != token_id])
    choose("The text is made of", "pieces", vocabulary, pieces)
    return token_id


def meant(vocabulary: Vocabulary, query: str) -> int:
    """Return the token that a query on a page means: here ``#300`` is always an id, as links are written so.

    Raises:
        InputError: nothing fits.
    """
    if id_in(query) is not None:
        return vocabulary.find_id(query)
    try:
        return vocabulary.find(query)
    except InputError:
        if (token_id := id_in(f"#{query}")) is not None and token_id < vocabulary.n_ids:
            return vocabulary.find_id(f"#{query}")
        raise


def choose(label: str, key: str, vocabulary: Vocabulary, ids: list[int]) -> None:
    """Show tokens as pills; a click opens one."""
    if not ids:
        return
    widget = f"{key}_{hash(tuple(ids))}"

    def open_chosen() -> None:
        if (chosen := st.session_state[widget]) is not None:
            put("token", f"#{chosen}")

    st.pills(label, ids, key=widget, on_change=open_chosen, format_func=lambda i: f"{plain(vocabulary.shown(i))} #{i}")


def answer(explanation: Explanation | None, status: str, source_id: int | None, trained: int | None) -> str:
    """Return one sentence on where a row comes from."""
    if status == "special" and source_id is not None and explanation is not None:
        told = f"It is **copied by role**: source row {number(source_id)}, bit for bit."
    elif status == "override" and explanation is not None:
        named = ", ".join(plain(anchor.token) for anchor in explanation.anchors)
        told = f"It is **overridden** by hand: made of the source's {named}."
    elif status == "copied" or (explanation is None and source_id is not None):
        told = f"It is **copied**: source row {number(source_id)}, bit for bit."
    elif explanation is None:
        told = "It is **missing** in the source. Write a target on the page Transfer to see how its row is made."
    elif explanation.n_eff is None or not explanation.anchors:
        told = f"It is **{explanation.status}** by `{explanation.method}`, which draws it without anchors."
    elif explanation.anchors_for_90_percent is None:
        kept = len(explanation.anchors)
        told = f"It is **initialised** by `{explanation.method}`; its {kept} heaviest anchors are kept."
    else:
        carriers = explanation.anchors_for_90_percent
        told = (
            f"It is **initialised** by `{explanation.method}`: {number(carriers)} of {number(explanation.n_anchors)} "
            f"anchors {'carries' if carriers == 1 else 'carry'} 90 % of the weight."
        )
    if trained:
        told += f" That was before **{number(trained)}** steps of training, which have changed the rows since."
    return told


def show_card(
    vocabulary: Vocabulary, token_id: int, status: str, source_id: int | None, figures: dict[str, str]
) -> None:
    """Show a token with its figures."""
    show_pill(vocabulary.shown(token_id), status)
    rank = f"{number(token_id)} ({share((token_id + 1) / vocabulary.n_ids, 0)} into the vocabulary)"
    told = {
        "raw string": vocabulary.tokens[token_id],
        "id and rank": rank,
        "bytes": vocabulary.bytes_of(token_id).hex(" "),
        "status": status,
        "category": vocabulary.category_of(token_id),
        "script": script_of(vocabulary.bytes_of(token_id).decode("utf-8", errors="replace")),
        "source row": number(source_id),
    }
    for label, value in (told | figures).items():
        name, cell = st.columns([2, 3])
        name.caption(label)
        cell.markdown(plain(str(value)))


def health_of(explanation: Explanation, explainer: Explainer) -> dict[str, str]:
    """Return the health figures of a row as text, its length against all others too."""
    ratios = explainer.table["norm_ratio"].to_numpy()
    below = float((ratios < explanation.norm_ratio).mean()) if explanation.norm_ratio is not None else None
    return {
        "effective anchors (n_eff)": number(explanation.n_eff, 1),
        "cancellation": number(explanation.cancellation, 3),
        "length (norm ratio)": f"{number(explanation.norm_ratio, 3)}, longer than {share(below, 0)} of the rows",
        "at risk": "yes" if explanation.at_risk else "no",
    }


def show_anchors(explanation: Explanation, vocabulary: Vocabulary) -> None:
    """Show the heaviest anchors of a row as bars, and the mass that they hold."""
    shown = [vocabulary.shown(a.id) if a.id is not None else a.token for a in explanation.anchors]
    st.plotly_chart(
        anchor_bars(explanation, shown),
        key="anchors",
        alt="The heaviest anchors of this token by weight, coloured by cosine",
    )
    st.caption(
        f"These {len(shown)} hold {share(explanation.mass)} of the absolute weight. Colour: cosine to the token in the "
        "helper; the number behind # is the source row."
    )


def show_formula(
    explanation: Explanation, explainer: Explainer, source: EmbeddingCache, target: Callable[[], EmbeddingCache]
) -> None:
    """Show the formula with its numbers, and the row made again from them."""
    if explanation.formula:
        st.latex(explanation.formula)
    if explanation.filled_in:
        st.latex(explanation.filled_in)
    first = explanation.anchors[0] if explanation.anchors else None
    if explanation.method == "clp" and first and first.cosine and first.cosine * first.weight < 0:
        st.warning(
            "The cosines to all anchors sum to less than 0, so the published rule turns every sign: the nearest "
            "anchors count negatively.",
            icon=":material/warning:",
        )
    if explanation.parameters:
        st.caption(plain("Chosen by the fit: " + ", ".join(f"{k} = {v:g}" for k, v in explanation.parameters.items())))
    if explainer.report.trained_steps:
        st.caption("Training has changed this row since, so it cannot be made again from its anchors.")
        return
    width = source.meta["width"]
    is_cheap = explanation.n_anchors * width <= AT_ONCE
    if not (is_cheap or st.button("Make this row again from its weights", icon=":material/calculate:")):
        return
    try:
        again = explainer.recompute(explanation.id, source.rows("input"), target().rows("input"))
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    if again is None:
        st.caption("Not all weights of this row are known here, so it cannot be made again from them.")
    elif explanation.source_id is not None:
        told = "bit for bit the same" if again.difference == 0 else f"another by {again.difference:.1e} of its length"
        st.caption(f"Compared just now: the target's row is {told} as source row {number(explanation.source_id)}.")
    else:
        st.caption(
            f"Made again just now in float64 from {number(again.terms)} source rows: it differs from the row in the "
            f"target by {again.difference:.1e} of its length ({target().meta['dtype']} rounds at about "
            f"{ROUNDING.get(target().meta['dtype'], 'an unknown size')})."
        )
    with st.expander("Check it yourself"):
        st.code(SNIPPET.format(target=str(explainer.folder), token=f"#{explanation.id}"), language="python")


ROUNDING = {"F32": "1e-7", "BF16": "2e-3", "F16": "3e-4", "F64": "1e-16"}
SNIPPET = """from pathlib import Path
from clp_core.checkpoint import Checkpoint
from clp_core.explain import Explainer

target = Path({target!r})
explainer = Explainer.open(target)
source, written = Checkpoint.open(explainer.report.source), Checkpoint.open(target)
token = explainer.vocabulary.find({token!r})
for anchor in explainer.explain(token, k=10).anchors:
    print(anchor.source_id, anchor.token, anchor.weight, anchor.cosine)
print(explainer.recompute(token, source.rows("input"), written.rows("input")))"""


def status_of(overlap: Overlap, token_id: int) -> tuple[str, int | None]:
    """Return status and source row of a token of a pair without a target."""
    source_id = int(overlap.source_ids[token_id])
    return str(overlap.statuses[token_id]), source_id if source_id >= 0 else None
