"""Hold out a part of a text: whole blocks of documents, and nothing in training that repeats them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from clp_core.data.line_key import line_key
from clp_core.data.packing import document_bytes
from clp_core.data.text_forms import is_json
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.files.disk import check_disk
from clp_core.files.slug import slug_of
from clp_core.progress import report_progress

log = logging.getLogger(__name__)

BLOCK_DOCUMENTS = 40
HELD_OUT_REMAINDER = 7
HELD_OUT_BYTES = 1_000_000
BEAT_DOCUMENTS = 1000
LEAST_EVERY = 10
LEAST_BLOCKS = 10
LEAST_DOCUMENTS = 20
BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


@dataclass(frozen=True)
class SplitRule:
    """Which documents are held out: of the blocks of ``block`` documents, those whose number leaves 7.

    Attributes:
        block: documents a block.
        every: of as many blocks one is held out.
    """

    block: int
    every: int

    @classmethod
    def of(cls, documents: int, n_bytes: int) -> SplitRule:
        """Hold out a tenth of a small text and about a megabyte of a large one, in ten blocks or more.

        Neighbouring documents often speak of the same, so blocks are whole: up to 40 documents, fewer in a small text.

        Raises:
            InputError: there are too few documents to hold some out.
        """
        if documents < LEAST_DOCUMENTS:
            raise InputError(
                f"the text has {documents} documents (lines), too few to hold some out; give --eval-text FILE, or more"
            )
        every = max(LEAST_EVERY, math.ceil(n_bytes / HELD_OUT_BYTES))
        every = min(every, max(LEAST_EVERY, documents // LEAST_BLOCKS))
        return cls(max(1, min(BLOCK_DOCUMENTS, documents // (LEAST_BLOCKS * every))), every)

    def holds_out(self, position: int) -> bool:
        """Say whether the document at a position is held out."""
        return (position // self.block) % self.every == HELD_OUT_REMAINDER


@dataclass(frozen=True)
class Split:
    """A text in two files.

    Attributes:
        train: the part to train on.
        valid: the part that was held out.
        rule: how it was cut.
    """

    train: Path
    valid: Path
    rule: SplitRule

    @property
    def told(self) -> str:
        """What was done, in words."""
        return (
            f"of every {self.rule.every} blocks of {self.rule.block} documents one is held out, in {self.valid.name}; "
            f"{self.train.name} is trained on"
        )


def hold_out(texts: Texts, called: str, folder: Path) -> Split:
    """Cut a text into a training and a held-out file, which are kept and found again for the same text.

    A training document with the letters of a held-out one (see ``line_key``) is left out.

    Args:
        texts: the text.
        called: what the files' names begin with.
        folder: where the files go.

    Raises:
        InputError: the text cannot be read, has too few documents, or repeats itself so that none is left to train on.
    """
    documents, n_bytes, content, is_plain = measure(texts)
    rule = SplitRule.of(documents, n_bytes)
    name = f"{slug_of(called)}-{content}"
    ending = ".txt" if is_plain else ".jsonl"
    split = Split(folder / f"{name}-train{ending}", folder / f"{name}-valid{ending}", rule)
    if split.train.is_file() and split.valid.is_file():
        return split
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, n_bytes)
    held_out: set[bytes] = set()

    def held() -> Iterator[str]:
        for i, document in enumerate(texts):
            if rule.holds_out(i):
                held_out.add(line_key(document))
                yield document

    def kept() -> Iterator[str]:
        for i, document in enumerate(texts):
            if i % BEAT_DOCUMENTS == 0:
                report_progress("holding out a part of the text", i / documents)
            if not rule.holds_out(i) and line_key(document) not in held_out:
                yield document

    with written_beside(split.valid) as valid, written_beside(split.train) as train:
        field = None if is_plain else texts.field
        n_held, n_kept = write_documents(valid, held(), field), write_documents(train, kept(), field)
        repeats = documents - n_held - n_kept
        if n_kept <= repeats:
            raise InputError(
                f"the text repeats itself: {repeats:,} of {documents:,} documents equal a held-out one; "
                "give other text, or --eval-text FILE"
            )
    if repeats:
        log.info("%d documents are left out of training, as they repeat a held-out one", repeats)
    return split


def measure(texts: Texts) -> tuple[int, int, str, bool]:
    """Count the documents of a text and its bytes, name its content, and say whether its lines can hold all of them."""
    documents, n_bytes, digest, is_plain = 0, 0, hashlib.blake2b(digest_size=4), True
    for document in texts:
        documents += 1
        n_bytes += document_bytes(document)
        digest.update(document.encode() + b"\n")
        is_plain &= is_one_line(document)
        if documents % BEAT_DOCUMENTS == 0:
            report_progress("reading the text")
    return documents, n_bytes, digest.hexdigest(), is_plain


def is_one_line(document: str) -> bool:
    """Whether a line of a plain text comes back as this document: no line ends, no byte order mark, not JSON."""
    is_broken = "\n" in document or "\r" in document
    return not is_broken and not document.startswith(BYTE_ORDER_MARK) and not is_json(document)


def write_documents(file: TextIO, documents: Iterable[str], field: str | None) -> int:
    """Write documents, one a line, or one JSON object a line with the document in a field; return how many."""
    n = 0
    for document in documents:
        file.write((document if field is None else json.dumps({field: document}, ensure_ascii=False)) + "\n")
        n += 1
    return n


@contextmanager
def written_beside(target: Path) -> Iterator[TextIO]:
    """Give a file to write that takes its name once it is whole."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
