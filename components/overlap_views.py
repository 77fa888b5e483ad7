"""The parts of the page on overlap: where it lives, on a text, what a match rule merges, and many tokenizers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from clp_core.data.text_sources import TextFile, Texts
from clp_core.errors import InputError
from clp_core.figures import COLOURS, matrix_heatmap, overlap_bars
from clp_core.files.text_endings import COMPRESSIONS, ENDINGS
from clp_core.tokenization.canonical_rules import RULES, RuleChanges, rule_changes
from clp_core.tokenization.match_choices import MATCHES
from clp_core.tokenization.overlap import FIELDS, Overlap
from clp_core.tokenization.overlap_matrix import OverlapMatrix
from clp_core.tokenization.text_coverage import TextOverlap, TokenizerFigures, measure_text, segments
from clp_core.tokenization.vocabulary import Vocabulary
from components.browser import cut_paste
from components.messages import number, offer_csv, plain
from components.models import SelectedPair, models, overlap_key, pair_overlap, vocabulary_of
from components.models import texts as texts_here
from components.navigation import kept, remember
from components.pills import legend, show_segments

EXAMPLE = "Der schnelle braune Fuchs springt über den faulen Hund, während die Überraschung größer wird."
TYPED, UPLOADED = "Type or paste", "Upload a file"
MOST_CHARACTERS = 1_000_000
MOST_PASTED = 200_000
MOST_ROWS = 5_000
MOST_COLOURED = 1_000
COUNT = st.column_config.NumberColumn(format="localized")
SHARE = st.column_config.NumberColumn(format="percent")


@st.cache_resource(max_entries=16, show_spinner="Reading the text")
def measured_on(key: str, _overlap: Overlap, text: str) -> TextOverlap:
    """Measure an overlap on a text once."""
    return measure_text(_overlap, text)


@st.cache_data(max_entries=4, show_spinner=False)
def start_of(path: str, changed: float) -> str:
    """Read the beginning of a text file."""
    return beginning_of(Path(path))


def beginning_of(path: Path) -> str:
    """Join the first documents of a text, up to the first character beyond those that are measured."""
    found, n_characters = [], 0
    for document in Texts((TextFile(path),)):
        found.append(document[: MOST_CHARACTERS + 1 - n_characters])
        n_characters += len(found[-1]) + 1
        if n_characters > MOST_CHARACTERS:
            break
    return "\n".join(found)


def uploaded_text(name: str, data: bytes) -> str:
    """Read the beginning of an uploaded text by the ending of its name, as files are read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(data)
        try:
            return beginning_of(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), path.name)) from error


def own_text() -> str:
    """Return the beginning of the first validation text of the workspace, else an example sentence."""
    held_out = [path for path in texts_here() if "valid" in path.name]
    for path in held_out:
        with suppress(InputError):  # a damaged file must not hide the page; whoever chooses it reads why
            if text := start_of(str(path), path.stat().st_mtime):
                return text
    return EXAMPLE


@st.cache_resource(max_entries=8, show_spinner="Listing the tokens")
def tables_of(key: str, _overlap: Overlap) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the tokens of an overlap, each with its group in every field, and the counts by field."""
    table = _overlap.table()
    for field in FIELDS:
        table[f"by {field}"] = pd.Categorical(_overlap.groups(field)[table["id"]])
    return table, {field: _overlap.by(field) for field in FIELDS}


def show_where(key: str, overlap: Overlap) -> None:
    """Show where the overlap lives, as bars; the table follows a click on a bar."""
    table, counts = tables_of(key, overlap)
    field = st.segmented_control(
        "Group the target's tokens by",
        FIELDS,
        key=kept("by", FIELDS[0]),
        help="length is in bytes; rank is the id: trained vocabularies list frequent tokens first",
    )
    field = field or FIELDS[0]
    remember("by", field)
    left, right = st.columns([3, 2])
    with left:
        event = st.plotly_chart(
            overlap_bars(counts[field], field),
            key=f"bars_{field}_{key}",
            on_select="rerun",
            selection_mode="points",
            alt=f"Copied and missing target tokens by {field}",
        )
    right.dataframe(
        counts[field].rename(columns={"group": field}),
        hide_index=True,
        column_config={
            "copied": COUNT,
            "missing": COUNT,
            "share": st.column_config.NumberColumn("copied share", format="percent"),
        },
        alt=f"Counts of copied and missing target tokens by {field}",
    )
    chosen = [
        (str(point["y"]), ("copied", "missing")[int(point["curve_number"])]) for point in event["selection"]["points"]
    ]
    if chosen:
        keep = pd.Series(False, index=table.index)
        is_copied = table["source_id"].notna()
        for group, status in chosen:
            keep |= (table[f"by {field}"] == group) & (is_copied == (status == "copied"))
        told = ", ".join(f"{status} · {field} {group}" for group, status in chosen)
        show_tokens(
            table[keep], f"{plain(told)}: **{number(int(keep.sum()))}** tokens. A double click in the chart lifts it."
        )
    else:
        show_tokens(table, f"All **{number(len(table))}** tokens. A click on a bar lists its tokens here.")


def show_tokens(table: pd.DataFrame, told: str) -> None:
    """Show tokens with a search and a filter by status."""
    about, search, status = st.columns([3, 2, 2], vertical_alignment="bottom")
    wanted = search.text_input("Search these tokens", placeholder="part of a token", help="as shown: · is a blank")
    statuses = status.multiselect("Status", ["copied", "missing", "special"])
    if wanted:
        table = table[table["shown"].str.contains(wanted.replace(" ", "·"), case=False, regex=False)]
    if statuses:
        table = table[table["status"].isin(statuses)]
    told += f" {number(len(table))} fit the search." if wanted or statuses else ""
    about.markdown(told + (f" The first {number(MOST_ROWS)} are shown." if len(table) > MOST_ROWS else ""))
    columns = ["id", "shown", "token", "status", "category", "script", "bytes", "source_id"]
    shown = table[columns].head(MOST_ROWS)
    hues = {name: f"background-color: {colour}2e" for name, colour in COLOURS.items()}
    few = len(shown) <= MOST_COLOURED
    styled = shown.style.map(lambda value: hues.get(value, ""), subset=["status"]) if few else shown
    st.dataframe(
        styled,
        hide_index=True,
        height=420,
        column_config={
            "shown": "as shown",
            "token": "raw string",
            "source_id": st.column_config.NumberColumn("source row", format="%d"),
        },
        alt="Target tokens with status, category, script, length and source row",
    )
    offer_csv(table[columns], "overlap.csv")


def chosen_text() -> str:
    """Let the user type a text, upload one, or take one of the workspace; return what is measured of it."""
    texts = {path.name: path for path in texts_here()}
    place = st.selectbox("Text", [TYPED, UPLOADED, *texts], help=f"at most {MOST_CHARACTERS:,} characters are measured")
    if place == TYPED:
        text = st.text_area("The text, in the target language", EXAMPLE, height=110, key="typed_text")
        if pasted := cut_paste("typed_text", MOST_PASTED):
            st.info(
                f"The pasted text has {number(pasted)} characters; the first {number(MOST_PASTED)} were kept. As a "
                f"file, {number(MOST_CHARACTERS)} are measured.",
                icon=":material/content_cut:",
            )
    elif place == UPLOADED:
        endings = [ending.removeprefix(".") for ending in (*ENDINGS, ".md", *COMPRESSIONS)]
        about = "plain text (UTF-8); of JSON and tables the field or column `text` is read"
        file = st.file_uploader("A text file", type=endings, help=about)
        if file is None:
            return ""
        text = uploaded_text(file.name, file.getvalue())
    else:
        path = texts[str(place)]
        text = start_of(str(path), path.stat().st_mtime)
    if len(text) > MOST_CHARACTERS:
        st.info(
            f"The text has {number(len(text))} characters; the first {number(MOST_CHARACTERS)} are measured.",
            icon=":material/content_cut:",
        )
    return text[:MOST_CHARACTERS]


def show_on_text(key: str, overlap: Overlap) -> None:
    """Show what both tokenizers make of a text: figures, and the two tokenisations above each other."""
    text = chosen_text()
    if not text.strip():
        st.info("Give some text of the target language.", icon=":material/info:")
        return
    measured = measured_on(key, overlap, text)
    names = (f"{overlap.source.name} (source)", f"{overlap.target.name} (target)")
    readings = (measured.source_reading, measured.target_reading)
    used = np.fromiter(overlap.used_source_ids, dtype=np.int64)
    st.dataframe(
        pd.DataFrame(
            {
                "tokenizer": names,
                "tokens": [len(reading.ids) for reading in readings],
                "tokens a word": (measured.source_fertility, measured.target_fertility),
                "bytes a token": (measured.source_bytes_per_token, measured.target_bytes_per_token),
                "in both": (float(np.isin(readings[0].ids, used).mean()), measured.coverage),
                "unknown": (
                    TokenizerFigures.of(overlap.source, text, readings[0]).unknown_share,
                    measured.unknown_share,
                ),
            }
        ),
        hide_index=True,
        column_config={
            "tokens a word": st.column_config.NumberColumn(format="%.2f", help="a word is a run of letters and digits"),
            "bytes a token": st.column_config.NumberColumn(format="%.2f"),
            "in both": st.column_config.NumberColumn(
                format="percent", help="running tokens that both vocabularies have; for the target: what is copied"
            ),
            "unknown": SHARE,
        },
        alt="Tokens, tokens a word and bytes a token of the text under both tokenizers",
    )
    st.html(legend(["copied", "missing", "special"]))
    show_segments(overlap, segments(overlap, *readings))
    with st.expander("By script"):
        st.dataframe(
            measured.scripts,
            hide_index=True,
            column_config={"share": SHARE, "coverage": SHARE},
            alt="Scripts of the text: share of the tokens, coverage, anchors in the vocabulary",
        )


@st.cache_resource(max_entries=8, show_spinner="Comparing the match modes")
def changes_of(key: str, _raw: Overlap, _canonical: Overlap) -> RuleChanges:
    """Attribute the difference of the match modes once."""
    return rule_changes(_raw, _canonical)


def show_rules(pair: SelectedPair) -> None:
    """Show the counts before and after each rule of canonical matching, and what a rule merged."""
    raw, canonical = (pair_overlap(pair, match) for match in MATCHES)
    changes = changes_of(overlap_key(pair), raw, canonical)
    st.markdown(
        f"Raw matching finds **{number(raw.size)}** tokens in common, canonical matching **{number(canonical.size)}**."
    )
    steps = changes.steps.assign(means=[RULES[rule] for rule in changes.steps["rule"]])
    st.dataframe(
        steps,
        hide_index=True,
        column_config={
            "overlap": "in common after it",
            "share_of_target": st.column_config.NumberColumn("of the target", format="percent"),
            "means": st.column_config.TextColumn("what it takes for equal", width="large"),
        },
        alt="Tokens in common before and after each rule",
    )
    if changes.tokens.empty:
        st.info("The rules change nothing on this pair: both modes match the same rows.", icon=":material/info:")
        return
    rules = st.pills("What a rule changed", sorted(set(changes.tokens["rule"])), selection_mode="multi")
    tokens = changes.tokens[changes.tokens["rule"].isin(rules)] if rules else changes.tokens
    st.dataframe(
        tokens.head(MOST_ROWS),
        hide_index=True,
        column_config={
            "token": "target token",
            "source_token": "source token",
            "raw_token": "raw target string",
            "raw_source_token": "raw source string",
            "source_id": st.column_config.NumberColumn("source row", format="%d"),
        },
        alt="Tokens that a rule of canonical matching merges or parts",
    )
    told = f"{number(len(tokens))} tokens" + (
        f", the first {number(MOST_ROWS)} shown" if len(tokens) > MOST_ROWS else ""
    )
    st.caption(f"{told}. Lost: equal strings that stand for other text, or special tokens of other roles.")
    offer_csv(tokens, "rules.csv")


@st.cache_resource(max_entries=8, show_spinner="Matching the vocabularies")
def matrix_of(key: str, _vocabularies: Sequence[Vocabulary], match: str) -> OverlapMatrix:
    """Match many vocabularies once."""
    return OverlapMatrix.of(_vocabularies, match)


@st.cache_data(max_entries=64, show_spinner="Reading the text")
def figures_on(key: str, _vocabulary: Vocabulary, text: str) -> dict[str, float]:
    """Measure a tokenizer on a text once."""
    return asdict(TokenizerFigures.of(_vocabulary, text))


def show_matrix(pair: SelectedPair, match: str) -> None:
    """Show the overlap of many tokenizers as a heat map."""
    names = [entry.name for entry in models() if entry.kind == "model"]
    first = list(dict.fromkeys([pair.source, pair.helper, *names]))[:6]
    chosen = st.multiselect(
        "Tokenizers",
        list(dict.fromkeys([*first, *names])),
        default=first,
        accept_new_options=True,
        key="matrix_of",
        placeholder="models of the workspace, folders with a tokenizer.json, Hub ids that were fetched",
        help="two or more; type a path and press Enter to add a folder",
    )
    found = []
    for name in chosen:
        try:
            vocabulary, content = vocabulary_of(name)
        except InputError as error:
            st.error(plain(f"{name} is left out: {error}"), icon=":material/error:")
        else:
            found.append((vocabulary, content))
    if len(found) < 2:
        st.info("Choose two tokenizers or more.", icon=":material/info:")
        return
    matrix = matrix_of("-".join(content for _, content in found), [vocabulary for vocabulary, _ in found], match)
    of = st.segmented_control("Share of", ["source", "target"], default="source", help="source: the paper's Table 1")
    st.plotly_chart(
        matrix_heatmap(matrix, of or "source"), key=f"matrix_{of}", alt=f"Share of the {of} vocabulary, by pair"
    )
    text = own_text()
    figures = [figures_on(f"{content}-{len(text)}", vocabulary, text) for vocabulary, content in found]
    st.dataframe(
        pd.DataFrame(figures, index=pd.Index(matrix.names, name="tokenizer")).reset_index(),
        hide_index=True,
        column_config={
            "fertility": st.column_config.NumberColumn("tokens a word", format="%.2f"),
            "bytes_per_token": st.column_config.NumberColumn("bytes a token", format="%.2f"),
            "unknown_share": st.column_config.NumberColumn("unknown", format="percent"),
        },
        alt="Each tokenizer on the validation text of the workspace, or on the example sentence",
    )
    st.caption("On the beginning of the workspace's validation text, or on the example sentence.")
    table = matrix.table()
    with st.expander("As a table"):
        columns = {"share_of_source": SHARE, "share_of_target": SHARE}
        st.dataframe(table, hide_index=True, column_config=columns, alt="Overlap of every ordered pair")
    offer_csv(table, "overlap-matrix.csv")
