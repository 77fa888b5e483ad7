"""Files with the curve of a run made elsewhere: CSV of spreadsheets, W&B and TensorBoard, and ``trainer_state.json``.

Columns are known by their names, in any case, with ``/`` for ``_``, and with W&B's ``RUN - `` before them. The loss of
the training text is not a held-out loss, so a bare ``loss`` is not taken for one.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NoReturn

import pandas as pd

from clp_core.errors import InputError

COLUMNS = {
    "tokens": ("tokens", "num_input_tokens_seen", "train_num_input_tokens_seen", "tokens_seen", "train_tokens"),
    "step": ("global_step", "train_global_step", "trainer_global_step", "step", "steps", "_step"),
    "bytes": ("bytes",),
    "seconds": ("seconds", "_runtime", "relative_time_(process)"),
    "eval_loss": ("eval_loss", "val_loss", "valid_loss", "validation_loss"),
    "perplexity": ("perplexity", "ppl", "eval_perplexity", "val_perplexity", "validation_perplexity"),
    "bits_per_byte": ("bits_per_byte", "bpb", "eval_bits_per_byte"),
}
"""Names of each column, the surest first: W&B's own ``Step`` counts lines of its log, not steps of the optimiser."""
SCORES = ("eval_loss", "perplexity", "bits_per_byte")
TENSORBOARD = ("wall_time", "step", "value")
BOUNDS = ("__min", "__max")
"""Ends of W&B's columns with the range of a smoothed or grouped curve."""
SEPARATORS = ("\t", ";", ",")
"""In the order in which they count where a header has as many fields under each: commas also stand in names."""
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n")
"""A first line by which Excel is told the separator."""
BLANKS = re.compile("[\\s'\u2019]")
"""What stands between thousands besides points and commas; ``\\s`` holds the narrow and the fixed blanks."""
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
"""A number whose only mark may be that of thousands or the decimal one."""
MARKED = re.compile(r"[+-]?[\d.,]*[.,][\d.,]*(e[+-]?\d+)?", re.IGNORECASE)
WHOLE = re.compile(r"[+-]?\d{4,}")
"""A number that would have a mark between thousands if its file had any."""
COUNTS = ("tokens", "step", "bytes")
"""Columns of whole numbers: a mark in them is one between thousands."""
DECIMAL_OF_SEPARATOR = {",": ".", ";": ","}
"""Decimal mark that goes with a separator: spreadsheets separate fields by semicolons where decimals have commas."""
NAMES_SHOWN = 12


def read_rows(data: bytes, file_name: str) -> list[dict[str, float]]:
    """Read a file's rows, the finite numbers among them by the names of ``COLUMNS``.

    Args:
        data: content of a CSV file with a header, or of a ``trainer_state.json``.
        file_name: its name: its ending says which of both it is; of a CSV file of TensorBoard it names the tag.

    Raises:
        InputError: the file cannot be read, or has none of the columns of a curve, or those of several runs.
    """
    text = decoded(data, file_name)
    if file_name.lower().endswith(".json"):
        return rows_of_trainer_state(text, file_name)
    return rows_of_table(*read_table(text, file_name), file_name)


def decoded(data: bytes, file_name: str) -> str:
    """Decode a file of UTF-8, of UTF-16 with a byte order mark, or of Windows' Western European encoding (Excel's CSV).

    Raises:
        InputError: it is none of them.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0" if is_utf16 else data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise InputError(
            f"{file_name} is not text in UTF-8, or in UTF-16 with a byte order mark; save it again as CSV UTF-8"
        )
    return text


def rows_of_trainer_state(text: str, file_name: str) -> list[dict[str, float]]:
    """Return the evaluations in a Trainer's ``trainer_state.json``.

    Raises:
        InputError: it is not such a file, or has no evaluations.
    """
    try:
        lines = [line for line in json.loads(text)["log_history"] if any(str(key).startswith("eval_") for key in line)]
        frame = pd.DataFrame(lines)
        return rows_of_frame(frame, chosen_columns(frame.columns, file_name)) if lines else refuse([], file_name)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{file_name} is not a trainer_state.json with a log_history; give one, or a CSV file"
        ) from error


def read_table(text: str, file_name: str) -> tuple[pd.DataFrame, str]:
    """Read a CSV file as a table of text, and find what separates its fields.

    Raises:
        InputError: it is not one, a line has more fields than the header, or a column of a curve is there twice.
    """
    first = SEPARATOR_LINE.match(text)
    if first:
        text = text[first.end() :]
    header = text.partition("\n")[0]
    try:
        fields = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in SEPARATORS}
        separator = first[1] if first else max(SEPARATORS, key=fields.__getitem__)
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True)
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for names of rows
            raise ValueError("its lines have more fields than its header")
        columns = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True, header=None, nrows=1
        ).iloc[0]
    except (csv.Error, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"{file_name} is not a valid CSV file with a header ({first_line})") from error
    refuse_repeated(columns.dropna().tolist(), file_name)
    return table, separator


def refuse_repeated(columns: Sequence[str], file_name: str) -> None:
    """Refuse a header that names a column of a curve twice; pandas would give the second one another name.

    Raises:
        InputError: it does.
    """
    known = {*TENSORBOARD, *(name for names in COLUMNS.values() for name in names)}
    repeated = [name for name in dict.fromkeys(columns) if columns.count(name) > 1 and plain_name(name) in known]
    if repeated:
        raise InputError(f"{file_name} has several columns named {shown(repeated)}; keep one of each")


def rows_of_table(table: pd.DataFrame, separator: str, file_name: str) -> list[dict[str, float]]:
    """Return the rows of a table of text.

    Raises:
        InputError: none of its columns is known, several runs have the same one, or its numbers are written in two
            ways, or may be read in two.
    """
    names = {plain_name(column): str(column) for column in table.columns}
    if set(TENSORBOARD) == set(names):
        table = table.rename(columns={names["value"]: tag_in(file_name)})
    chosen = chosen_columns(table.columns, file_name)
    used = table[[column for columns in chosen.values() for column in columns]]
    cells = {key: list(table[columns].to_numpy().ravel()) for key, columns in chosen.items()}
    decimal = decimal_mark(cells, separator, file_name)
    return rows_of_frame(used.apply(lambda cells: numbers_of(cells, decimal)), chosen)


def plain_name(column: Any) -> str:
    """Return a column's name as ``COLUMNS`` writes it, without the run that W&B puts before it."""
    name = str(column).rpartition(" - ")[2].strip().lower()
    return re.sub(r"[/\s]+", "_", name)


def tag_in(file_name: str) -> str:
    """Return the score that the name of a file of TensorBoard ends with, as in ``run-x-tag-eval_loss.csv``.

    Raises:
        InputError: it ends with none.
    """
    stem = plain_name(PurePath(file_name).stem)
    tags = [name for score in SCORES for name in COLUMNS[score]]
    matches = [tag for tag in tags if re.search(rf"(^|[^a-z]){tag}$", stem)]
    if not matches:
        raise InputError(
            f"{file_name} is a CSV file of TensorBoard, which does not say what its values are; keep the name that "
            f"TensorBoard gives it, which ends with the tag, one of {', '.join(tags)}"
        )
    return max(matches, key=len)


def chosen_columns(columns: Iterable[Any], file_name: str) -> dict[str, list[str]]:
    """Choose the columns of a curve, the surest of each name first.

    Raises:
        InputError: there is no score, or nothing to put it at, or several runs have the same score.
    """
    by_name: dict[str, list[str]] = {}
    for column in columns:
        if not plain_name(column).endswith(BOUNDS):
            by_name.setdefault(plain_name(column), []).append(str(column))
    chosen = {key: [column for name in names for column in by_name.get(name, ())] for key, names in COLUMNS.items()}
    for name in (name for score in SCORES for name in COLUMNS[score]):
        if len(by_name.get(name, ())) > 1:
            raise InputError(f"{file_name} holds {name} of several runs ({shown(by_name[name])}); export one of them")
    if not any(chosen[score] for score in SCORES) or not (chosen["tokens"] or chosen["step"]):
        refuse(columns, file_name)
    return {key: columns for key, columns in chosen.items() if columns}


def rows_of_frame(frame: pd.DataFrame, chosen: Mapping[str, list[str]]) -> list[dict[str, float]]:
    """Return the finite numbers of each row; where a row has several of one name, those of the surest column."""
    numbers = {
        key: frame[columns].apply(pd.to_numeric, errors="coerce").bfill(axis=1).iloc[:, 0].tolist()
        for key, columns in chosen.items()
    }
    rows = (dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True))
    return [{key: float(value) for key, value in row.items() if math.isfinite(value)} for row in rows]


def decimal_mark(cells: Mapping[str, Iterable[Any]], separator: str, file_name: str) -> str:
    """Find the mark that all numbers of a file have before their decimals.

    A mark that stands twice in a number is that of thousands, and so is the first of two different ones; any other is
    the decimal mark, unless just three digits follow: such numbers are read as the others are. See ``unsure_mark`` for
    files without others.

    Args:
        cells: text of the cells by the names of ``COLUMNS``.
        separator: what separates fields.
        file_name: for messages.

    Raises:
        InputError: some numbers say this, others that, or none says it.
    """
    marks: set[str] = set()
    unsure: dict[str, list[str]] = {}
    has_whole = False
    for key, values in cells.items():
        for number in (BLANKS.sub("", cell) for cell in values if isinstance(cell, str)):
            has_whole = has_whole or WHOLE.fullmatch(number) is not None
            if GROUPED.fullmatch(number):
                unsure.setdefault(key, []).append(number)
            elif MARKED.fullmatch(number):
                last = max(".,", key=number.rfind)
                other = {".": ",", ",": "."}[last]
                marks.add(other if number.count(last) > 1 else last)
    if len(marks) > 1:
        raise InputError(
            f"{file_name} has numbers with decimal points and numbers with decimal commas; write them alike"
        )
    if marks or not unsure:
        return marks.pop() if marks else "."
    decimal = unsure_mark(unsure, separator, has_whole=has_whole)
    if not decimal:
        example = next(numbers[0] for key, numbers in sorted(unsure.items(), key=lambda found: found[0] in COUNTS))
        raise InputError(
            f"{file_name} has numbers such as {example}, whose mark may be that of decimals or of thousands; write "
            "decimal points in a file with commas between its fields, more than three decimals, or no marks between "
            "thousands"
        )
    return decimal


def unsure_mark(unsure: Mapping[str, Sequence[str]], separator: str, *, has_whole: bool) -> str:
    """Find the decimal mark of a file whose marks all stand before just three digits; empty where nothing decides.

    A mark that only counts have is that of thousands. One that scores have is the decimal mark where the file writes
    thousands without marks, or where it goes with the separator and counts have none.

    Args:
        unsure: numbers with such a mark, by the names of ``COLUMNS``.
        separator: what separates fields.
        has_whole: whether a number of four digits or more has no mark.
    """
    of_counts, of_others = (
        {
            mark
            for key, numbers in unsure.items()
            if (key in COUNTS) is is_count
            for mark in ".,"
            if mark in "".join(numbers)
        }
        for is_count in (True, False)
    )
    if len(of_counts) == 1 and not of_counts & of_others:
        return {".": ",", ",": "."}[of_counts.pop()]
    marks = of_counts | of_others
    if len(marks) == 1 and (has_whole or (not of_counts and marks == {DECIMAL_OF_SEPARATOR.get(separator)})):
        return marks.pop()
    return ""


def numbers_of(cells: pd.Series, decimal: str) -> pd.Series:
    """Read a column of text as numbers; what is not one becomes NaN."""
    thousands = {".": ",", ",": "."}[decimal]
    bare = cells.str.replace(BLANKS, "", regex=True).str.replace(thousands, "", regex=False)
    return pd.to_numeric(bare.str.replace(decimal, ".", regex=False), errors="coerce")


def shown(columns: Iterable[Any]) -> str:
    """Return the first names of columns for a message."""
    names = [str(column) for column in columns]
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def refuse(columns: Iterable[Any], file_name: str) -> NoReturn:
    """Refuse a file without a curve.

    Raises:
        InputError: always; it names the columns found and those that are needed.
    """
    names = shown(columns)
    raise InputError(
        f"{file_name} holds no curve{f' in its columns {names}' if names else ''}: give a CSV file whose header names "
        "tokens (or step, with the tokens per step) and eval_loss, perplexity or bits_per_byte, an export of W&B or "
        "TensorBoard with one of them, or a trainer_state.json with evaluations and the tokens per step"
    )
