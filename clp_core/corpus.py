"""From text to tokenised, packed blocks, with the bytes of the text counted.

Every document ends with the end-of-text token, which stands for its line end. So the bytes of a text are the UTF-8
bytes of its documents, one line end each included. Documents are joined and cut into blocks: nothing is padded but the
end of the last block, and no token is lost.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from clp_core.documents import TextFile, Texts
from clp_core.folders import check_disk
from clp_core.locate import read_json
from clp_core.progress import report_progress
from clp_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_DOCUMENTS = 1000
POLL_S = 0.5
COUNTS_FILE = "counts.json"
BLOCKS_FILE = "blocks.arrow"
CACHE_BYTES_PER_BYTE = 4
"""An id takes four bytes, and stands for at least one of the text."""


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


def document_bytes(document: str) -> int:
    """Return the UTF-8 bytes of a document and its line end."""
    return len(document.encode("utf-8")) + 1


@dataclass
class Tokenised:
    """A text that is tokenised batch by batch, and counted on the way.

    Attributes:
        texts: the documents.
        vocabulary: the tokenizer.
        counts: sizes of what has been read so far.
    """

    texts: Texts
    vocabulary: Vocabulary
    counts: TextCounts = TextCounts(0, 0, 0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield token ids of batches of documents, each document closed by the end-of-text token, if there is one."""
        roles = self.vocabulary.roles
        end = roles.get("eos", roles.get("sep"))
        # A tokenizer may give one token both roles; an end of text is not an unknown word.
        unknown = roles.get("unk", -1) if roles.get("unk") != end else -1
        documents = iter(self.texts)
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


def token_stream(texts: Texts, vocabulary: Vocabulary) -> tuple[np.ndarray, TextCounts]:
    """Return a whole text as one stream of token ids ``[tokens]``, and its sizes."""
    text = Tokenised(texts, vocabulary)
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


def packed_blocks(
    texts: Texts, vocabulary: Vocabulary, block_length: int, cache: Path, *, made_elsewhere: bool = False
) -> tuple[Dataset, TextCounts]:
    """Return a text as a dataset of blocks of ``input_ids``, made once and cached by content.

    The last block may be shorter than ``block_length``.

    Args:
        texts: the documents.
        vocabulary: the tokenizer.
        block_length: tokens a block.
        cache: where blocks are kept.
        made_elsewhere: wait until another process has made them, on another machine perhaps, where no lock is seen.

    Raises:
        InputError: a text cannot be read, or the disk is too full.
    """
    from datasets import Dataset

    folder = cache / "blocks" / content_key(texts, vocabulary, block_length)
    folder.parent.mkdir(parents=True, exist_ok=True)
    while made_elsewhere and not (folder / COUNTS_FILE).is_file():
        time.sleep(POLL_S)
    with FileLock(f"{folder}.lock"):
        if not (folder / COUNTS_FILE).is_file():
            check_disk(cache, int(texts.text_bytes * CACHE_BYTES_PER_BYTE))
            part = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                write_blocks(texts, vocabulary, block_length, part)
                os.replace(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    dataset = Dataset.from_file(str(folder / BLOCKS_FILE))
    return dataset.with_format("numpy"), TextCounts(**read_json(folder / COUNTS_FILE))


def write_blocks(texts: Texts, vocabulary: Vocabulary, block_length: int, folder: Path) -> None:
    """Tokenise and pack a text into an Arrow file, row by row, with its counts beside it."""
    from datasets import Features, Value
    from datasets import Sequence as ListOf
    from datasets.arrow_writer import ArrowWriter

    size = max(texts.text_bytes, 1)
    text = Tokenised(texts, vocabulary)

    def streams() -> Iterator[np.ndarray]:
        for ids in text:
            report_progress("tokenising the text", min(1.0, text.counts.bytes / size) if texts.is_local else None)
            yield ids

    features = Features({"input_ids": ListOf(Value("int32"))})
    with ArrowWriter(features=features, path=str(folder / BLOCKS_FILE)) as writer:
        for block in pack(streams(), block_length):
            writer.write({"input_ids": block.astype(np.int32)})
        writer.finalize()
    (folder / COUNTS_FILE).write_text(json.dumps(asdict(text.counts)))


def content_key(texts: Texts, vocabulary: Vocabulary, block_length: int) -> str:
    """Return a name for a text under a tokenizer: a hash of the text's bytes, the tokenizer and the block length."""
    digest = hashlib.blake2b(f"2\0{block_length}\0{vocabulary.serialized}".encode(), digest_size=16)
    digest.update(json.dumps(vocabulary.roles, sort_keys=True).encode())
    digest.update(texts.content().encode())
    return digest.hexdigest()


def estimate_tokens(texts: Texts, vocabulary: Vocabulary, sample_bytes: int = 200_000) -> int | None:
    """Estimate the tokens of a text from its size and the tokens of its first bytes.

    Returns:
        The tokens; ``None`` for a text whose size is not known before it is read.
    """
    if not texts.is_local:
        return None
    text = Tokenised(texts, vocabulary)
    is_whole = all(text.counts.bytes < sample_bytes for _ in text)
    if is_whole:
        return text.counts.tokens
    # Compressed files are taken at their usual ratio, as reading them whole would take too long here.
    return math.ceil(texts.text_bytes / text.counts.bytes_per_token)


def stream_fingerprint(texts: Texts) -> str:
    """Return a name for the present content of a text without reading it: of files their paths, sizes and times."""
    digest = hashlib.blake2b(digest_size=16)
    for source in texts.sources:
        if isinstance(source, TextFile):
            status = source.path.stat()
            told = f"{source.path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        else:
            told = source.content()
        digest.update(f"{told}\n".encode())
    return digest.hexdigest()
