"""From documents to blocks: no token lost, made once, the same whether cached or streamed."""

import numpy as np
import pytest
from support.tiny_models import FAMILIES, GERMAN

from clp_core.data import packing, text_sources
from clp_core.data.block_datasets import IGNORED_LABEL, ShuffledBlocks, StreamedBlocks, padding_of
from clp_core.data.packing import Tokenised, content_key, estimate_tokens, open_packed, pack, packed_blocks
from clp_core.data.text_sources import Texts
from clp_core.errors import ClpError, InputError
from clp_core.tokenization.vocabulary import Vocabulary


@pytest.fixture
def vocabulary(folders):
    return Vocabulary.open(folders["byte-level", "de"])


def tokens_of(row):
    """Tokens of a block, what fills it up left out; all but the first are labels."""
    counted = row["labels"] != IGNORED_LABEL
    assert not counted[0]
    assert np.array_equal(row["labels"][counted], row["input_ids"][counted])
    return row["input_ids"][: 1 + int(counted.sum())]


def shuffled(texts, vocabulary, length, cache, wanted, seed=5):
    dataset, counts = packed_blocks(Texts.open([texts[0]]), vocabulary, length, cache)
    return ShuffledBlocks(dataset, counts, length, padding_of(vocabulary), wanted, seed), dataset


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_loses_no_token(folders, texts, family, tmp_path):
    vocabulary = Vocabulary.open(folders[family, "de"])
    stream = np.concatenate(list(Tokenised(Texts.open([texts[0]]), vocabulary)))
    blocks = list(pack(iter(np.array_split(stream, 7)), 13))
    assert np.array_equal(np.concatenate(blocks), stream)
    read, dataset = shuffled(texts, vocabulary, 13, tmp_path, wanted=len(blocks))
    assert np.array_equal(np.concatenate([row["input_ids"] for row in dataset]), stream)
    rows = [read[i] for i in range(len(read))]
    assert all(row["input_ids"].shape == row["labels"].shape == (13,) for row in rows)
    assert np.array_equal(np.sort(np.concatenate([tokens_of(row) for row in rows])), np.sort(stream))


def test_blocks_are_made_once_for_one_content(tmp_path, vocabulary, texts):
    first, counts = packed_blocks(Texts.open([texts[0]]), vocabulary, 32, tmp_path)
    (made,) = (tmp_path / "blocks").glob("*/blocks.arrow")
    changed = made.stat().st_mtime_ns
    copy = tmp_path / "copy.txt"
    copy.write_bytes(texts[0].read_bytes())
    again, _ = packed_blocks(Texts.open([copy]), vocabulary, 32, tmp_path)
    assert made.stat().st_mtime_ns == changed
    assert np.array_equal(first[0]["input_ids"], again[0]["input_ids"])
    assert counts.documents == len(GERMAN)
    assert counts.bytes == len(texts[0].read_bytes())


def test_every_pass_reads_every_block_in_an_order_of_its_own(tmp_path, vocabulary, texts):
    read, dataset = shuffled(texts, vocabulary, 64, tmp_path, wanted=0)
    n = len(dataset)
    passes = [[read.place(number * n + i) for i in range(n)] for number in range(3)]
    assert all(sorted(order) == list(range(n)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    other, _ = shuffled(texts, vocabulary, 64, tmp_path, wanted=0, seed=6)
    assert [other.place(i) for i in range(n)] != passes[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_blocks_are_those_of_the_cache(tmp_path, folders, texts, family):
    vocabulary = Vocabulary.open(folders[family, "de"])
    dataset, counts = packed_blocks(Texts.open([texts[0]]), vocabulary, 32, tmp_path)
    streamed = StreamedBlocks(Texts.open([texts[0]]), vocabulary, 32, wanted=10**9)
    n = len(dataset)
    for number in range(2):
        for i in range(n):
            row, expected = streamed[number * n + i], dataset[i]["input_ids"]
            assert np.array_equal(tokens_of(row), expected)
        assert streamed.counts == counts


def test_streamed_text_goes_on_at_its_place(vocabulary, texts):
    whole = StreamedBlocks(Texts.open([texts[0]]), vocabulary, 32, 100)
    expected = [whole[i]["input_ids"] for i in range(20)]
    other = StreamedBlocks(Texts.open([texts[0]]), vocabulary, 32, 100)
    for i in (3, 4, 11, 19):
        assert np.array_equal(other[i]["input_ids"], expected[i])
    with pytest.raises(InputError, match="block 2 has been passed"):
        other[2]


def test_estimate_of_a_large_text_is_near_its_tokens(tmp_path, vocabulary):
    text = tmp_path / "t.txt"
    text.write_text("\n".join(GERMAN * 30) + "\n")
    exact = sum(map(len, Tokenised(Texts.open([text]), vocabulary)))
    assert estimate_tokens(Texts.open([text]), vocabulary) == pytest.approx(exact, rel=0.05)


def test_text_is_hashed_once_for_its_blocks(texts, folders, tmp_path, monkeypatch):
    read = []
    content_of = text_sources.content_of
    monkeypatch.setattr(text_sources, "content_of", lambda path: (read.append(path), content_of(path))[1])
    vocabulary, opened = Vocabulary.open(folders["byte-level", "de"]), Texts.open([texts[0]])
    key = content_key(opened, vocabulary, 32)
    made, counts = packed_blocks(opened, vocabulary, 32, tmp_path, key=key)
    found, same = open_packed(tmp_path, key)
    assert len(read) == 1
    assert counts == same
    assert [row.tolist() for row in made["input_ids"]] == [row.tolist() for row in found["input_ids"]]


def test_blocks_that_another_machine_cannot_see_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "POLL_S", 0.01)
    with pytest.raises(ClpError, match="on a disk that all machines share"):
        open_packed(tmp_path, "no such text", wait_s=0.05)
