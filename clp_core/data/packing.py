"""From text to tokenised, packed blocks, with the bytes of the text counted.

Every document ends with the end-of-text token, which stands for its line end. So the bytes of a text are the UTF-8
bytes of its documents, one line end each included. A control string that is read as its token is not text to a
reader: its bytes are not counted. Documents are joined and cut into blocks: nothing is padded but the end of the last
block, and no token is lost. Where every block begins with the begin-of-text token, that token is not stored but put
before a block when it is read, so stored blocks are one token shorter.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from clp_core.data.text_sources import TextFile, Texts, as_read
from clp_core.errors import ClpError
from clp_core.files.disk import check_disk
from clp_core.files.json_files import read_json
from clp_core.progress import report_progress
from clp_core.tokenization.text_reading import TEXT, TOKENS, end_token, tokenizer_of
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_DOCUMENTS = 1000
POLL_S, SHARED_DISK_S = 0.5, 120.0
"""Pause between two looks for what another machine has written, and how long the disk may take to show it."""
COUNTS_FILE = "counts.json"
COUNTS_VERSION = 3
"""Raised when ``TextCounts`` counts more or otherwise, so that cached blocks are made anew."""
SAMPLE_BYTES = 200_000
BLOCKS_FILE = "blocks.arrow"
CACHE_BYTES_PER_BYTE = 4
"""An id takes four bytes, and stands for at least one of the text."""


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
FULLY_CHECKED_DOCUMENTS, CHECKED_SHARE = 2000, 100
"""The round trip of the first documents is checked, then that of every hundredth."""
LONGEST_CHECKED = 100_000
"""Characters; of a longer document only so many are encoded and decoded to check the round trip."""
SHOWN_CHARACTERS = 40
SHOWN_STRINGS = 3


@dataclass(frozen=True)
class TextCounts:
    """Sizes of a tokenised text.

    Attributes:
        documents: number of documents.
        tokens: tokens, the end of each document included.
        bytes: UTF-8 bytes, the line end of each document included, strings that are read as control tokens excluded.
        unknown: how many of the tokens stand for unknown text.
        control: occurrences of literal control strings that are read as tokens, by string.
        control_documents: number of documents that contain any.
        replacements: occurrences of U+FFFD, which stands for what could not be decoded.
        replaced_documents: number of documents that contain it.
        checked: number of documents whose round trip through the tokenizer was checked.
        lossy: how many of these do not survive it.
        checked_bytes: bytes of the documents that were checked, counted as in ``bytes``.
        lossy_bytes: bytes of those that do not survive it.
        lossy_example: where the first of them is changed.
    """

    documents: int
    tokens: int
    bytes: int
    unknown: int
    control: Mapping[str, int] = field(default_factory=dict)
    control_documents: int = 0
    replacements: int = 0
    replaced_documents: int = 0
    checked: int = 0
    lossy: int = 0
    checked_bytes: int = 0
    lossy_bytes: int = 0
    lossy_example: str = ""

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes a token stands for."""
        return self.bytes / max(self.tokens, 1)

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that stand for unknown text."""
        return self.unknown / max(self.tokens, 1)

    @property
    def lossy_share(self) -> float:
        """Share of the checked documents that do not survive a round trip through the tokenizer."""
        return self.lossy / max(self.checked, 1)

    @property
    def lossy_byte_share(self) -> float:
        """Share of the bytes of the checked documents in those that do not survive the round trip."""
        return self.lossy_bytes / max(self.checked_bytes, 1)

    @property
    def control_bytes(self) -> int:
        """UTF-8 bytes of the control strings, which ``bytes`` excludes."""
        return sum(n * len(string.encode()) for string, n in self.control.items())

    @property
    def warnings(self) -> list[str]:
        """Sentences on literal control strings and undecodable characters in the text."""
        sentences = []
        if self.control:
            strings = sorted(self.control, key=lambda string: -self.control[string])
            named = ", ".join(f"{string} ({self.control[string]:,})" for string in strings[:SHOWN_STRINGS])
            more = ", ..." if len(strings) > SHOWN_STRINGS else ""
            sentences.append(
                f"{self.control_documents:,} of {self.documents:,} documents contain strings of special tokens "
                f"({named}{more}), which are read as tokens and whose bytes are not counted; --control-strings "
                "separator ends documents at them, --control-strings text reads them as plain text"
            )
        if self.replacements:
            sentences.append(
                f"{self.replaced_documents:,} of {self.documents:,} documents contain U+FFFD ({self.replacements:,} "
                "times): their source has another encoding than UTF-8 or half surrogate pairs; convert it anew"
            )
        return sentences

    def with_batch(self, **more: Any) -> TextCounts:
        """Add the counts of a batch of documents."""
        control = dict(self.control)
        for string, n in more.pop("control").items():
            control[string] = control.get(string, 0) + n
        example = self.lossy_example or more.pop("lossy_example")
        more.pop("lossy_example", None)
        sums = {name: getattr(self, name) + n for name, n in more.items()}
        return replace(self, **sums, control=control, lossy_example=example)


def document_bytes(document: str) -> int:
    """Count the UTF-8 bytes of a document and its line end."""
    return len(document.encode("utf-8")) + 1


@dataclass
class Tokenised:
    """A text that is tokenised batch by batch, and counted on the way.

    Attributes:
        texts: the documents, see ``text_reading.as_read``.
        vocabulary: the tokenizer.
        control_strings: what literal control strings are read as, see ``text_reading``.
        checks_round_trip: whether documents are decoded again and compared.
        counts: sizes of what has been read so far.
    """

    texts: Texts
    vocabulary: Vocabulary
    control_strings: str = TOKENS
    checks_round_trip: bool = False
    counts: TextCounts = TextCounts(0, 0, 0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield token ids of batches of documents, each document closed by the end-of-text token, if there is one."""
        tokenizer = tokenizer_of(self.vocabulary, self.control_strings)
        end = end_token(self.vocabulary)
        unknown = list(self.vocabulary.unknown_ids)
        documents = iter(self.texts)
        while batch := list(itertools.islice(documents, BATCH_DOCUMENTS)):
            encoded = [encoding.ids for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]
            stream: list[int] = []
            stops: list[int] = []
            for own in encoded:
                stream += own
                if end is not None:
                    stream.append(end)
                stops.append(len(stream))
            ids = np.asarray(stream, dtype=np.int64)
            control, with_control = self._control(batch, ids, np.asarray(stops), has_end=end is not None)
            replacements = [document.count(REPLACEMENT) for document in batch]
            control_bytes = sum(n * len(string.encode()) for string, n in control.items())
            self.counts = self.counts.with_batch(
                documents=len(batch),
                tokens=len(ids),
                bytes=sum(map(document_bytes, batch)) - control_bytes,
                unknown=int(np.isin(ids, unknown).sum()),
                control=control,
                control_documents=with_control,
                replacements=sum(replacements),
                replaced_documents=sum(map(bool, replacements)),
                **self._round_trips(batch, encoded),
            )
            yield ids

    def _control(
        self, batch: Sequence[str], ids: np.ndarray, stops: np.ndarray, *, has_end: bool
    ) -> tuple[dict[str, int], int]:
        """Count literal control strings that were read as tokens, by string, and the documents with any."""
        strings = {i: string for string, i in self.vocabulary.control_strings.items()}
        if self.control_strings == TEXT or not strings:
            return {}, 0
        is_control = np.isin(ids, np.fromiter(strings, dtype=np.int64))
        if has_end:
            is_control[stops - 1] = False  # put there, not spelt in the document
        places = np.flatnonzero(is_control)
        owners = np.searchsorted(stops, places, side="right")
        pairs, numbers = np.unique(np.stack([owners, ids[places]]), axis=1, return_counts=True)
        counts: dict[str, int] = {}
        with_control = set()
        for owner, token_id, number in zip(*pairs.tolist(), numbers.tolist(), strict=True):
            # The unknown token stands for words too: it is literal only as often as its string is in the document.
            n = min(number, batch[owner].count(strings[token_id]))
            if n:
                counts[strings[token_id]] = counts.get(strings[token_id], 0) + n
                with_control.add(owner)
        return counts, len(with_control)

    def _round_trips(self, batch: Sequence[str], encoded: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Count documents that decode to another text than they were."""
        sums: dict[str, Any] = dict.fromkeys(("checked", "lossy", "checked_bytes", "lossy_bytes"), 0)
        sums["lossy_example"] = ""
        if not self.checks_round_trip:
            return sums
        for number, (document, ids) in enumerate(zip(batch, encoded, strict=True), self.counts.documents):
            is_due = number < FULLY_CHECKED_DOCUMENTS or number % CHECKED_SHARE == 0
            if not is_due:
                continue
            size = document_bytes(document)
            sums["checked"] += 1
            sums["checked_bytes"] += size
            part, part_ids = self._checked_part(document, ids)
            decoded = decoded_alike(self.vocabulary, part, part_ids)
            if decoded is not None:
                sums["lossy"] += 1
                sums["lossy_bytes"] += size
                sums["lossy_example"] = sums["lossy_example"] or where_changed(part, decoded)
        return sums

    def _checked_part(self, document: str, ids: Sequence[int]) -> tuple[str, Sequence[int]]:
        """Return a document and its ids, or its beginning and the ids of that where it is too long to be checked."""
        if len(document) <= LONGEST_CHECKED:
            return document, ids
        part = document[:LONGEST_CHECKED]
        part = part.rstrip() or part  # blanks before the cut are within the document, not at its end
        tokenizer = tokenizer_of(self.vocabulary, self.control_strings)
        return part, tokenizer.encode(part, add_special_tokens=False).ids


def decoded_alike(vocabulary: Vocabulary, document: str, ids: Sequence[int]) -> str | None:
    """Decode the ids of a document; ``None`` where that gives the document, one blank at its beginning apart.

    A tokenizer's own decoder may tidy up what its tokens state exactly, so the bytes of the tokens count as well.
    """
    decoded = str(vocabulary.tokenizer.decode(list(ids), skip_special_tokens=False))
    data = b"".join(vocabulary.token_bytes[i] for i in ids)
    original = document.encode()
    same = any(found in (original, b" " + original) or b" " + found == original for found in (decoded.encode(), data))
    return None if same else decoded


def common_prefix(one: str, other: str) -> int:
    """Count the characters that two strings begin with alike."""
    shorter = min(len(one), len(other))
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), shorter)


def where_changed(document: str, decoded: str) -> str:
    """Show the first place at which a decoded document differs, one blank at its beginning apart."""
    decoded = max(decoded, decoded.removeprefix(" "), f" {decoded}", key=lambda each: common_prefix(document, each))
    first = common_prefix(document, decoded)
    start = max(0, first - SHOWN_CHARACTERS // 2)
    shown = slice(start, start + SHOWN_CHARACTERS)
    return f"{document[shown]!r} becomes {decoded[shown]!r}"


def token_stream(
    texts: Texts, vocabulary: Vocabulary, control_strings: str = TOKENS, *, checks_round_trip: bool = False
) -> tuple[np.ndarray, TextCounts]:
    """Tokenise a whole text into one stream of token ids ``[tokens]``, and count its sizes.

    Args:
        texts: the documents.
        vocabulary: the tokenizer.
        control_strings: what literal control strings are read as, see ``text_reading``.
        checks_round_trip: whether documents are decoded again and compared.

    Raises:
        InputError: a text cannot be read.
    """
    text = Tokenised(as_read(texts, vocabulary, control_strings), vocabulary, control_strings, checks_round_trip)
    return np.concatenate(list(text)), text.counts


def pack(streams: Iterator[np.ndarray], block_length: int) -> Iterator[np.ndarray]:
    """Cut streams of ids, joined, into blocks of ``block_length``; the last block may be shorter. No token is lost."""
    rest = np.zeros(0, dtype=np.int64)
    for ids in streams:
        joined = np.concatenate([rest, ids])
        whole = len(joined) // block_length * block_length
        yield from joined[:whole].reshape(-1, block_length)
        rest = joined[whole:]
    if len(rest):
        yield rest


def stored_length(block_length: int, start: int | None) -> int:
    """Count the text tokens of a block: one fewer where the block begins with a start token."""
    return block_length if start is None else block_length - 1


def packed_blocks(
    texts: Texts,
    vocabulary: Vocabulary,
    block_length: int,
    cache: Path,
    *,
    start: int | None = None,
    control_strings: str = TOKENS,
    key: str = "",
) -> tuple[Dataset, TextCounts]:
    """Tokenise and pack a text into a dataset of blocks of ``input_ids``, made once and cached by content.

    The last block may be shorter than the others.

    Args:
        texts: the documents.
        vocabulary: the tokenizer.
        block_length: tokens per block, the start token included, which is not stored.
        cache: where blocks are kept.
        start: the token that every block begins with, or ``None``.
        control_strings: what literal control strings are read as, see ``text_reading``.
        key: ``content_key`` of the same, where it is known already: it takes as long as reading the text.

    Raises:
        InputError: a text cannot be read, or the disk is too full.
    """
    key = key or content_key(texts, vocabulary, block_length, start=start, control_strings=control_strings)
    folder = blocks_folder(cache, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / COUNTS_FILE).is_file():
            check_disk(cache, int(texts.text_bytes * CACHE_BYTES_PER_BYTE))
            part = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                write_blocks(texts, vocabulary, stored_length(block_length, start), part, control_strings)
                os.replace(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    return open_packed(cache, key)


def blocks_folder(cache: Path, key: str) -> Path:
    """Return where the blocks of a text are kept, by its ``content_key``."""
    return cache / "blocks" / hashlib.blake2b(f"{COUNTS_VERSION}\0{key}".encode(), digest_size=16).hexdigest()


def open_packed(cache: Path, key: str, wait_s: float = SHARED_DISK_S) -> tuple[Dataset, TextCounts]:
    """Open the blocks that ``packed_blocks`` has made, perhaps a moment ago on another machine.

    Args:
        cache: where blocks are kept.
        key: ``content_key`` of the text.
        wait_s: how long a shared disk may take to show them.

    Raises:
        ClpError: they are not to be seen.
    """
    from datasets import Dataset

    folder = blocks_folder(cache, key)
    until = time.monotonic() + wait_s
    while not (folder / COUNTS_FILE).is_file():
        if time.monotonic() > until:
            raise ClpError(
                f"{folder} was made by the first process and does not show on {socket.gethostname()}; put the "
                "workspace on a disk that all machines share, and resume the run"
            )
        time.sleep(POLL_S)
    dataset = Dataset.from_file(str(folder / BLOCKS_FILE))
    return dataset.with_format("numpy"), TextCounts(**read_json(folder / COUNTS_FILE))


def write_blocks(
    texts: Texts, vocabulary: Vocabulary, length: int, folder: Path, control_strings: str = TOKENS
) -> None:
    """Tokenise and pack a text into an Arrow file, row by row, with its counts beside it."""
    from datasets import Features, Value
    from datasets import Sequence as ListOf
    from datasets.arrow_writer import ArrowWriter

    size = max(texts.text_bytes, 1)
    text = Tokenised(as_read(texts, vocabulary, control_strings), vocabulary, control_strings)

    def streams() -> Iterator[np.ndarray]:
        for ids in text:
            report_progress("tokenising the text", min(1.0, text.counts.bytes / size) if texts.is_local else None)
            yield ids

    features = Features({"input_ids": ListOf(Value("int32"))})
    with ArrowWriter(features=features, path=str(folder / BLOCKS_FILE)) as writer:
        for block in pack(streams(), length):
            writer.write({"input_ids": block.astype(np.int32)})
        writer.finalize()
    (folder / COUNTS_FILE).write_text(json.dumps(asdict(text.counts)))


def content_key(
    texts: Texts,
    vocabulary: Vocabulary,
    block_length: int,
    *,
    start: int | None = None,
    control_strings: str = TOKENS,
) -> str:
    """Name a text under a tokenizer: a hash of the text's bytes, the tokenizer, the blocks and how the text is read.

    What is read as by default keeps the name it had before there was a choice, so that runs made then can be resumed.
    """
    digest = hashlib.blake2b(f"2\0{block_length}\0{vocabulary.serialized}".encode(), digest_size=16)
    digest.update(json.dumps(vocabulary.roles, sort_keys=True).encode())
    digest.update(texts.content().encode())
    digest.update(reading_key(start, control_strings).encode())
    return digest.hexdigest()


def reading_key(start: int | None, control_strings: str) -> str:
    """Name how a text is read; empty where no block has a start token and control strings are tokens."""
    return "" if start is None and control_strings == TOKENS else json.dumps([start, control_strings])


def counts_of_beginning(
    texts: Texts, vocabulary: Vocabulary, control_strings: str = TOKENS, sample_bytes: int = SAMPLE_BYTES
) -> tuple[TextCounts, bool]:
    """Count the first bytes of a text, and say whether that is all of it."""
    text = Tokenised(as_read(texts, vocabulary, control_strings), vocabulary, control_strings)
    is_whole = all(text.counts.bytes < sample_bytes for _ in text)
    return text.counts, is_whole


def estimate_tokens(texts: Texts, vocabulary: Vocabulary, sample_bytes: int = SAMPLE_BYTES) -> int | None:
    """Estimate the tokens of a text from its size and the tokens of its first bytes.

    Returns:
        The tokens; ``None`` for a text whose size is not known before it is read.
    """
    if not texts.is_local:
        return None
    return estimated_tokens(texts, *counts_of_beginning(texts, vocabulary, sample_bytes=sample_bytes))


def estimated_tokens(texts: Texts, counts: TextCounts, is_whole: bool) -> int:
    """Estimate the tokens of a text from the counts of its beginning."""
    # Compressed files are taken at their usual ratio, as reading them whole would take too long here.
    return counts.tokens if is_whole else math.ceil(texts.text_bytes / counts.bytes_per_token)


def stream_fingerprint(texts: Texts, start: int | None = None, control_strings: str = TOKENS) -> str:
    """Name the present content of a text without reading it (of files paths, sizes and times), and how it is read."""
    digest = hashlib.blake2b(reading_key(start, control_strings).encode(), digest_size=16)
    for source in texts.sources:
        if isinstance(source, TextFile):
            status = source.path.stat()
            path = os.fsencode(source.path.resolve())  # a file name need not be UTF-8
            told = path + f"\0{status.st_size}\0{status.st_mtime_ns}".encode()
        else:
            told = source.content().encode()
        digest.update(told + b"\n")
    return digest.hexdigest()
