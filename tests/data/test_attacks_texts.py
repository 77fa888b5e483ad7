"""Small files whose text no memory holds are refused, line by line, before it is read."""

import bz2
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clp_core.data import text_forms
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.files import text_files
from clp_core.files.text_files import read_lines

LONGEST = 1 << 20


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    for module in (text_files, text_forms):
        monkeypatch.setattr(module, "LONGEST_DOCUMENT", LONGEST)


def zstandard(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def compressed(data, ending):
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}
    return pack[ending](data)


BEGINNINGS = {".txt": b"", ".jsonl": b'{"text": "', ".json": b'["', ".csv": b'text\n"', ".tsv": b"text\n"}


@pytest.mark.parametrize("form", BEGINNINGS)
@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_document_too_long_for_memory_is_refused_in_every_form(tmp_path, form, compression):
    file = tmp_path / f"text{form}{compression}"
    file.write_bytes(compressed(BEGINNINGS[form] + b"a" * (4 * LONGEST), compression))
    with pytest.raises(InputError, match=r"more than 1 MiB"):
        list(Texts.open([file]))


def test_field_of_many_lines_is_refused_where_it_is_too_long(tmp_path):
    file = tmp_path / "text.csv"
    file.write_bytes(b'text\n"' + b"a line\n" * (LONGEST // 5) + b'"\n')
    with pytest.raises(InputError, match="field larger than field limit"):
        list(Texts.open([file]))


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_lines_of_the_longest_length_are_read_as_they_are(tmp_path, compression):
    lines = ["a" * LONGEST, "b", "c" * (LONGEST - 1), "ä" * (LONGEST // 2)]
    file = tmp_path / f"text.txt{compression}"
    file.write_bytes(compressed("\n".join(lines).encode(), compression))
    assert list(read_lines(file)) == lines


def test_table_whose_lines_end_with_carriage_returns_is_read(tmp_path):
    rows = [str(i) * 50 for i in range(10_000)]
    file = tmp_path / "text.csv"
    file.write_bytes("\r".join(["text", *rows]).encode())
    assert list(Texts.open([file])) == rows


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"compression": "none", "use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
        {"compression": "none", "use_dictionary": False},
    ],
    ids=["dictionary", "repeating", "plain"],
)
def test_parquet_that_repeats_a_large_value_is_decoded_a_few_rows_at_a_time(tmp_path, monkeypatch, options):
    path = tmp_path / "a.parquet"
    value = "a" * 20_000
    pq.write_table(pa.table({"text": [value] * 200}), path, write_statistics=False, **options)
    monkeypatch.setattr(text_forms, "PARQUET_BATCH_BYTES", 32 * (len(value) + 100))
    assert text_forms.rows_at_once(path, pq.read_metadata(path), "text") in (31, 32)
    assert list(text_forms.parquet_of(path, "text")) == [value] * 200


def test_parquet_of_ordinary_documents_is_decoded_many_rows_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"document {i}" for i in range(5000)]}), path)
    assert text_forms.rows_at_once(path, pq.read_metadata(path), "text") > 500


def test_parquet_page_that_expands_as_no_text_does_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 10_000] * 500}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(InputError, match="expands to 4 MiB"):
        list(text_forms.parquet_of(path, "text"))
