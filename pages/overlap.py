"""Is this pair fit for a transfer? Tokens in common, by category, and on a text."""

import streamlit as st

from clp_core.figures import COLOURS, overlap_bars
from clp_core.overlap import MATCHES, Overlap, TextOverlap, is_fit
from components.messages import cards, number, plain, question, share
from components.models import pair_bar, pair_overlap, workspace
from components.navigation import kept, opened_by_app, remember
from components.pills import legend, show_pills

EXAMPLE = "Der schnelle braune Fuchs springt über den faulen Hund, während die Überraschung größer wird."
MAX_TEXT = 200_000
MAX_ROWS = 5_000
MEANINGS = {"raw": "their strings are (raw, published)", "canonical": "they stand for the same bytes (canonical)"}


@st.cache_data(max_entries=32, show_spinner="Reading the text")
def measured_on(key: str, _overlap: Overlap, text: str) -> TextOverlap:  # noqa: ARG001
    """Measure an overlap on a text once."""
    return _overlap.on_text(text)


@st.cache_data(max_entries=4, show_spinner=False)
def start_of(path: str, changed: float) -> str:  # noqa: ARG001
    """Return the beginning of a text file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(MAX_TEXT)


opened_by_app()
pair = pair_bar()
match = st.segmented_control(
    "Tokens are equal when",
    MATCHES,
    key=kept("match", "raw"),
    format_func=lambda name: MEANINGS[name],
    help="canonical makes the word starts Ġ, ▁ and a missing ## equal, reads <0xNN> as a byte, and matches special "
    "tokens by role only",
)
remember("match", match or "raw")
overlap = pair_overlap(pair, match or "raw")
st.session_state["looked_at_overlap"] = True

texts = workspace().list_texts()
held_out = [start_of(str(path), path.stat().st_mtime) for path in texts if "valid" in path.name]
key = f"{pair.source}-{pair.helper}-{match}"
on_text = measured_on(key, overlap, next(iter(held_out), EXAMPLE))
verdict = "fit for a transfer" if is_fit(overlap, on_text) else "a weak pair for a transfer"
question(
    "Is this pair fit for a transfer?",
    f"**{number(overlap.size)}** of {number(overlap.target.size)} target tokens stand in the source vocabulary; they "
    f"make up **{share(on_text.coverage)}** of running text. That is {verdict}.",
)
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

tab_category, tab_text, tab_tokens = st.tabs(["Where it lives", "On a text", "Token table"])
with tab_category:
    left, right = st.columns([3, 2])
    by_category, by_script = overlap.by_category(), overlap.by_script()
    left.plotly_chart(
        overlap_bars(by_category, "category"), key="bars", alt="Copied and missing target tokens by category"
    )
    left.plotly_chart(
        overlap_bars(by_script, "script"), key="scripts", alt="Copied and missing target tokens by script"
    )
    for table, name in ((by_category, "category"), (by_script, "script")):
        right.dataframe(
            table,
            hide_index=True,
            column_config={"share": st.column_config.NumberColumn("copied share", format="percent")},
            alt=f"Counts of copied and missing target tokens by {name}",
        )

with tab_text:
    text = st.text_area("Text", EXAMPLE, height=110, max_chars=MAX_TEXT, help="both tokenizers read it")
    if text.strip():
        measured = measured_on(key, overlap, text)
        st.caption(
            f"{number(measured.tokens)} target tokens; coverage {share(measured.coverage)}; "
            f"{number(measured.source_bytes_per_token, 2)} bytes a source token, "
            f"{number(measured.target_bytes_per_token, 2)} a target token; unknown {share(measured.unknown_share)}"
        )
        st.html(legend(["copied", "missing", "special"]))
        source, target = overlap.source, overlap.target
        used = set(overlap.source_ids[overlap.ids].tolist())
        st.markdown(f"**{plain(source.name)}** (source)")
        show_pills(
            [
                (
                    source.shown(i),
                    "special" if i in source.special_ids else "copied" if i in used else "missing",
                    f"#{i}",
                )
                for i in source.encode(text)
            ]
        )
        st.markdown(f"**{plain(target.name)}** (target)")
        show_pills([(target.shown(i), str(overlap.statuses[i]), f"#{i}") for i in target.encode(text)])
    else:
        st.info("Give some text of the target language.", icon=":material/info:")

with tab_tokens:
    table = overlap.table()
    search, status, category = st.columns([2, 1, 1])
    wanted = search.text_input("Search", placeholder="part of a token", help="as the token is shown, · is a blank")
    statuses = status.multiselect("Status", ["copied", "missing", "special"])
    categories = category.multiselect("Category", sorted(set(table["category"])))
    if wanted:
        table = table[table["shown"].str.contains(wanted, case=False, regex=False)]
    if statuses:
        table = table[table["status"].isin(statuses)]
    if categories:
        table = table[table["category"].isin(categories)]
    st.caption(
        f"{number(len(table))} tokens" + (f", the first {number(MAX_ROWS)} are shown" if len(table) > MAX_ROWS else "")
    )
    shown = table.head(MAX_ROWS)
    hues = {name: f"background-color: {colour}2e" for name, colour in COLOURS.items()}
    styled = shown.style.map(lambda value: hues.get(value, ""), subset=["status"]) if len(shown) <= 1000 else shown
    st.dataframe(styled, hide_index=True, height=420, alt="Target tokens with status, category, script and source id")
    st.download_button(
        "Download as CSV",
        lambda: table.to_csv(index=False).encode(),
        "overlap.csv",
        "text/csv",
        icon=":material/download:",
    )
