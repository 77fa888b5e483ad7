"""The same documents as files of every form and compression, and documents that are hard to read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq

MARK = b"\xef\xbb\xbf"
LINES = [
    "Der Fuchs läuft.",
    "  Ein zweites, größer; mit\tTab und Komma,",
    '"Angeführt", sagte er, "am Anfang."',
    "{kein JSON} [auch keins]",
    "a\u2028b\x0bc\x85d, Zeilenenden von Unicode",
    "漢字 🙂 e\u0301",
    "Der Fuchs läuft.",
    "x" * 200_000,
]
"""Documents of one line."""
PARAGRAPHS = [*LINES, "eins\nzwei\n\ndrei", 'Zeile "eins"\r\nZeile zwei']
"""Documents that lines cannot hold."""
BLANK = ["", "  ", "\t"]


def as_lines(documents, field):
    return "".join(f"{document}\n" for document in documents).encode()


def as_json(documents, field):
    return json.dumps([{"id": i, field: document} for i, document in enumerate(documents)], indent=1).encode()


def as_json_strings(documents, field):
    return json.dumps(documents, ensure_ascii=False).encode()


def as_json_lines(documents, field):
    return "".join(json.dumps({"id": i, field: document}) + "\n" for i, document in enumerate(documents)).encode()


def as_table(documents, field, separator):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerows([["id", field], *enumerate(documents)])
    return file.getvalue().encode()


def as_parquet(documents, field):
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(documents))), field: documents}), file, row_group_size=3)
    return file.getvalue()


WRITERS = {
    "lines.txt": as_lines,
    "array.json": as_json,
    "strings.json": as_json_strings,
    "rows.json": as_json_lines,
    "a.jsonl": as_json_lines,
    "a.ndjson": as_json_lines,
    "a.csv": lambda documents, field: as_table(documents, field, ","),
    "semicolons.csv": lambda documents, field: as_table(documents, field, ";"),
    "a.tsv": lambda documents, field: as_table(documents, field, "\t"),
    "a.parquet": as_parquet,
}
"""What writes the content of a file, by a name with its ending."""


def as_zstandard(data):
    """Two frames, as parallel compressors write them."""
    half = len(data) // 2
    return b"".join(bytes(pa.compress(part, codec="zstd", asbytes=True)) for part in (data[:half], data[half:]) if part)


COMPRESSORS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": as_zstandard}


def write_every_form(folder, documents, field="text"):
    """Write documents in every form that can hold them, alone and compressed; return the paths."""
    has_breaks = any("\n" in document for document in documents)
    for name, write in WRITERS.items():
        if has_breaks and name.endswith(".txt"):
            continue
        data = write(documents, field)
        (folder / name).write_bytes(data)
        if not name.endswith(".parquet"):
            for ending, compress in COMPRESSORS.items():
                (folder / f"{name}{ending}").write_bytes(compress(data))
    return sorted(folder.iterdir())
