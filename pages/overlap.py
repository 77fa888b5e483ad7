"""Is this pair fit for a transfer? Tokens in common, by category, and on a text."""

import streamlit as st

from clp_core.tokenization.match_choices import MATCHES
from clp_core.tokenization.scripts import NO_LETTER
from clp_core.tokenization.text_coverage import fitness
from components.messages import cards, number, plain, question, share
from components.models import overlap_key, pair_bar, pair_overlap
from components.navigation import kept, opened_by_app, remember
from components.overlap_views import measured_on, own_text, show_matrix, show_on_text, show_rules, show_where

WORTH_TELLING = 1.1
MEANINGS = {"raw": "their strings are (raw, published)", "canonical": "they stand for the same bytes (canonical)"}

opened_by_app()
pair = pair_bar()
match = st.segmented_control(
    "Tokens are equal when",
    MATCHES,
    key=kept("match", "raw"),
    format_func=lambda name: MEANINGS[name],
    help="canonical makes the word starts Ġ, ▁ and a missing ## equal, reads <0xNN> as a byte, and matches special "
    "tokens by role only; the tab Match modes shows what each rule changes",
)
match = match or "raw"
remember("match", match)
overlap = pair_overlap(pair, match)
st.session_state["looked_at_overlap"] = True

key = f"{overlap_key(pair)}-{match}"
on_text = measured_on(key, overlap, own_text())
judged = fitness(overlap, on_text)
scripts = on_text.scripts[on_text.scripts["script"] != NO_LETTER]
main_script = ""
if len(scripts):
    row = scripts.iloc[0]
    main_script = f"; {row['script']}, in {share(row['share'], 0)} of it, has **{number(int(row['anchors']))}** anchors"
verdict = "It is fit for a transfer." if judged.is_fit else "It is a weak pair."
question(
    "Is this pair fit for a transfer?",
    f"{verdict} **{number(overlap.size)}** of {number(overlap.target.size)} target tokens stand in the source "
    f"vocabulary and make up **{share(on_text.coverage)}** of running text{main_script}.",
)
if match == "raw" and overlap.source.family != overlap.target.family:
    by_bytes = pair_overlap(pair, "canonical").size
    if by_bytes > overlap.size * WORTH_TELLING:
        st.warning(
            f"The two tokenizers write their tokens in different ways ({overlap.source.family} and "
            f"{overlap.target.family}), so raw matching misses equal tokens: canonical matching finds "
            f"**{number(by_bytes)}**. The tab Match modes shows why; the transfer's form has the same choice.",
            icon=":material/warning:",
        )
for warning in (*overlap.source.warnings, *overlap.target.warnings):
    st.warning(plain(warning), icon=":material/warning:")
for weakness in judged.weaknesses:
    st.warning(plain(weakness), icon=":material/warning:")
cards(
    {
        "Tokens in common": (number(overlap.size), "target tokens that are copied from the source"),
        "Share of target": (share(overlap.share_of_target), "of the target vocabulary"),
        "Share of source": (share(overlap.share_of_source), "of the source vocabulary, as in the paper's Table 1"),
        "Coverage": (
            share(on_text.coverage),
            "of the running tokens of the validation text, or of the example sentence",
        ),
        "Tokens a word": (
            f"{number(on_text.source_fertility, 2)} → {number(on_text.target_fertility, 2)}",
            "fertility on that text: source tokenizer, then target tokenizer",
        ),
    }
)

where, on_a_text, modes, many = st.tabs(
    ["Where it lives", "On a text", "Match modes", "Many tokenizers"], key="view", bind="query-params"
)
if where.open:
    with where:
        show_where(key, overlap)
if on_a_text.open:
    with on_a_text:
        show_on_text(key, overlap)
if modes.open:
    with modes:
        show_rules(pair)
if many.open:
    with many:
        show_matrix(pair, match)
