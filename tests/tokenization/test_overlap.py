"""Where an overlap lives, what match rules merge, what a text says, and many vocabularies at once."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clp_core.errors import InputError
from clp_core.tokenization.canonical_rules import ALPHABET, MARKS, RAW_BYTES, ROLES, STRING, rule_changes
from clp_core.tokenization.overlap import FIELDS, Overlap
from clp_core.tokenization.overlap_matrix import OverlapMatrix
from clp_core.tokenization.text_coverage import PART_CHARACTERS, Segmentation, fitness, measure_text, parts_of, segments
from clp_core.tokenization.vocabulary import Vocabulary

PAIRS = list(itertools.permutations(("byte-level", "sentencepiece-bpe", "unigram", "wordpiece"), 2))
STRANGE = [
    "Der Fuchs springt über den Hund.",
    "  zwei  Blanks\tund\r\nZeilen\n\n",
    "שלום עולם مرحبا",
    "e\u0301 a\u0308 नमस्ते 日本語",
    "👩‍🚀 \x00\x07\u202e\ufeff",
    "<b>&quot;Haus&quot;</b> 'x' \"y\"",
]


@pytest.fixture(scope="module")
def vocabularies(folders):
    return {key: Vocabulary.open(folder) for key, folder in folders.items()}


def pair_of(vocabularies, source="byte-level", target="byte-level", match="raw"):
    return Overlap.of(vocabularies[source, "en"], vocabularies[target, "de"], match)


@pytest.mark.parametrize("field", FIELDS)
def test_groups_part_the_vocabulary(vocabularies, field):
    overlap = pair_of(vocabularies, target="sentencepiece-bpe", match="canonical")
    table = overlap.by(field)
    assert table["copied"].sum() == overlap.size
    assert (table["copied"] + table["missing"]).sum() == overlap.target.size
    groups = overlap.groups(field)
    for group, copied, missing, share in table.itertuples(index=False):
        of_group = (groups == group) & overlap.is_token
        assert (overlap.source_ids[of_group] >= 0).sum() == copied
        assert of_group.sum() == copied + missing
        assert share == copied / (copied + missing)


def test_lengths_and_ranks_come_in_order(vocabularies):
    overlap = pair_of(vocabularies)
    lengths = [int(group.split()[0]) for group in overlap.by("length")["group"]]
    assert lengths == sorted(lengths)
    starts = [int(group.split()[0].replace(",", "")) for group in overlap.by("rank")["group"]]
    assert starts == sorted(starts)
    assert len(starts) == 10
    with pytest.raises(InputError, match="use one of category"):
        overlap.by("colour")


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_rules_lead_from_the_raw_count_to_the_canonical_one(vocabularies, source, target):
    raw, canonical = (pair_of(vocabularies, source, target, match) for match in ("raw", "canonical"))
    changes = rule_changes(raw, canonical)
    assert changes.steps["overlap"].iloc[0] == raw.size
    assert changes.steps["overlap"].iloc[-1] == canonical.size
    assert len(changes.tokens) == (raw.source_ids != canonical.source_ids).sum()
    assert (changes.steps["overlap"].diff().dropna() == (changes.steps["gained"] - changes.steps["lost"])[1:]).all()


def test_each_rule_is_named_for_what_it_does(vocabularies):
    source, target = vocabularies["byte-level", "de"], vocabularies["sentencepiece-bpe", "de"]
    changes = rule_changes(Overlap.of(source, target), Overlap.of(source, target, "canonical"))
    rule = {row.token: (row.rule, row.change) for row in changes.tokens.itertuples()}
    marked = [t for t in target.ids if t[0] == "▁" and t[1:].isascii() and len(t) > 1 and "Ġ" + t[1:] in source.ids]
    assert marked
    assert all(rule[target.shown(target.ids[token])] == (MARKS, "gained") for token in marked)
    assert rule["ü"][0] == ALPHABET  # Ã¼ and ü
    byte = target.shown(target.ids["<0xFE>"])
    assert rule[byte] == (RAW_BYTES, "gained")
    assert rule["</s>"] == (ROLES, "gained")  # both end a text
    assert changes.steps["rule"].tolist()[0] == STRING
    twin = Overlap.of(source, vocabularies["byte-level", "en"])
    assert rule_changes(twin, twin).tokens.empty


def test_equal_strings_of_other_meaning_are_lost(vocabularies):
    source, target = vocabularies["sentencepiece-bpe", "en"], vocabularies["wordpiece", "de"]
    changes = rule_changes(Overlap.of(source, target), Overlap.of(source, target, "canonical"))
    lost = changes.tokens[changes.tokens["change"] == "lost"]
    for row in lost[~lost["id"].isin(target.special_ids)].itertuples():
        assert source.tokens[row.source_id] == target.tokens[row.id]
        assert source.bytes_of(row.source_id) != target.bytes_of(row.id)


@pytest.mark.parametrize(("source", "target"), [*PAIRS, ("byte-level", "byte-level")])
@pytest.mark.parametrize("text", STRANGE)
def test_segments_hold_every_token_of_both_readings_in_order(vocabularies, source, target, text):
    overlap = pair_of(vocabularies, source, target, "canonical")
    readings = Segmentation.of(overlap.source, text), Segmentation.of(overlap.target, text)
    found = list(segments(overlap, *readings))
    assert [i for segment in found for i in segment.source] == overlap.source.encode(text) == readings[0].ids.tolist()
    assert [i for segment in found for i in segment.target] == overlap.target.encode(text) == readings[1].ids.tolist()
    assert all(segment.source or segment.target for segment in found)


def test_one_tokenizer_agrees_with_itself_everywhere(vocabularies):
    for (family, language), vocabulary in vocabularies.items():
        overlap = Overlap.of(vocabulary, vocabulary)
        for text in STRANGE:
            reading = Segmentation.of(vocabulary, text)
            assert all(segment.agrees for segment in segments(overlap, reading, reading)), (family, language, text)


def test_stretches_cut_differently_are_told(vocabularies):
    overlap = pair_of(vocabularies)
    found = list(segments(overlap, *(Segmentation.of(v, " Fuchs, der") for v in (overlap.source, overlap.target))))
    for segment in found:
        own, other = ([v.bytes_of(i) for i in ids] for v, ids in
                      ((overlap.source, segment.source), (overlap.target, segment.target)))  # fmt: skip
        assert b"".join(own).strip() == b"".join(other).strip()
        assert segment.agrees == (own == other)
    assert not all(segment.agrees for segment in found)


def test_text_figures_are_counts_of_the_tokenizers(vocabularies):
    overlap = pair_of(vocabularies)
    text = "Der Wald. Der Fluss."
    ids = overlap.target.encode(text)
    found = measure_text(overlap, text)
    assert found.tokens == len(ids)
    assert found.coverage == sum(overlap.target.tokens[i] in overlap.source.ids for i in ids) / len(ids)
    assert found.target_fertility == len(ids) / 4
    assert found.source_bytes_per_token == len(text) / len(overlap.source.encode(text))
    assert found.scripts["share"].sum() == pytest.approx(1)
    latin = found.scripts.set_index("script").loc["Latin"]
    assert latin["anchors"] == (overlap.target.scripts[overlap.ids] == "Latin").sum()
    with pytest.raises(InputError, match="empty"):
        measure_text(overlap, "  \n")


def test_long_text_is_read_in_parts_that_lose_nothing(vocabularies):
    text = "Der alte Fuchs läuft über den Fluss. " * 4_000 + "\n" + "x" * (3 * PART_CHARACTERS)
    parts = list(parts_of(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= PART_CHARACTERS
    reading = Segmentation.of(vocabularies["byte-level", "de"], text)
    assert b"".join(map(vocabularies["byte-level", "de"].bytes_of, reading.ids.tolist())).decode() == text
    assert reading.ends[-1] == len(text)
    assert (np.diff(reading.ends) >= 0).all()


def test_verdict_names_what_speaks_against_a_pair(vocabularies):
    weak = pair_of(vocabularies, "wordpiece", "unigram")
    told = fitness(weak, measure_text(weak, "Der Fuchs läuft."))
    assert not told.is_fit
    assert "tokens in common" in told.weaknesses[0]
    same = Overlap.of(vocabularies["byte-level", "de"], vocabularies["byte-level", "de"])
    assert fitness(same, measure_text(same, "Der Fuchs läuft.")).is_fit
    cyrillic = fitness(same, measure_text(same, "Der Fuchs läuft.")).weaknesses
    assert cyrillic == ()


def test_script_without_anchors_of_its_own_is_named(vocabularies):
    target = vocabularies["sentencepiece-bpe", "de"]
    source_ids = np.where(target.scripts == "Latin", -1, np.arange(target.n_ids))
    overlap = Overlap(target, target, "raw", source_ids)
    many = Overlap(target, target, "raw", np.where(np.arange(target.n_ids) < 400, np.arange(target.n_ids), -1))
    on_text = measure_text(overlap, "Der Fuchs läuft über den Fluss.")
    assert any("Latin makes up" in told for told in fitness(many, on_text).weaknesses)


def test_matrix_holds_every_ordered_pair(vocabularies):
    chosen = [vocabularies[family, "de"] for family in ("byte-level", "sentencepiece-bpe", "unigram", "wordpiece")]
    for match in ("raw", "canonical"):
        matrix = OverlapMatrix.of(chosen, match)
        for i, j in itertools.permutations(range(4), 2):
            found = Overlap.of(chosen[i], chosen[j], match)
            assert matrix.counts[i, j] == found.size
            assert matrix.share_of_source[i, j] == found.share_of_source
            assert matrix.share_of_target[i, j] == found.share_of_target
        assert (np.diag(matrix.counts) == matrix.sizes).all()
        assert len(matrix.table()) == 12
    assert len(set(OverlapMatrix.of([chosen[0], chosen[0]]).names)) == 2
    with pytest.raises(InputError, match="two tokenizers"):
        OverlapMatrix.of(chosen[:1])


TOKENIZERS = Path(__file__).resolve().parents[3] / "shared" / "tokenizers"


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="no real tokenizers beside the checkout")
@pytest.mark.process
def test_real_tokenizers_overlap_as_counted_by_hand():
    names = ("gpt2", "mistral-v3", "xlm-r", "bert")
    chosen = [Vocabulary.open(TOKENIZERS / name) for name in names]
    matrix = OverlapMatrix.of(chosen)
    sets = [{token for token in vocabulary.tokens if token is not None} for vocabulary in chosen]
    for i, j in itertools.permutations(range(4), 2):
        assert matrix.counts[i, j] == len(sets[i] & sets[j])


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_measured(vocabularies, text):
    overlap = pair_of(vocabularies, "unigram", "byte-level", "canonical")
    if not text.strip():
        return
    clean = text.encode("utf-8", errors="ignore").decode()
    if not clean.strip():
        return
    found = measure_text(overlap, clean)
    assert 0 <= found.coverage <= 1
    held = [i for segment in segments(overlap, found.source_reading, found.target_reading) for i in segment.target]
    assert held == found.target_reading.ids.tolist()


def test_search_finds_tokens_by_what_is_shown(vocabularies):
    vocabulary = vocabularies["byte-level", "de"]
    hits = vocabulary.search("uch")
    assert hits
    assert all("uch" in vocabulary.shown(i).casefold() for i in hits)
    exact = vocabulary.search("Ġder")
    assert vocabulary.shown(exact[0]) == "·der"
    assert vocabulary.search(" der") == exact
    assert len(vocabulary.search("e", most=5)) == 5
    assert vocabulary.search("") == []
    assert vocabulary.search("<|end|>") == [vocabulary.ids["<|end|>"]]


def test_combining_mark_stands_on_something():
    from clp_core.tokenization.scripts import visible

    assert visible("\u0301") == "\u25cc\u0301"
    assert visible("e\u0301") == "e\u0301"
    assert visible("\u202e") == "\\u202e"
