"""Texts as users have them: plain text, JSON lines, parquet, folders of these, and datasets of the Hub.

* A text file holds one document a line (``.txt`` or any other name); empty lines are skipped.
* A ``.jsonl`` file holds one object a line, a ``.parquet`` file one row a document; a field of it is the text.
* Text and JSON lines may be packed as ``.gz`` or ``.xz``. Of a folder all such files are read, by their paths.
* ``hub:ORG/NAME``, ``hub:ORG/NAME:SPLIT`` or ``hub:ORG/NAME:CONFIG:SPLIT`` is a dataset of the Hub, read as it comes;
  ``ORG/NAME@REVISION`` names a commit, a tag or a branch.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clp_core.errors import ClpError, InputError, first_line
from clp_core.folders import content_of
from clp_core.hub_errors import explained

OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
PACKED_RATIO = 3.7
"""How much larger a packed text usually is once it is unpacked."""
TEXT_ENDINGS = (".txt", ".jsonl", ".parquet")
DEFAULT_FIELD = "text"
HUB_PREFIX = "hub:"
HUB_NAME = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?(?::([\w.+-]+))?(?::([\w.+\[\]%-]+))?")
PARQUET_ROWS = 1000


@dataclass(frozen=True)
class TextFile:
    """One file of documents."""

    path: Path

    @property
    def kind(self) -> str:
        """Its ending, that of the packing left out."""
        inner = Path(self.path.stem) if self.path.suffix in OPENERS else self.path
        return inner.suffix

    @property
    def text_bytes(self) -> float:
        """Bytes of its text, guessed where it is packed."""
        is_packed = self.path.suffix in OPENERS or self.kind == ".parquet"
        return self.path.stat().st_size * (PACKED_RATIO if is_packed else 1.0)

    def documents(self, field: str) -> Iterator[str]:
        """Yield the documents that are not empty.

        Raises:
            InputError: the file is not what its ending says, or its documents have no such field.
        """
        if self.kind == ".parquet":
            return parquet_documents(self.path, field)
        lines = read_lines(self.path)
        return json_documents(self.path, lines, field) if self.kind == ".jsonl" else lines

    def content(self) -> str:
        """Return a hash of its bytes."""
        return content_of(self.path)


@dataclass(frozen=True)
class HubDataset:
    """A split of a dataset of the Hub."""

    name: str
    config: str | None
    split: str
    wanted: str | None = None
    """The revision that was named; without one that of the main branch."""

    @classmethod
    def parse(cls, reference: str) -> HubDataset:
        """Read ``hub:NAME``, ``hub:NAME:SPLIT`` or ``hub:NAME:CONFIG:SPLIT``, the name with ``@REVISION`` or without.

        Raises:
            InputError: it has another form.
        """
        match = HUB_NAME.fullmatch(reference)
        if match is None:
            raise InputError(
                f"{reference!r} is no dataset; write hub:ORG/NAME, hub:ORG/NAME:SPLIT or with :CONFIG:SPLIT"
            )
        name, wanted, first, second = match.groups()
        return cls(name, first if second else None, second or first or "train", wanted)

    @property
    def text_bytes(self) -> float:
        """Not known before it is read."""
        return 0.0

    @cached_property
    def revision(self) -> str:
        """The commit that all is read from.

        Raises:
            InputError: the Hub cannot be reached, or has no such dataset.
        """
        from huggingface_hub import HfApi

        with explained_dataset(self.name):
            return str(HfApi().dataset_info(self.name, revision=self.wanted).sha)

    @property
    def pinned(self) -> str:
        """What names it at this commit."""
        inner = f":{self.config}:{self.split}" if self.config else f":{self.split}"
        return f"{HUB_PREFIX}{self.name}@{self.revision}{inner}"

    def documents(self, field: str) -> Iterator[str]:
        """Yield the documents that are not empty, as they come over the network.

        Raises:
            InputError: the Hub cannot be reached, or has no such dataset, split or field.
        """
        from datasets import load_dataset

        with explained_dataset(self.name):
            rows = load_dataset(self.name, self.config, split=self.split, streaming=True, revision=self.revision)
            for number, row in enumerate(rows):
                yield from field_of(row, field, f"row {number} of {self.name}")

    def content(self) -> str:
        """Return a name for what the split holds."""
        return f"{self.name}@{self.revision}:{self.config}:{self.split}"


@contextlib.contextmanager
def explained_dataset(name: str) -> Iterator[None]:
    """Turn what the clients of the Hub raise about a dataset into one plain line.

    Raises:
        InputError: it is not there, not for this user, or has no such configuration or split.
        ClpError: the Hub or the network failed.
    """
    try:
        with explained(name, kind="dataset"):
            yield
    except ClpError:
        raise
    except Exception as error:
        told = f"the dataset {name} cannot be read: {first_line(error)}"
        raise InputError(f"{told}; check its name, configuration and split, or give a local file") from error


Source = TextFile | HubDataset


@dataclass(frozen=True)
class Texts:
    """Documents from one place or several, in the order in which these were named.

    Attributes:
        sources: the files and datasets.
        field: field of JSON lines, column of parquet and of datasets that holds the text.
        split_at: strings at which a document is cut into several, such as a literal ``<|endoftext|>``; the strings
            themselves and blank parts are dropped, parts are otherwise unchanged.
    """

    sources: tuple[Source, ...]
    field: str = DEFAULT_FIELD
    split_at: tuple[str, ...] = ()

    @classmethod
    def open(cls, references: Sequence[str | Path], field: str = DEFAULT_FIELD, split_at: Sequence[str] = ()) -> Texts:
        """Find what references name; the first document of each is read.

        Raises:
            InputError: nothing is named, or something named is missing, empty or cannot be read.
        """
        if not references:
            raise InputError("no text is named; give --text FILE")
        if "" in split_at:
            raise InputError("a string at which documents are split is empty; leave it out")
        found: list[Source] = []
        for reference in references:
            if str(reference).startswith(HUB_PREFIX):
                found.append(HubDataset.parse(str(reference)))
                continue
            for path in files_of(Path(reference).expanduser()):
                file = TextFile(path)
                if next(iter(cls((file,), field, tuple(split_at))), None) is None:
                    raise InputError(f"{path} holds no text; give a file with one document a line")
                found.append(file)
        return cls(tuple(found), field, tuple(split_at))

    def __iter__(self) -> Iterator[str]:
        """Yield all documents that are not empty."""
        documents = itertools.chain.from_iterable(source.documents(self.field) for source in self.sources)
        return split_documents(documents, self.split_at) if self.split_at else documents

    @property
    def text_bytes(self) -> float:
        """Bytes of text: of packed files a guess, datasets of the Hub not counted."""
        return sum(source.text_bytes for source in self.sources)

    @property
    def is_local(self) -> bool:
        """Whether all of it lies on this machine."""
        return all(isinstance(source, TextFile) for source in self.sources)

    def content(self) -> str:
        """Return a name for the content; that of a single file is the hash of its bytes."""
        names = [source.content() for source in self.sources]
        if self.split_at:
            names.append(json.dumps(sorted(set(self.split_at))))
        if len(names) == 1 and isinstance(self.sources[0], TextFile) and self.sources[0].kind not in TEXT_ENDINGS[1:]:
            return names[0]
        return hashlib.sha256("\n".join([self.field, *names]).encode()).hexdigest()


def split_documents(documents: Iterable[str], split_at: Sequence[str]) -> Iterator[str]:
    """Cut documents at literal strings, the longest first where one contains another; blank parts are skipped."""
    cut = re.compile("|".join(map(re.escape, sorted(split_at, key=len, reverse=True))))
    for document in documents:
        yield from (part for part in cut.split(document) if part.strip())


def files_of(path: Path) -> list[Path]:
    """Return a file, or the text files below a folder by their paths.

    Raises:
        InputError: there is no such file, or no text in the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"there is no text {path}; check the path")
    found = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(".")]
        files = [Path(folder) / name for name in names if not name.startswith(".")]
        found += [file for file in files if TextFile(file).kind in TEXT_ENDINGS]
    if not found:
        raise InputError(f"{path} holds no text; texts end with {', '.join(TEXT_ENDINGS)}, packed as .gz or .xz or not")
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the non-empty lines of a text file, plain, ``.xz`` or ``.gz``.

    Raises:
        InputError: it is no UTF-8 text.
    """
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                document = line.rstrip("\r\n")
                if document.strip():
                    yield document
    except (UnicodeDecodeError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is no UTF-8 text ({error}); convert it first") from error


def json_documents(path: Path, lines: Iterator[str], field: str) -> Iterator[str]:
    """Yield a field of every line of JSON.

    Raises:
        InputError: a line is no JSON object, or has no such field.
    """
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"line {number} of {path} is no JSON ({error.msg}); write one object a line") from error
        yield from field_of(row, field, f"line {number} of {path}")


def parquet_documents(path: Path, field: str) -> Iterator[str]:
    """Yield a column of a parquet file, some rows at a time.

    Raises:
        InputError: it is no parquet file, or has no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise InputError(f"{path} has no column {field!r}; name one of {names} with --text-field")
            for batch in file.iter_batches(PARQUET_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield from field_of({field: value}, field, str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no parquet file that can be read ({error}); write it again") from error


def field_of(row: Any, field: str, where: str) -> Iterator[str]:
    """Yield the text in a field of a row, unless it is empty.

    Raises:
        InputError: there is no such field, or it holds no text.
    """
    if not isinstance(row, dict) or field not in row:
        names = ", ".join(map(str, row)) if isinstance(row, dict) else "none"
        raise InputError(f"{where} has no field {field!r} (fields: {names}); name another with --text-field")
    text = row[field]
    if text is None:
        return
    if not isinstance(text, str):
        raise InputError(f"the field {field!r} of {where} holds no text but {type(text).__name__}")
    if text.strip():
        yield text


def absolute(reference: str) -> str:
    """Return what names the same text from anywhere and later: a full path, or a dataset of the Hub at its commit.

    Raises:
        InputError: there is no such dataset.
    """
    if reference.startswith(HUB_PREFIX):
        return HubDataset.parse(reference).pinned
    return str(Path(reference).expanduser().absolute())
