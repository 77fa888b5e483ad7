"""From text to tokenised, packed blocks, with the bytes of the text counted.

A text file holds one document a line; empty lines are skipped. Every document ends with the end-of-text token, which
stands for its line end. So the bytes of a text are the UTF-8 bytes of its non-empty lines, one line end each included.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import lzma
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from clp_core.errors import InputError
from clp_core.folders import check_disk
from clp_core.locate import read_json
from clp_core.progress import report_progress
from clp_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
BATCH_DOCUMENTS = 1000
IGNORED_LABEL = -100
COUNTS_FILE = "counts.json"
BLOCKS_FILE = "blocks.arrow"


@dataclass(frozen=True)
class TextCounts:
    """Sizes of a tokenised text.

    Attributes:
        documents: number of documents.
        tokens: tokens, the end of each document included.
        bytes: UTF-8 bytes, the line end of each document included.
        unknown: how many of the tokens are the unknown token.
    """

    documents: int
    tokens: int
    bytes: int
    unknown: int

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes a token stands for."""
        return self.bytes / max(self.tokens, 1)

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are the unknown token."""
        return self.unknown / max(self.tokens, 1)


def check_texts(paths: Sequence[Path]) -> None:
    """Refuse texts that cannot be read.

    Raises:
        InputError: no text is named, or one is missing, empty or no UTF-8 at its start.
    """
    if not paths:
        raise InputError("no text is named; give --text FILE")
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a text file in it")
        if not path.is_file():
            raise InputError(f"there is no text {path}; check the path")
        if next(read_documents([path]), None) is None:
            raise InputError(f"{path} holds no text; give a file with one document a line")


def read_documents(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the non-empty lines of text files, plain, ``.xz`` or ``.gz``.

    Raises:
        InputError: a file is no UTF-8 text.
    """
    for path in paths:
        try:
            with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
                for line in file:
                    document = line.rstrip("\r\n")
                    if document.strip():
                        yield document
        except (UnicodeDecodeError, lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
            raise InputError(f"{path} is no UTF-8 text ({error}); convert it first") from error


def document_bytes(document: str) -> int:
    """Return the UTF-8 bytes of a document and its line end."""
    return len(document.encode("utf-8")) + 1


@dataclass
class Tokenised:
    """A text that is tokenised batch by batch, and counted on the way.

    Attributes:
        paths: the text files.
        vocabulary: the tokenizer.
        counts: sizes of what has been read so far.
    """

    paths: Sequence[Path]
    vocabulary: Vocabulary
    counts: TextCounts = TextCounts(0, 0, 0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield token ids of batches of documents, each document closed by the end-of-text token, if there is one."""
        roles = self.vocabulary.roles
        end = roles.get("eos", roles.get("sep"))
        # A tokenizer may give one token both roles; an end of text is not an unknown word.
        unknown = roles.get("unk", -1) if roles.get("unk") != end else -1
        documents = read_documents(self.paths)
        while batch := list(itertools.islice(documents, BATCH_DOCUMENTS)):
            stream: list[int] = []
            for encoding in self.vocabulary.tokenizer.encode_batch(batch, add_special_tokens=False):
                stream += encoding.ids
                if end is not None:
                    stream.append(end)
            ids = np.asarray(stream, dtype=np.int64)
            self.counts = TextCounts(
                documents=self.counts.documents + len(batch),
                tokens=self.counts.tokens + len(ids),
                bytes=self.counts.bytes + sum(map(document_bytes, batch)),
                unknown=self.counts.unknown + int((ids == unknown).sum()),
            )
            yield ids


def token_stream(paths: Sequence[Path], vocabulary: Vocabulary) -> tuple[np.ndarray, TextCounts]:
    """Return a whole text as one stream of token ids ``[tokens]``, and its sizes.

    Raises:
        InputError: the text is missing or empty.
    """
    check_texts(paths)
    text = Tokenised(paths, vocabulary)
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


def block_rows(blocks: Iterator[np.ndarray], block_length: int, padding: int) -> Iterator[dict[str, list[int]]]:
    """Yield blocks as training rows; the last one is filled up with tokens that no loss looks at."""
    for block in blocks:
        missing = block_length - len(block)
        ids = block.tolist()
        yield {"input_ids": ids + [padding] * missing, "labels": ids + [IGNORED_LABEL] * missing}


def packed_blocks(
    paths: Sequence[Path], vocabulary: Vocabulary, block_length: int, cache: Path
) -> tuple[Dataset, TextCounts]:
    """Return a text as a dataset of blocks with ``input_ids`` and ``labels``, made once and cached by content.

    Raises:
        InputError: the text is missing or empty, or the disk is too full.
    """
    from datasets import Dataset

    check_texts(paths)
    folder = cache / "blocks" / content_key(paths, vocabulary, block_length)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / COUNTS_FILE).is_file():
            check_disk(cache, sum(path.stat().st_size for path in paths) * 8)
            part = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                write_blocks(paths, vocabulary, block_length, part)
                os.replace(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    dataset = Dataset.from_file(str(folder / BLOCKS_FILE))
    return dataset.with_format("torch"), TextCounts(**read_json(folder / COUNTS_FILE))


def write_blocks(paths: Sequence[Path], vocabulary: Vocabulary, block_length: int, folder: Path) -> None:
    """Tokenise and pack a text into an Arrow file, row by row, with its counts beside it."""
    from datasets import Features, Value
    from datasets import Sequence as ListOf
    from datasets.arrow_writer import ArrowWriter

    size = max(sum(path.stat().st_size for path in paths), 1)
    text = Tokenised(paths, vocabulary)

    def streams() -> Iterator[np.ndarray]:
        for ids in text:
            report_progress("tokenising the text", min(1.0, text.counts.bytes / size))
            yield ids

    padding = vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0))
    features = Features({"input_ids": ListOf(Value("int32")), "labels": ListOf(Value("int32"))})
    with ArrowWriter(features=features, path=str(folder / BLOCKS_FILE)) as writer:
        for row in block_rows(pack(streams(), block_length), block_length, padding):
            writer.write(row)
        writer.finalize()
    (folder / COUNTS_FILE).write_text(json.dumps(asdict(text.counts)))


def content_key(paths: Sequence[Path], vocabulary: Vocabulary, block_length: int) -> str:
    """Return a name for a text under a tokenizer: a hash of the files' bytes, the tokenizer and the block length."""
    digest = hashlib.blake2b(f"1\0{block_length}\0{vocabulary.serialized}".encode(), digest_size=16)
    digest.update(json.dumps(vocabulary.roles, sort_keys=True).encode())
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def estimate_tokens(paths: Sequence[Path], vocabulary: Vocabulary, sample_bytes: int = 200_000) -> int:
    """Estimate the tokens of a text from its size and the tokens of its first bytes.

    Raises:
        InputError: the text is missing or empty.
    """
    check_texts(paths)
    text = Tokenised(paths, vocabulary)
    is_whole = all(text.counts.bytes < sample_bytes for _ in text)
    if is_whole:
        return text.counts.tokens
    # Compressed files are taken at their usual ratio, as reading them whole would take too long here.
    total = sum(path.stat().st_size * (3.7 if path.suffix in OPENERS else 1.0) for path in paths)
    return math.ceil(total / text.counts.bytes_per_token)
