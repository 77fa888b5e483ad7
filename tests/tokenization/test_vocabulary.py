import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import FAMILIES

from clp_core.errors import InputError
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.scripts import visible
from clp_core.tokenization.token_bytes import byte_of_character
from clp_core.tokenization.vocabulary import CATEGORIES, Vocabulary


@pytest.mark.parametrize("family", FAMILIES)
def test_vocabulary_holds_what_transformers_holds(folders, tokenizers, family):
    vocabulary = Vocabulary.open(folders[family, "de"])
    assert vocabulary.ids == tokenizers[family, "de"].get_vocab()
    assert set(vocabulary.categories) <= set(CATEGORIES)
    text = "Das Haus ist größer als 42 Wälder."
    assert vocabulary.encode(text) == tokenizers[family, "de"].encode(text, add_special_tokens=False)


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece-bpe", "unigram"])
def test_bytes_of_the_tokens_of_a_text_join_to_the_text(folders, family):
    vocabulary = Vocabulary.open(folders[family, "de"])
    text = "Der braune Fuchs läuft."
    joined = b"".join(vocabulary.token_bytes[i] for i in vocabulary.encode(text)).decode()
    assert joined.strip() == text


@pytest.mark.parametrize("family", FAMILIES)
def test_word_starts_are_found_in_every_family(folders, family):
    vocabulary = Vocabulary.open(folders[family, "de"])
    starts = {vocabulary.token_bytes[i] for i in range(vocabulary.n_ids) if vocabulary.categories[i] == "word start"}
    assert starts & {b" und", b" den", b" da"}
    assert all(data.startswith(b" ") for data in starts)


def test_families_match_by_bytes_where_their_strings_differ(folders):
    vocabularies = {family: Vocabulary.open(folders[family, "de"]) for family in FAMILIES}
    for family in ("sentencepiece-bpe", "unigram", "wordpiece"):
        raw = Overlap.of(vocabularies["byte-level"], vocabularies[family], "raw")
        canonical = Overlap.of(vocabularies["byte-level"], vocabularies[family], "canonical")
        assert canonical.size > raw.size
        for i in canonical.ids:
            if i not in vocabularies[family].special_ids:
                j = int(canonical.source_ids[i])
                assert vocabularies["byte-level"].token_bytes[j] == vocabularies[family].token_bytes[i]


def test_special_tokens_match_by_role_only_in_canonical_mode(folders):
    gpt = Vocabulary.open(folders["byte-level", "en"])
    llama = Vocabulary.open(folders["unigram", "de"])
    overlap = Overlap.of(gpt, llama, "canonical")
    assert overlap.source_ids[llama.roles["eos"]] == gpt.roles["eos"]
    assert overlap.source_ids[llama.roles["bos"]] == gpt.roles["bos"]
    assert overlap.source_ids[llama.roles["unk"]] == -1
    assert Overlap.of(gpt, llama, "raw").source_ids[llama.roles["eos"]] == -1


def test_byte_tokens_are_bytes(folders):
    vocabulary = Vocabulary.open(folders["sentencepiece-bpe", "de"])
    token_id = vocabulary.ids["<0x0A>"]
    assert vocabulary.token_bytes[token_id] == b"\n"
    assert vocabulary.categories[token_id] == "byte"


def test_byte_alphabet_is_a_bijection():
    assert sorted(byte_of_character().values()) == list(range(256))


def test_folder_without_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds no tokenizer"):
        Vocabulary.open(tmp_path)


def test_broken_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(InputError, match="cannot be read"):
        Vocabulary.open(tmp_path)


def test_find_takes_raw_string_text_or_id_and_names_the_pieces_otherwise(folders):
    vocabulary = Vocabulary.open(folders["byte-level", "de"])
    und = vocabulary.ids["Ġund"]
    assert vocabulary.find("Ġund") == vocabulary.find(" und") == vocabulary.find(f"#{und}") == und
    with pytest.raises(InputError, match="encodes to"):
        vocabulary.find("Donaudampfschifffahrt")
    with pytest.raises(InputError):
        vocabulary.find("#999999")


def test_roles_come_from_the_class_where_the_files_name_none(folders):
    serialized = (folders["byte-level", "de"] / "tokenizer.json").read_text().replace("<|end|>", "<|endoftext|>")
    found = Vocabulary.parse(serialized, {"model_max_length": 1024}, "like gpt2")
    assert found.roles == dict.fromkeys(("eos", "bos", "unk"), found.ids["<|endoftext|>"])
    bare = Vocabulary.parse((folders["wordpiece", "de"] / "tokenizer.json").read_text(), {}, "bare")
    assert bare.roles["unk"] == bare.ids["[UNK]"]


def test_unknown_text_is_not_taken_for_the_unknown_token(folders):
    vocabulary = Vocabulary.open(folders["wordpiece", "de"])
    with pytest.raises(InputError, match="is no token"):
        vocabulary.find("日本")
    assert vocabulary.find("[UNK]") == vocabulary.roles["unk"]


def make(tokens: list[str]) -> Vocabulary:
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}
    return Vocabulary.parse(json.dumps({"version": "1.0", "added_tokens": [], "model": model}), {}, "made")


token_lists = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), min_size=1, max_size=12, unique=True
)


@given(token_lists, token_lists)
def test_raw_overlap_is_set_intersection_and_symmetric(a, b):
    source, target = make(a), make(b)
    forth, back = Overlap.of(source, target), Overlap.of(target, source)
    assert forth.size == back.size == len(set(a) & set(b))
    assert forth.share_of_source == back.share_of_target
    assert forth.size + len(forth.missing_ids) == target.size
    assert all(source.tokens[forth.source_ids[i]] == target.tokens[i] for i in forth.ids)


@given(st.text())
def test_visible_text_has_no_control_characters(text):
    assert visible(text).isprintable() or not text
