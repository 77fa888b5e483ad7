"""The forms in which documents are stored in files: lines, JSON, delimited tables and parquet.

One rule holds for all of them: a line, an object or a row is a document, and blank documents are skipped. Line ends
within a field belong to the document. ``forms_table`` writes the table of the documentation from ``FORMS``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from clp_core.errors import InputError
from clp_core.files import text_endings
from clp_core.files.text_endings import COMPRESSIONS, endings_of
from clp_core.files.text_files import (
    LONGEST_DOCUMENT,
    beginning_of,
    check_format,
    lines_in,
    open_text,
    without_surrogates,
)

HEAD_LINES = 5
PARQUET_ROWS = 1000
PARQUET_BATCH_BYTES = 1 << 26
"""Bytes that a batch of rows takes at the most."""
REPEATING = "DELTA_BYTE_ARRAY"
"""An encoding in which a value may repeat the one before, so that its size in the file says nothing."""
MOST_EXPANSION = 1000
"""Text compresses to a tenth or so, and to a hundredth where much of it is repeated."""
DICTIONARY_PAGE, PAGE_HEADER_BYTES = bytes([0x15, 2 << 1, 0x15]), 8
SAMPLE_BYTES = 8_000_000
"""Decompressed bytes from which the size of a text is estimated."""
JSON_CHUNK = 1 << 20
"""Characters of a JSON file that are parsed at a time; a longer value is read whole."""
LONGEST_ESCAPE = 12
"""Characters of an escaped surrogate pair, the longest part of JSON that is only valid once it is complete."""
BLANKS = re.compile(r"[ \t\n\r]*")
MOST_NAMES = 20
LONGEST_NAME = 40


def lines_of(file: TextIO, path: Path, field: str) -> Iterator[str]:  # noqa: ARG001 - lines have no fields
    """Yield the lines of a plain text.

    Raises:
        InputError: it is not UTF-8, or its first lines are JSON objects.
    """
    lines = (line for _, line in lines_in(file))
    head = list(itertools.islice(lines, HEAD_LINES))
    if head and all(map(is_json, head)):
        form, compression = endings_of(path)
        name = path.name[: len(path.name) - len(form + compression)] + ".jsonl" + compression
        raise InputError(
            f"{path} has JSON on its lines, which would be read as plain text; rename it to {name} and name the "
            "field that holds the text with --text-field"
        )
    yield from head
    yield from lines


def is_json(line: str) -> bool:
    """Whether a line is a JSON object, or an array of objects."""
    if not line.lstrip().startswith(("{", "[")):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def json_lines_of(file: TextIO, path: Path, field: str) -> Iterator[str]:
    """Yield a field of the object on each line; a line may also be a string.

    Raises:
        InputError: a line is not JSON, or has no such field.
    """
    for number, line in lines_in(file):
        where = f"line {number} of {path}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = getattr(error, "msg", str(error))
            raise InputError(
                f"{where} is not valid JSON ({message}); write one object per line, or name the file .json"
            ) from error
        yield from text_in(value, field, where)


def json_of(file: TextIO, path: Path, field: str) -> Iterator[str]:
    """Yield a field of the objects in a JSON array, or of objects one after another; items may also be strings.

    Raises:
        InputError: it is not JSON, or an object has no such field.
    """
    number = 0
    try:
        for number, value in enumerate(json_values(file), 1):
            yield from text_in(value, field, f"item {number} of {path}")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        message = getattr(error, "msg", str(error))
        raise InputError(
            f"item {number + 1} of {path} is not valid JSON ({message}); write an array of objects, or one per line"
        ) from error


class JsonStream:
    """Reads JSON values from a file one by one, so that a large array is never held whole."""

    def __init__(self, file: TextIO) -> None:
        """Begin at the start of a file."""
        self._file = file
        self._text = ""
        self._start = 0
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """Find the next character that is not blank; empty at the end of the file."""
        while True:
            match = BLANKS.match(self._text, self._start)
            self._start = match.end() if match else self._start
            if self._start < len(self._text):
                return self._text[self._start]
            if not self._read_on():
                return ""

    def skip(self) -> None:
        """Go past the character that ``next_character`` returned."""
        self._start += 1

    def fail(self, message: str) -> json.JSONDecodeError:
        """Make an error at this place."""
        return json.JSONDecodeError(message, self._text, min(self._start, len(self._text)))

    def value(self) -> Any:
        """Parse the value that begins at the next character.

        Raises:
            json.JSONDecodeError: it is not valid JSON.
        """
        while True:
            try:
                value, self._start = self._decoder.raw_decode(self._text, self._start)
            except json.JSONDecodeError as error:
                is_cut_off = error.msg.startswith("Unterminated") or len(self._text) - error.pos <= LONGEST_ESCAPE
                if not (is_cut_off and self._read_on()):
                    raise
            else:
                return value

    def _read_on(self) -> bool:
        """Read more, doubling the part that is not used up, so that a long value is not parsed too often."""
        rest = self._text[self._start :]
        if len(rest) > LONGEST_DOCUMENT:
            raise json.JSONDecodeError(f"a value of more than {LONGEST_DOCUMENT >> 20} MiB", "", 0)
        more = self._file.read(max(JSON_CHUNK, len(rest)))
        self._text, self._start = rest + more, 0
        return bool(more)


def json_values(file: TextIO) -> Iterator[Any]:
    """Yield the items of a JSON array, or JSON values one after another.

    Raises:
        json.JSONDecodeError: it is not valid JSON.
    """
    stream = JsonStream(file)
    if stream.next_character() != "[":
        while stream.next_character():
            yield stream.value()
        return
    stream.skip()
    is_open = stream.next_character() != "]"
    while is_open:
        yield stream.value()
        if stream.next_character() not in {",", "]"}:
            raise stream.fail("Expecting ',' or ']'")
        if is_open := stream.next_character() == ",":
            stream.skip()
            stream.next_character()
    stream.skip()
    if stream.next_character():
        raise stream.fail("Extra data after the array")


def comma_separated(file: TextIO, path: Path, field: str) -> Iterator[str]:
    """Yield a column of a CSV file; semicolons and tabs may separate as well."""
    return table_rows(file, path, field, ",;\t")


def tab_separated(file: TextIO, path: Path, field: str) -> Iterator[str]:
    """Yield a column of a TSV file."""
    return table_rows(file, path, field, "\t")


def table_rows(file: TextIO, path: Path, field: str, delimiters: str) -> Iterator[str]:
    """Yield a column of a table with a header; a quoted field may hold line breaks.

    Args:
        file: the open file, whose line ends are not translated.
        path: its path, for messages.
        field: the column.
        delimiters: the first one with which the header has the column is used.

    Raises:
        InputError: the header has no such column, or a row is not well-formed.
    """
    csv.field_size_limit(LONGEST_DOCUMENT)  # 131,072 characters by default, fewer than a long document has
    n_before, first = next(((i, line) for i, line in enumerate(file) if line.strip()), (0, ""))
    delimiter = next((d for d in delimiters if field in header_of(first, d)), delimiters[0])
    rows = csv.reader(itertools.chain([first], file), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        place = column_of(header, field, path)
        for row in rows:
            if len(row) > len(header):
                raise InputError(
                    f"line {n_before + rows.line_num} of {path} has {len(row)} fields, its header {len(header)}; "
                    "put fields that contain the separator into quotes"
                )
            if row and place >= len(row):
                raise InputError(
                    f"line {n_before + rows.line_num} of {path} ends before its column {field!r}: it has {len(row)} "
                    f"fields, the header {len(header)}; complete the row, or delete it"
                )
            if row and row[place].strip():
                yield row[place]
    except csv.Error as error:
        raise InputError(
            f"line {n_before + rows.line_num} of {path} is not valid CSV ({error}); put fields that contain quotes "
            "into quotes and double theirs, or write .jsonl"
        ) from error


def header_of(line: str, delimiter: str) -> list[str]:
    """Read the names on the first line of a table."""
    return next(csv.reader([line], delimiter=delimiter), [])


def column_of(names: Sequence[str], field: str, path: Path) -> int:
    """Find the place of a column.

    Raises:
        InputError: there is none of that name.
    """
    if field not in names:
        raise InputError(
            f"{path} has no column {field!r} (columns: {listed(names)}); name the one with the text with --text-field"
        )
    return list(names).index(field)


def parquet_of(path: Path, field: str) -> Iterator[str]:
    """Yield a column of a parquet file, some rows at a time.

    Raises:
        InputError: it is not a parquet file, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if endings_of(path)[1]:
        raise InputError(f"{path} is compressed around parquet, which compresses its own pages; decompress it")
    try:
        with pq.ParquetFile(path) as file:
            column_of(file.schema_arrow.names, field, path)
            for batch in file.iter_batches(rows_at_once(path, file.metadata, field), columns=[field]):
                for value in batch.column(0):
                    yield from text_in({field: value.as_py()}, field, str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"the column {field!r} of {path} is not valid UTF-8 ({error}); write it again") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a valid parquet file ({error}); write it again") from error


def rows_at_once(path: Path, metadata: Any, field: str) -> int:
    """Choose how many rows of a column are decoded at a time, so that they fit in memory.

    Every row of a batch may be a copy of the largest value in a dictionary, or repeat most of the value before it, so
    a small file may decode to gigabytes.

    Args:
        path: a parquet file.
        metadata: its metadata.
        field: the column.

    Raises:
        InputError: the column expands as no text does.
    """
    largest = 1.0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema != field:
                continue
            size = column.total_uncompressed_size
            if size > LONGEST_DOCUMENT and size > MOST_EXPANSION * column.total_compressed_size:
                raise InputError(
                    f"the column {field!r} of {path} expands to {size >> 20:,} MiB, more than {MOST_EXPANSION} times "
                    "its size in the file, as no text does; check where the file comes from"
                )
            repeated = size if REPEATING in column.encodings else dictionary_bytes(path, column)
            largest = max(largest, size / max(group.num_rows, 1), repeated)
    return max(1, min(PARQUET_ROWS, int(PARQUET_BATCH_BYTES / largest)))


def dictionary_bytes(path: Path, column: Any) -> int:
    """Read the decompressed size of a column's dictionary from the header of its first page; 0 where it has none.

    A header begins with the page's type and this size, as Thrift's compact protocol writes integers.
    """
    start = column.dictionary_page_offset
    with open(path, "rb") as file:
        file.seek(column.data_page_offset if start is None else start)
        head = file.read(PAGE_HEADER_BYTES)
    if not head.startswith(DICTIONARY_PAGE):
        return 0
    size = 0
    for place, byte in enumerate(head[len(DICTIONARY_PAGE) :]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    return size >> 1  # zigzag


def text_in(value: Any, field: str, where: str) -> Iterator[str]:
    """Yield the text in a field of a row, unless it is blank; a row may be the text itself.

    Raises:
        InputError: there is no such field, or it is not text.
    """
    text = value
    if isinstance(value, dict):
        if field not in value:
            raise InputError(f"{where} has no field {field!r} (fields: {listed(value)}); name one with --text-field")
        text = value[field]
    elif not isinstance(value, str):
        cure = "rename the file to .json" if isinstance(value, list) else "write objects or strings"
        raise InputError(f"{where} is {type(value).__name__}, so it has no field {field!r}; {cure}")
    if text is None:
        return
    if not isinstance(text, str):
        raise InputError(
            f"the field {field!r} of {where} is {type(text).__name__}, not text; name another with --text-field"
        )
    if text.strip():
        yield without_surrogates(text)


def listed(names: Iterable[Any]) -> str:
    """List the first names of columns or fields, shortened, for a message."""
    shown = [without_surrogates(str(name)) for name in itertools.islice(names, MOST_NAMES + 1)]
    shown = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in shown]
    return ", ".join([*shown[:MOST_NAMES], *(["..."] if len(shown) > MOST_NAMES else [])]) or "none"


def parquet_bytes(path: Path, field: str) -> float:
    """Estimate the bytes of a column of a parquet file from its first rows."""
    import pyarrow.parquet as pq

    head_bytes = sum(map(bytes_of, itertools.islice(parquet_of(path, field), PARQUET_ROWS)))
    with pq.ParquetFile(path) as file:
        n_rows = file.metadata.num_rows
    return n_rows * head_bytes / max(min(n_rows, PARQUET_ROWS), 1)


def bytes_of(document: str) -> int:
    """Count the UTF-8 bytes of a document and its line end."""
    return len(document.encode()) + 1


@dataclass(frozen=True)
class TextForm:
    """A form of files of documents.

    Attributes:
        endings: endings of such files, in lower case.
        document: what one document is, in words.
        field: what ``--text-field`` names, in words; empty where it has no effect.
        parse: yields the documents of an open file, given its path and the field; ``None`` for parquet.
        newline: how line ends are translated, as ``open`` takes it.
    """

    endings: tuple[str, ...]
    document: str
    field: str
    parse: Callable[[TextIO, Path, str], Iterator[str]] | None
    newline: str = "\n"

    @property
    def is_compressible(self) -> bool:
        """Whether files of it may be compressed as a whole."""
        return self.parse is not None

    def read(self, path: Path, field: str) -> Iterator[str]:
        """Yield the documents of a file that are not blank.

        Raises:
            InputError: it is not of this form, or has no such field.
        """
        if self.parse is None:
            yield from parquet_of(path, field)
            return
        with open_text(path, self.newline, has_lines=self is not JSON) as file:
            yield from self.parse(file, path, field)

    def text_bytes(self, path: Path, field: str) -> float:
        """Estimate the bytes of the documents of a file, a line end each, from its beginning.

        Raises:
            InputError: it cannot be read.
        """
        if self.parse is None:
            return parquet_bytes(path, field)
        if self is PLAIN and not endings_of(path)[1]:
            return path.stat().st_size
        head, share = beginning_of(path, SAMPLE_BYTES)
        n_bytes = 0
        with contextlib.suppress(InputError):  # the last item of the beginning is cut off
            for document in self.parse(io.StringIO(head, newline=self.newline), path, field):
                n_bytes += bytes_of(document)
        return (n_bytes or len(head.encode())) / share


PLAIN = TextForm(text_endings.PLAIN, "a line", "", lines_of)
JSON = TextForm(text_endings.JSON, "an item of an array, or an object (one per line, for example)", "field", json_of)
FORMS = (
    PLAIN,
    JSON,
    TextForm(text_endings.JSON_LINES, "the object on a line", "field", json_lines_of),
    TextForm(text_endings.COMMA_SEPARATED, "a row below the header", "column", comma_separated, newline=""),
    TextForm(text_endings.TAB_SEPARATED, "a row below the header", "column", tab_separated, newline=""),
    TextForm(text_endings.PARQUET, "a row", "column", None),
)
BY_ENDING = {ending: form for form in FORMS for ending in form.endings}


def form_of(path: Path) -> TextForm:
    """Look up the form of a file by its ending; any unknown ending is plain text.

    Raises:
        InputError: the ending names a format that is not read here.
    """
    check_format(path)
    return BY_ENDING.get(endings_of(path)[0], PLAIN)


def forms_table() -> str:
    """Write the table of forms in the documentation, as Markdown."""
    compressions = ", ".join(f"`{ending}`" for ending in COMPRESSIONS)
    lines = ["| ending | a document is | `--text-field` names its | may be followed by |", "|---|---|---|---|"]
    for form in FORMS:
        endings = ", ".join(f"`{ending}`" for ending in form.endings)
        endings += ", or any other" if form is PLAIN else ""
        compression = compressions if form.is_compressible else "- (compressed within)"
        lines.append(f"| {endings} | {form.document} | {form.field or '-'} | {compression} |")
    return "\n".join(lines) + "\n"
