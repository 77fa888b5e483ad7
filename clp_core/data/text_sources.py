"""Texts as users have them: files of every form in ``text_forms``, folders of these, and datasets of the Hub.

* A line, an object or a row is a document; blank ones are skipped. Of a folder all files with known endings are read,
  in the order of their paths.
* ``hub:ORG/NAME``, ``hub:ORG/NAME:SPLIT`` or ``hub:ORG/NAME:CONFIG:SPLIT`` is a dataset of the Hub, read as it comes;
  ``ORG/NAME@REVISION`` names a commit, a tag or a branch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from clp_core.data.text_forms import PLAIN, TextForm, form_of, text_in
from clp_core.errors import ClpError, InputError, first_line
from clp_core.files.hashing import content_of
from clp_core.files.text_endings import COMPRESSIONS, ENDINGS, has_text_ending
from clp_core.hub.errors import explained
from clp_core.tokenization.text_reading import SEPARATING_ROLES, SEPARATOR, TOKENS

if TYPE_CHECKING:
    from clp_core.tokenization.vocabulary import Vocabulary

DEFAULT_FIELD = "text"
HUB_PREFIX = "hub:"
HUB_NAME = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?(?::([\w.+-]+))?(?::([\w.+\[\]%-]+))?")


@dataclass(frozen=True)
class TextFile:
    """One file of documents."""

    path: Path

    @property
    def form(self) -> TextForm:
        """Its form, by its ending.

        Raises:
            InputError: the ending names a format that is not read here.
        """
        return form_of(self.path)

    def text_bytes(self, field: str) -> float:
        """Estimate the bytes of its text; of plain text that is not compressed, count them.

        Raises:
            InputError: it cannot be read.
        """
        return self.form.text_bytes(self.path, field)

    def documents(self, field: str) -> Iterator[str]:
        """Yield the documents that are not blank.

        Raises:
            InputError: the file is not what its ending says, or its documents have no such field.
        """
        return self.form.read(self.path, field)

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

    def text_bytes(self, field: str) -> float:  # noqa: ARG002 - the same as of files
        """Return 0, as it is not known before it is read."""
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
        """Yield the documents that are not blank, as they come over the network.

        Raises:
            InputError: the Hub cannot be reached, or has no such dataset, split or field.
        """
        from datasets import load_dataset

        with explained_dataset(self.name):
            rows = load_dataset(self.name, self.config, split=self.split, streaming=True, revision=self.revision)
            for number, row in enumerate(rows):
                yield from text_in(row, field, f"row {number} of {self.name}")

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
        field: field of JSON objects, column of tables and of datasets that holds the text.
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
            if not str(reference).strip():
                raise InputError("the name of a text is empty; give a file, a folder (. is this one) or hub:ORG/NAME")
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
        """Yield all documents that are not blank."""
        documents = itertools.chain.from_iterable(source.documents(self.field) for source in self.sources)
        return split_documents(documents, self.split_at) if self.split_at else documents

    @property
    def text_bytes(self) -> float:
        """Bytes of text, estimated where files are not plain text; datasets of the Hub are not counted."""
        return sum(source.text_bytes(self.field) for source in self.sources)

    @property
    def is_local(self) -> bool:
        """Whether all of it lies on this machine."""
        return all(isinstance(source, TextFile) for source in self.sources)

    def content(self) -> str:
        """Return a name for the content; that of a single file is the hash of its bytes."""
        names = [source.content() for source in self.sources]
        if self.split_at:
            names.append(json.dumps(sorted(set(self.split_at))))
        if len(names) == 1 and isinstance(self.sources[0], TextFile) and self.sources[0].form is PLAIN:
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
        found += [file for file in files if has_text_ending(file)]
    if not found:
        raise InputError(
            f"{path} holds no text; texts end with {', '.join(ENDINGS)}, alone or followed by {', '.join(COMPRESSIONS)}"
        )
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def absolute(reference: str) -> str:
    """Return what names the same text from anywhere and later: a full path, or a dataset of the Hub at its commit.

    Raises:
        InputError: there is no such dataset.
    """
    if reference.startswith(HUB_PREFIX):
        return HubDataset.parse(reference).pinned
    return str(Path(reference).expanduser().absolute())


def as_read(texts: Texts, vocabulary: Vocabulary, control_strings: str = TOKENS) -> Texts:
    """Cut documents at literal end-of-text strings where these are read as separators.

    Raises:
        InputError: nothing is left.
    """
    if control_strings != SEPARATOR:
        return texts
    roles = {vocabulary.roles[role] for role in SEPARATING_ROLES if role in vocabulary.roles}
    strings = tuple(string for string, token_id in vocabulary.control_strings.items() if token_id in roles)
    cut = replace(texts, split_at=strings)
    if texts.is_local and next(iter(cut), None) is None:
        raise InputError("--control-strings separator: the text holds nothing but control strings; give another one")
    return cut
