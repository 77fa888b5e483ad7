"""Files of every form and compression: the same documents come out of all, and what cannot be read is refused."""

import csv
import io
import json
import lzma
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import awkward_texts
from support.awkward_texts import BLANK, COMPRESSORS, LINES, MARK, PARAGRAPHS, WRITERS, write_every_form
from support.commands import refused, result_of

from clp_core.data import text_forms
from clp_core.data.contamination import find_leak
from clp_core.data.packing import stream_fingerprint
from clp_core.data.text_forms import FORMS, JsonStream, forms_table, json_values
from clp_core.data.text_sources import Texts
from clp_core.data.train_valid_split import hold_out
from clp_core.errors import InputError
from clp_core.files.text_endings import ENDINGS, has_text_ending
from clp_core.files.text_files import OTHER_FORMATS, SURROGATES, read_lines
from clp_core.jobs.store import JobStore
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.text_coverage import measure_text
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.overrides import read_overrides
from clp_core.transfer.word_vectors import MIN_PAIRS, WordVectors, read_dictionary
from components.overlap_views import MOST_CHARACTERS, uploaded_text

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training.md"
BEGIN, END = "<!-- forms: written by tests/data/test_text_forms.py -->\n", "<!-- /forms -->\n"


def test_every_ending_of_a_text_has_one_form():
    assert sorted(ending for form in FORMS for ending in form.endings) == sorted(ENDINGS)


@pytest.mark.parametrize("documents", [LINES, PARAGRAPHS], ids=["lines", "paragraphs"])
def test_every_form_and_compression_gives_the_same_documents(tmp_path, documents):
    paths = write_every_form(tmp_path, [BLANK[0], *documents, *BLANK])
    assert len(paths) == 1 + (len(WRITERS) - 1 - (documents is PARAGRAPHS)) * (1 + len(COMPRESSORS))
    for path in paths:
        assert list(Texts.open([path])) == documents, path


def test_readers_agree_with_pandas_and_the_standard_library(tmp_path):
    write_every_form(tmp_path, PARAGRAPHS, "body")
    for name in ("a.csv", "a.tsv"):
        separator = "," if name == "a.csv" else "\t"
        with open(tmp_path / name, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=separator))
        assert list(Texts.open([tmp_path / name], "body")) == [row["body"] for row in rows]
        # pandas reads line ends within fields as \n
        frame = pd.read_csv(tmp_path / name, sep=separator, keep_default_na=False, lineterminator=None)
        assert [text.replace("\r\n", "\n") for text in Texts.open([tmp_path / name], "body")] == [
            text.replace("\r\n", "\n") for text in frame["body"]
        ]
    assert list(Texts.open([tmp_path / "array.json"], "body")) == list(pd.read_json(tmp_path / "array.json")["body"])
    for name in ("a.jsonl", "a.jsonl.zst"):
        lines = pd.read_json(tmp_path / "a.jsonl", lines=True)
        assert list(Texts.open([tmp_path / name], "body")) == list(lines["body"])
    assert list(Texts.open([tmp_path / "a.parquet"], "body")) == list(pd.read_parquet(tmp_path / "a.parquet")["body"])


def test_endings_count_in_either_case(tmp_path):
    for name, write in WRITERS.items():
        (tmp_path / name.upper()).write_bytes(write(LINES, "text"))
        assert list(Texts.open([tmp_path / name.upper()])) == LINES, name
    (tmp_path / "B.JSONL.GZ").write_bytes(COMPRESSORS[".gz"](awkward_texts.as_json_lines(LINES, "text")))
    assert list(Texts.open([tmp_path / "B.JSONL.GZ"])) == LINES


def test_byte_order_mark_is_no_part_of_any_text(tmp_path):
    for name, write in WRITERS.items():
        if name != "a.parquet":
            for ending, compress in {"": bytes, **COMPRESSORS}.items():
                path = tmp_path / f"{name}{ending}"
                path.write_bytes(compress(MARK + write(LINES, "text")))
                assert list(Texts.open([path])) == LINES, path


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.txt.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_refused_by_name(tmp_path, name, encoding):
    data = '{"text": "ein Satz"}'.encode(encoding)
    (tmp_path / name).write_bytes(COMPRESSORS[".gz"](data) if name.endswith(".gz") else data)
    with pytest.raises(InputError, match=rf"{name} .*{encoding.upper()[:6]}.*iconv"):
        Texts.open([tmp_path / name])


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_bytes_that_are_not_utf_8_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b'text\n{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=rf"{name} .*(UTF-8|JSON)"):
        list(Texts.open([tmp_path / name]))


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_damaged_compression_is_refused_by_name(tmp_path, ending):
    path = tmp_path / f"a.txt{ending}"
    data = COMPRESSORS[ending](np.random.default_rng(0).bytes(300_000).hex().encode())
    for broken in (b"not compressed at all", data[: len(data) * 2 // 3]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"a\.txt{ending} is not a valid {ending} file"):
            list(Texts.open([path]))


@pytest.mark.parametrize("ending", [*OTHER_FORMATS, ".PDF", ".tar.gz", ".html.xz"])
def test_other_formats_are_refused_and_not_read_as_lines(tmp_path, ending):
    (tmp_path / f"a{ending}").write_text("so etwas wie Text\n")
    with pytest.raises(InputError, match=rf"a\{ending} is a \.\w+ file, .*; \w+ "):
        Texts.open([tmp_path / f"a{ending}"])
    assert not has_text_ending(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    "content", ['{"body": "x"}\n', '[{"body": "x"}]', '{"a": 1}\n\n{"a": 2}\n{"a": 3}\nText\n' * 2]
)
def test_json_in_a_plain_text_is_refused_with_its_new_name(tmp_path, content):
    is_json = "Text" not in content
    for name in ("a.txt.gz", "corpus"):
        data = content.encode()
        (tmp_path / name).write_bytes(COMPRESSORS[".gz"](data) if name.endswith(".gz") else data)
        if not is_json:
            assert "Text" in list(Texts.open([tmp_path / name]))
            continue
        new = "a.jsonl.gz" if name.endswith(".gz") else "corpus.jsonl"
        with pytest.raises(InputError, match=rf"rename it to {new} .*--text-field"):
            Texts.open([tmp_path / name])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,body\n1,x\n", r"column 'text' \(columns: id, body\).*--text-field"),
        ("a.csv", "kopflos, ja\nzwei\n", r"columns: kopflos,  ja\).*--text-field"),
        ("a.csv", "id,text\n1,Hallo, Welt\n", "line 2 of .* 3 fields, its header 2"),
        ("a.csv", 'id,text\n\n1,x\n2,"offen\nx\n', "line 5 of .*not valid CSV"),
        ("a.tsv", 'text\n"Hallo" sagte er\n', "line 2 of .*quotes"),
        ("a.tsv", "id,text\n1,x\n", "columns: id,text"),
        ("a.csv", "id,text\n1,\n", "holds no text"),
        ("a.jsonl", '\n{"text": "x"}\n\n{"te', "line 4 of .*JSON"),
        ("a.jsonl", '[{"text": "x"}]', r"line 1 of .*list.*\.json"),
        ("a.jsonl", "[\n", r"line 1 of .*JSON.*\.json"),
        ("a.jsonl", '{"text": 5}', "field 'text' .* int"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "line 1 of"),
        ("a.jsonl", "[" * 100_000, "line 1 of"),
        ("a.json", '[{"text": "x"}, {"text"', "item 2 of .*JSON"),
        ("a.json", '[{"text": "x"} {"text": "y"}]', "item 2 of .*JSON"),
        ("a.json", '[{"text": "x"},]', "item 2 of .*JSON"),
        ("a.json", '[{"text": "x"}] []', "item 2 of .*JSON"),
        ("a.json", '{"data": [{"text": "x"}]}', r"item 1 of .*fields: data\)"),
        ("a.json", "[[1]]", "item 1 of .*list"),
        ("a.json", "[" * 100_000, "item 1 of"),
        ("a.json", "[]", "holds no text"),
        ("a.json", "", "holds no text"),
        ("a.csv", "", "columns: none"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list(Texts.open([tmp_path / name]))


@pytest.mark.parametrize("name", ["europarl.pt", "news.br", "wiki.de", "corpus.ml.gz", "corpus", "README.md", "a.b.c"])
def test_any_other_ending_is_plain_text(tmp_path, name):
    data = "".join(f"{line}\n" for line in LINES).encode()
    (tmp_path / name).write_bytes(COMPRESSORS[".gz"](data) if name.endswith(".gz") else data)
    assert list(Texts.open([tmp_path / name])) == LINES


def test_uploaded_files_are_read_by_their_ending_and_errors_name_them_alone(tmp_path):
    for path in write_every_form(tmp_path, LINES):
        assert uploaded_text(path.name, path.read_bytes()) == "\n".join(LINES), path
    assert uploaded_text("long.txt", b"x" * 3_000_000) == "x" * (MOST_CHARACTERS + 1)
    with pytest.raises(InputError) as error:
        uploaded_text("a.csv", b"id,body\n")
    assert str(error.value).startswith("a.csv has no column")


def test_parquet_is_not_compressed_as_a_whole(tmp_path):
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(COMPRESSORS[".gz"](awkward_texts.as_parquet(LINES, "text")))
    with pytest.raises(InputError, match="decompress it"):
        Texts.open([path])
    assert not has_text_ending(path)


def test_folder_holds_files_of_every_form(tmp_path):
    paths = write_every_form(tmp_path, LINES[:3])
    (tmp_path / "README.md").write_text("nicht dabei")
    (tmp_path / "a.pdf").write_text("nicht dabei")
    assert list(Texts.open([tmp_path])) == LINES[:3] * len(paths)
    endings = {ending for form in FORMS for ending in form.endings}
    assert {path.suffix for path in paths} == endings | set(COMPRESSORS)


def test_sizes_and_names_of_content_follow_the_bytes(tmp_path):
    paths = write_every_form(tmp_path, LINES)
    contents = {path.name: Texts.open([path]).content() for path in paths}
    assert len(set(contents.values())) == len({path.read_bytes() for path in paths})
    for path in paths:
        assert Texts.open([path]).text_bytes == sum(len(line.encode()) + 1 for line in LINES), path


@pytest.mark.parametrize("name", ["lines.txt", "lines.txt.gz", "a.jsonl", "a.csv.zst", "array.json.gz", "a.parquet"])
def test_size_of_a_large_text_is_estimated_from_its_beginning(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_forms, "SAMPLE_BYTES", 2_000_000)
    rng = np.random.default_rng(0)
    documents = [" ".join(f"wört{i}" for i in rng.integers(0, 3000, 30)) for _ in range(12_000)]
    ending = Path(name).suffix if name not in WRITERS else ""
    data = WRITERS[name.removesuffix(ending)](documents, "text")
    (tmp_path / name).write_bytes(COMPRESSORS[ending](data) if ending else data)
    expected = sum(len(document.encode()) + 1 for document in documents)
    assert Texts.open([tmp_path / name]).text_bytes == pytest.approx(expected, rel=0.2 if ending else 0.02)


def test_size_is_that_of_the_field_alone(tmp_path):
    rows = [{"text": "ein Satz " * 10, "more": "ein anderer " * 50, "id": i} for i in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for field in ("text", "more"):
        expected = sum(len(row[field].encode()) + 1 for row in rows)
        assert Texts.open([tmp_path / "a.jsonl"], field).text_bytes == expected


@pytest.mark.parametrize("spelled", ['"\\ud83d"', '"a\\udc00\\ud83db"', '"\\ud83d\\ude00 paired, \\ud83d not"'])
def test_half_a_character_in_json_becomes_the_replacement_character(tmp_path, spelled):
    expected = SURROGATES.sub("\ufffd", json.loads(spelled))
    assert "\ufffd" in expected
    for name, content in (
        ("a.jsonl", f'{{"text": {spelled}}}'),
        ("a.json", f'[{{"text": {spelled}}}, {spelled}]'),
        ("b.json", spelled),
    ):
        (tmp_path / name).write_text(content)
        documents = list(Texts.open([tmp_path / name]))
        assert set(documents) == {expected}
        assert "".join(documents).encode()
    (tmp_path / "a.jsonl").write_text('{"\\ud83d": "x"}')
    with pytest.raises(InputError, match=r"fields: \ufffd\)") as error:
        Texts.open([tmp_path / "a.jsonl"])
    assert str(error.value).encode()


def test_overlap_is_measured_on_text_with_half_a_character(folders):
    overlap = Overlap.of(*(Vocabulary.open(folders["byte-level", language]) for language in ("en", "de")))
    assert measure_text(overlap, "Der \ud83d Fuchs").figures == measure_text(overlap, "Der \ufffd Fuchs").figures


def test_zstandard_that_cannot_be_read_names_the_package(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(COMPRESSORS[".zst"](b"Text\n"))
    monkeypatch.setattr(pa, "Codec", SimpleNamespace(is_available=lambda name: name != "zstd"))
    with pytest.raises(InputError, match="Zstandard; install pyarrow"):
        Texts.open([tmp_path / "a.txt.zst"])


@given(
    st.lists(
        st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner)) | st.text()
    ).map(lambda values: [value for value in values if isinstance(value, (dict, str))]),
    st.integers(1, 9),
    st.sampled_from([None, 1, 3]),
)
@settings(deadline=None)
def test_json_is_read_alike_wherever_it_is_cut(values, chunk, indent):
    for text in (json.dumps(values, indent=indent), "\n".join(json.dumps(value, indent=indent) for value in values)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_forms, "JSON_CHUNK", chunk)
            assert list(json_values(io.StringIO(text))) == values


def test_error_in_a_large_json_file_is_seen_without_reading_all_of_it(monkeypatch):
    monkeypatch.setattr(text_forms, "JSON_CHUNK", 100)
    file = io.StringIO('[{"text": "x"}, {"text": nein, "more": "' + "x" * 100_000)
    with pytest.raises(json.JSONDecodeError):
        list(json_values(file))
    assert file.tell() <= 400


def test_large_array_is_read_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(text_forms, "JSON_CHUNK", 1000)
    file = io.StringIO(json.dumps([{"text": "x" * 100}] * 1000))
    stream = json_values(file)
    next(stream)
    assert file.tell() <= 2000
    assert sum(1 for _ in stream) == 999
    assert JsonStream(io.StringIO(" ")).next_character() == ""


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=6))
@settings(deadline=None, max_examples=60)
def test_tables_give_any_text_back(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("tables")
    kept = [document for document in documents if document.strip()]
    for name in ("a.csv", "semicolons.csv", "a.tsv", "array.json", "a.jsonl", "a.parquet"):
        (folder / name).write_bytes(WRITERS[name](documents, "text"))
        assert read_all(folder / name) == kept, name


def read_all(path):
    return list(text_forms.form_of(path).read(path, "text"))


def test_overrides_dictionaries_and_vectors_are_read_by_the_same_reader(tmp_path):
    pairs = [(f"Wort{i}", f"word{i}") for i in range(MIN_PAIRS + 1)]
    for ending, compress in {"": bytes, **COMPRESSORS}.items():
        overrides = tmp_path / f"o.tsv{ending}"
        overrides.write_bytes(compress(MARK + "Größe\tsize\r\n\nA\x85B\u2028\t#3\n".encode()))
        assert read_overrides(["a=\ud83d"], str(overrides)) == [
            ("a", "\ufffd"),
            ("Größe", "size"),
            ("A\x85B\u2028", "#3"),
        ]
        vectors = {}
        for side, words in enumerate(zip(*pairs, strict=True)):
            rows = "".join(f"{word} {i} {i + 1}\n" for i, word in enumerate(words))
            path = tmp_path / f"{side}.vec{ending}"
            path.write_bytes(compress(MARK + f"{len(words)} 2\n{rows}".encode()))
            vectors[side] = WordVectors.read(path)
            assert vectors[side].words == list(words)
            assert vectors[side].vectors.tolist() == [[i, i + 1] for i in range(len(words))]
        dictionary = tmp_path / f"d.txt{ending}"
        dictionary.write_bytes(compress(MARK + "".join(f"{a}\t{b}\n" for a, b in pairs).encode()))
        assert len(read_dictionary(dictionary, vectors[0], vectors[1])) == len(pairs)
    for broken, message in ((b"a\tb\n\nc\n", "line 3 of"), ("a\tb".encode("utf-16"), "UTF-16")):
        (tmp_path / "o.tsv").write_bytes(broken)
        with pytest.raises(InputError, match=message):
            read_overrides([], str(tmp_path / "o.tsv"))
    (tmp_path / "bad.vec").write_text("\n2 2\n\na 1 2\nb 1\n")
    with pytest.raises(InputError, match="line 5 of"):
        WordVectors.read(tmp_path / "bad.vec")


def test_held_out_part_of_any_documents_reads_back(tmp_path):
    plain = [f"Satz {i} über {'abcdefghij'[i % 10] * (i + 1)}" for i in range(100)]
    for name, documents in {
        "plain": plain,
        "json": [json.dumps({"code": text}) for text in plain],
        "marks": [f"\ufeff{text}" for text in plain],
        "breaks": [f"{text}\nzweite Zeile" for text in plain],
    }.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(awkward_texts.as_json_lines(documents, "text"))
        split = hold_out(Texts.open([path]), name, tmp_path / "texts")
        held_out, kept = list(Texts.open([split.valid])), list(Texts.open([split.train]))
        assert held_out == [text for i, text in enumerate(documents) if split.rule.holds_out(i)]
        assert kept == [text for i, text in enumerate(documents) if not split.rule.holds_out(i)]
        assert split.valid.suffix == (".txt" if name == "plain" else ".jsonl")


HELD_OUT = ["Der Fuchs läuft über die Wiese.", "Der Hund schläft unter dem Baum.", "Die Katze sitzt auf dem Dach."]


def leak_between(folder, training, held_out, ignored=(), cache=None):
    (folder / "held.txt").write_text("".join(f"{line}\n" for line in held_out))
    (folder / "train.csv").write_bytes(WRITERS["a.csv"](training, "text"))
    return find_leak(Texts.open([folder / "train.csv"]), Texts.open([folder / "held.txt"]), cache, ignored)


def test_held_out_lines_are_found_in_every_form(tmp_path):
    write_every_form(tmp_path, [f"davor\n{HELD_OUT[0].upper()}\ndanach", "etwas ganz anderes, das niemand sucht"])
    for path in sorted(tmp_path.iterdir()):
        held = tmp_path.parent / f"{tmp_path.name}-held.txt"
        held.write_text("\n".join(HELD_OUT))
        leak = find_leak(Texts.open([path]), Texts.open([held]))
        assert (leak.found, leak.lines) == (1, 3), path
        swapped = find_leak(Texts.open([held]), Texts.open([path]))
        assert (swapped.found, swapped.lines) == (1, 2), path


@pytest.mark.parametrize(
    "training",
    [
        [f"<s>{HELD_OUT[0]}</s>"],
        [f"{HELD_OUT[2]}<|end|>{HELD_OUT[0]}<|end|>noch etwas anderes, das lang genug ist"],
        ["Der Fuchs<mask> läuft über die<mask> Wiese."],
        ["Der Fuchs läuft<|end|>> über die Wiese."],
    ],
)
def test_special_token_strings_are_left_out_of_the_comparison(tmp_path, training):
    ignored = ("<s>", "</s>", "<|end|>", "<|end|>>", "<mask>")
    assert leak_between(tmp_path, training, HELD_OUT[:2]).found == 0
    assert leak_between(tmp_path, training, HELD_OUT[:2], ignored).found == 1
    swapped = leak_between(tmp_path, HELD_OUT[:2], training, ignored)
    assert (swapped.found, swapped.lines) == (1, 1)


def test_ignored_strings_are_part_of_the_name_of_the_result(tmp_path):
    training = [f"<s>{HELD_OUT[0]}</s>"]
    found = [leak_between(tmp_path, training, HELD_OUT, ignored, tmp_path / "cache").found
             for ignored in ((), ("<s>", "</s>"), ("</s>", "<s>", ""), ())]  # fmt: skip
    assert found == [0, 1, 1, 0]
    assert len(list((tmp_path / "cache" / "leaks").iterdir())) == 2


def test_line_with_and_without_special_tokens_is_one_line(tmp_path):
    leak = leak_between(tmp_path, HELD_OUT, [HELD_OUT[0], f"<s>{HELD_OUT[0]}</s>"], ("<s>", "</s>"))
    assert (leak.found, leak.lines) == (1, 1)
    assert leak.example in HELD_OUT


@pytest.mark.parametrize(
    "line",
    ["Der Fuchs läu\u00adft über die\u200b Wiese.", "Der Fuchs la\u0308uft u\u0308ber die Wiese.",
     "Der Fuchs läuft\u00a0über die Ｗｉｅｓｅ．", "\u2066Der\u2009Fuchs läuft über die Wiese.\u2069"],
)  # fmt: skip
def test_lines_that_look_alike_are_one_line(tmp_path, line):
    assert leak_between(tmp_path, [line], HELD_OUT).found == 1
    assert leak_between(tmp_path, HELD_OUT, [line]).found == 1
    assert leak_between(tmp_path, [line.replace("ü", "u").replace("u\u0308", "u")], HELD_OUT).found == 0


def test_lines_count_by_characters_or_bytes_and_are_whole_lines(tmp_path):
    chinese = ["敏捷的棕色狐狸跳过那只懒狗去河边。", "你好，世界。"]
    leak = leak_between(tmp_path, chinese, [*chinese, "Kurze Überschrift"])
    assert (leak.found, leak.lines, leak.example) == (1, 1, chinese[0])
    assert leak_between(tmp_path, [f"Gestern: {HELD_OUT[0]}"], HELD_OUT).found == 0
    assert leak_between(tmp_path, [f"Gestern:\n{HELD_OUT[0]}"], HELD_OUT).found == 1


@pytest.mark.parametrize("reference", ["", " "])
def test_empty_name_of_a_text_is_refused(tmp_path, monkeypatch, pair, reference):
    (tmp_path / "a.txt").write_text("das Haus\n")
    monkeypatch.chdir(tmp_path)
    assert list(Texts.open(["."])) == ["das Haus"]
    with pytest.raises(InputError, match="the name of a text is empty; give a file"):
        Texts.open([reference])
    assert "is empty" in refused("evaluate", pair[0], "--text", reference)


def latin_1_file(folder):
    path = folder / os.fsdecode(b"gr\xf6.txt")
    path.write_text("".join(f"{line}\n" for line in HELD_OUT))
    return path


def test_file_whose_name_is_not_utf_8_is_read_and_fingerprinted(tmp_path):
    path = latin_1_file(tmp_path)
    texts = Texts.open([path])
    assert list(texts) == HELD_OUT
    before = stream_fingerprint(texts)
    assert stream_fingerprint(Texts.open([tmp_path])) == before
    path.rename(tmp_path / os.fsdecode(b"gr\xfc.txt"))
    assert stream_fingerprint(Texts.open([tmp_path])) != before


def test_job_with_a_file_name_that_is_not_utf_8_is_refused_before_it_is_made(workspace, tmp_path):
    store, path = JobStore(workspace.jobs), str(latin_1_file(tmp_path))
    for arguments, argv, named in (
        ({"text": ["a.txt", path]}, [], "--text"), ({"eval_text": path}, [], "--eval-text"),
        ({}, ["-c", path], "--argv"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"^{named} .*gr\\udcf6\.txt holds bytes that are not UTF-8.*rename"):
            store.create("train", arguments, argv, "clp train")
    with pytest.raises(InputError, match="not UTF-8"):
        store.create("train", {}, [], "clp train", name=path)
    assert not [each for each in workspace.jobs.glob("*") if not each.name.startswith(".")]
    for words in (["tokenizer", "--text", path, "--output", tmp_path / "made"], ["evaluate", path, f"--text={path}"]):
        line = refused(*words)
        assert r"gr\udcf6.txt holds bytes that are not UTF-8" in line
        assert ("--text " in line) == (words[0] == "tokenizer")
    assert not (tmp_path / "made").exists()
    assert store.create("train", {"text": ["größe.txt"]}, [], "clp train größe.txt")[1]


def test_commands_name_the_column_of_a_table(tmp_path, pair):
    lines = ["Der Fuchs läuft über die Wiese.", "Ein Modell liest 42 Wörter."] * 5
    (tmp_path / "a.csv").write_bytes(WRITERS["a.csv"](lines, "body"))
    (tmp_path / "a.txt").write_bytes(WRITERS["lines.txt"](lines, "body"))
    models = ["--source", pair[0], "--helper", pair[1]]
    for command, option, figures in (
        (["overlap", *pair], "--text", lambda found: found["pairs"][0]["text"]),
        (["transfer", *models, "--output", tmp_path / "made", "--overwrite"], "--eval-text",
         lambda found: found["zero_step"]["bits_per_byte"]),
        (["compare-methods", *models, "--methods", "mean"], "--text",
         lambda found: found["methods"][0]["zero_step_bits_per_byte"]),
        (["evaluate", pair[1]], "--text", lambda found: found["bits_per_byte"]),
    ):  # fmt: skip
        plain = figures(result_of(*command, option, tmp_path / "a.txt"))
        assert figures(result_of(*command, option, tmp_path / "a.csv", "--text-field", "body")) == plain
        assert "columns: id, body" in refused(*command, option, tmp_path / "a.csv")


def test_the_table_in_the_docs_is_that_of_the_code():
    content = DOCS.read_text()
    before, rest = content.split(BEGIN)
    _, after = rest.split(END)
    expected = before + BEGIN + forms_table() + END + after
    if os.environ.get("CLP_WRITE_DOCS"):
        DOCS.write_text(expected)
    assert DOCS.read_text() == expected


def test_lines_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\u2028b\r\n\n c \r\r\nd\re\n".encode())
    assert list(read_lines(tmp_path / "a.txt")) == ["a\u2028b", " c ", "d\re"]


@pytest.mark.parametrize("name", WRITERS)
def test_pages_offer_every_form_and_count_its_documents(workspace, name):
    from components.helper_steps import rough_documents, stamp

    workspace.texts.mkdir(parents=True)
    path = workspace.texts / name
    path.write_bytes(WRITERS[name](["eins", "zwei", "drei"], "text"))
    assert workspace.list_texts() == [path]
    assert rough_documents((stamp(path),)) == (3, False)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_damage_at_the_beginning_of_a_later_stream_is_not_the_end_of_the_text(tmp_path, ending):
    compress = COMPRESSORS[ending]
    first, second = (compress(f"{name}\n".encode() * 5000) for name in ("eins", "zwei"))
    path = tmp_path / f"text.txt{ending}"
    path.write_bytes(first + second)
    assert [*Texts.open([path])] == ["eins"] * 5000 + ["zwei"] * 5000
    path.write_bytes(first + bytes([second[0] ^ 1]) + second[1:])
    with pytest.raises(InputError, match="is not a valid"):
        [*Texts.open([path])]


def test_padding_between_streams_is_left_out(tmp_path):
    path = tmp_path / "text.txt.xz"
    path.write_bytes(lzma.compress(b"eins\n") + b"\0" * 8 + lzma.compress(b"zwei\n") + b"\0" * 4)
    assert [*Texts.open([path])] == ["eins", "zwei"]


def test_row_that_ends_before_the_text_is_refused(tmp_path):
    path = tmp_path / "text.csv"
    path.write_text("id,text\n1,eins\n\n2\n3,drei\n")
    with pytest.raises(InputError, match=r"line 4 .* ends before its column 'text'"):
        [*Texts.open([path])]
