"""Tokens and texts that overrides name by ``#id``."""

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from clp_core.errors import InputError
from clp_core.tokenization.vocabulary import LARGEST_ID, Vocabulary, id_in
from clp_core.transfer.overrides import name_for_override, resolve_overrides

FAR = "#" + "9" * 5000


@pytest.fixture(scope="module")
def source(folders):
    return Vocabulary.open(folders["byte-level", "en"])


@pytest.fixture(scope="module")
def target(folders):
    return Vocabulary.open(folders["byte-level", "de"])


@pytest.fixture(scope="module")
def spelled(folders, tmp_path_factory):
    """A vocabulary in which tokens are spelled as ids are, among them that of a token which cannot be written down."""
    folder = tmp_path_factory.mktemp("spelled")
    tokenizer = AutoTokenizer.from_pretrained(folders["byte-level", "de"])
    place = len(tokenizer)
    strings = ("a=b", f"#{place}", f"#0{place}", "#12")
    tokenizer.add_tokens([AddedToken(string, normalized=False) for string in strings])
    tokenizer.save_pretrained(folder)
    return Vocabulary.open(folder)


def ids_of(text, source, target, n_source=None):
    result = resolve_overrides([("Ġund", text)], source, target, n_source or source.n_ids)
    return result[target.ids["Ġund"]].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("#0", 0), ("#300", 300), ("#0300", 300), (FAR, LARGEST_ID), ("#" + "0" * 5000 + "7", 7)]
    + [(text, None) for text in ("#٣", "#²", "#-1", "#", "#3 ", "3", "##3", "")],
)
def test_an_id_is_written_in_digits_of_ascii(text, expected):
    assert id_in(text) == expected


def test_a_text_is_a_raw_token_else_an_id_else_text(folders, source, target, spelled):
    assert ids_of("#12", source, target) == [12]
    assert ids_of("#12", spelled, target) == [spelled.ids["#12"]]
    assert ids_of("#0012", spelled, target) == [12]
    tokenizer = AutoTokenizer.from_pretrained(folders["byte-level", "en"])
    for text in ("#٣", "#1a", "# 5", "##"):
        assert ids_of(text, source, target) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", ["#999999", FAR])
def test_an_id_beyond_the_vocabulary_is_refused_with_the_largest(source, target, text):
    with pytest.raises(InputError, match=f"has no id {text[:7]}.*; its largest is #{source.n_ids - 1}"):
        ids_of(text, source, target)
    with pytest.raises(InputError, match=f"has no id {text[:7]}.*; its largest is #{target.n_ids - 1}"):
        resolve_overrides([(text, "the")], source, target, source.n_ids)


def test_an_id_without_a_row_is_refused_with_the_largest(source, target):
    assert ids_of("#99", source, target, 100) == [99]
    with pytest.raises(InputError, match="has no row #100; its largest is #99"):
        ids_of("#100", source, target, 100)


def test_every_name_of_a_token_leads_back_to_it(spelled):
    place = spelled.ids["a=b"]
    named = {i: name_for_override(spelled, i) for i in range(spelled.n_ids)}
    assert named[place] == f"#00{place}"
    assert named[spelled.ids["#12"]] == "#12"
    assert [spelled.find(name) for name in named.values()] == list(range(spelled.n_ids))


def test_the_page_opens_an_id_and_offers_the_token_that_is_spelled_so(spelled, monkeypatch):
    from components import token_view

    offered = {}
    monkeypatch.setattr(token_view, "choose", lambda label, key, vocabulary, ids: offered.update({key: ids}))
    assert token_view.found_token(spelled, "#12") == 12
    assert offered["hits"] == [spelled.ids["#12"]]
    assert token_view.found_token(spelled, "#13") == 13
    assert offered["hits"] == []
