"""Texts in every form a user has them give the same documents."""

import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clp_core.data.text_sources import HubDataset, Texts
from clp_core.errors import InputError

DOCUMENTS = ["Der Fuchs läuft.", "Ein zweites Dokument, größer.", "Drittes."]


def write_in_every_form(folder):
    lines = "".join(f"{document}\n\n" for document in DOCUMENTS)
    rows = "".join(json.dumps({"id": i, "text": document}) + "\n" for i, document in enumerate([*DOCUMENTS, "  "]))
    (folder / "a.txt").write_text(lines)
    (folder / "a.txt.xz").write_bytes(lzma.compress(lines.encode()))
    (folder / "a.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.jsonl").write_text(rows)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "text": [*DOCUMENTS, None]}), folder / "a.parquet")
    return sorted(folder.iterdir())


def test_every_form_gives_the_same_documents(tmp_path):
    for path in write_in_every_form(tmp_path):
        assert list(Texts.open([path])) == DOCUMENTS, path


def test_folder_is_read_by_paths_and_hidden_files_are_left_out(tmp_path):
    for name, text in (("b/1.txt", "zwei"), ("a.jsonl", '{"text": "eins"}'), (".c.txt", "nie"), ("d.md", "nie")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("nie")
    assert list(Texts.open([tmp_path])) == ["eins", "zwei"]


def test_document_of_json_may_have_line_ends(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "eins\nzwei"}))
    assert list(Texts.open([tmp_path / "a.jsonl"])) == ["eins\nzwei"]


def test_other_field_is_read_and_names_another_content(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "eins", "body": "zwei"}))
    assert list(Texts.open([tmp_path / "a.jsonl"], "body")) == ["zwei"]
    names = {Texts.open([tmp_path / "a.jsonl"], field).content() for field in ("text", "body")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"te', "line 2 of .* JSON"),
        ("a.jsonl", b'["x"]', "field 'text'"),
        ("a.jsonl", b'{"body": "x"}', r"field 'text' \(fields: body\).* --text-field"),
        ("a.jsonl", b'{"text": 5}', "field 'text' .* int"),
        ("a.parquet", b"no parquet", "a.parquet .*parquet file"),
        ("a.txt.gz", b"no gzip", "a.txt.gz .*gz file"),
        ("a.txt", b" \n\n", "a.txt holds no text"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        list(Texts.open([tmp_path / name]))


def test_parquet_without_the_column_names_those_it_has(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"column 'text'.* body"):
        list(Texts.open([tmp_path / "a.parquet"]))


def test_empty_folder_and_missing_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.jsonl, .*\.parquet, .*\.zst"):
        Texts.open([tmp_path])
    with pytest.raises(InputError, match=r"none\.txt"):
        Texts.open([tmp_path / "none.txt"])
    with pytest.raises(InputError, match="no text is named"):
        Texts.open([])


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hub:org/name", ("org/name", None, "train")),
        ("hub:org/name:validation", ("org/name", None, "validation")),
        ("hub:org/name:20231101.de:train", ("org/name", "20231101.de", "train")),
        ("hub:name", ("name", None, "train")),
    ],
)
def test_dataset_of_the_hub_is_named_by_configuration_and_split(reference, expected):
    found = HubDataset.parse(reference)
    assert (found.name, found.config, found.split) == expected


def test_rows_of_a_dataset_are_read_like_rows_of_files(monkeypatch):
    rows = [{"text": "eins", "id": 1}, {"text": None}, {"text": " "}, {"text": "a\ud83db"}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    dataset = HubDataset("org/name", None, "train")
    dataset.__dict__["revision"] = "0" * 40  # asked from the Hub otherwise
    assert list(Texts((dataset,))) == ["eins", "a\ufffdb"]
    with pytest.raises(InputError, match=r"row 0 of org/name .*fields: text, id\)"):
        list(Texts((dataset,), "body"))


def test_dataset_that_cannot_be_reached_is_told_in_one_line():
    with pytest.raises(InputError, match=r"org/name .* the Hub could not be reached"):
        list(Texts.open(["hub:org/name"]))
    with pytest.raises(InputError, match="hub:org/name/more"):
        Texts.open(["hub:org/name/more"])


def test_documents_are_cut_at_literal_separators_and_blank_parts_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ["eins<|end|>zwei<|end|> <|end|><|end|>x>drei", "<|end|>", "vier\nfünf"]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    cut = Texts.open([path], split_at=("<|end|>", "<|end|>x>"))
    assert list(cut) == ["eins", "zwei", "drei", "vier\nfünf"]
    assert list(Texts.open([path])) == rows


def test_separators_are_part_of_the_name_of_the_content(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}' if name == "a.jsonl" else "x")
        opened = [Texts.open([tmp_path / name], split_at=split) for split in ((), ("<a>",), ("<b>", "<a>"))]
        assert len({texts.content() for texts in opened}) == 3
        assert opened[2].content() == Texts.open([tmp_path / name], split_at=("<a>", "<b>")).content()
    with pytest.raises(InputError, match="empty"):
        Texts.open([tmp_path / "a.txt"], split_at=("",))


def test_text_of_separators_alone_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("<|end|><|end|>\n")
    with pytest.raises(InputError, match=r"a\.txt holds no text"):
        Texts.open([tmp_path / "a.txt"], split_at=("<|end|>",))
