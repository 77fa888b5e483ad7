"""The blocks of a training text in the order of a run: shuffled from a cache, or streamed as they come.

Both are map-style datasets of which every process reads its part in ascending order, so a resumed run goes on at its
place without reading what came before from a model's point of view: the same block stands at the same number always.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from clp_core.data.packing import TextCounts, Tokenised, pack, stored_length
from clp_core.data.text_sources import Texts, as_read
from clp_core.errors import InputError
from clp_core.tokenization.text_reading import TOKENS
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED_LABEL = -100
KEPT_PASSES = 2

Row = dict[str, np.ndarray]


def training_row(block: np.ndarray, block_length: int, padding: int, start: int | None = None) -> Row:
    """Make inputs and labels of a block, int64 ``[block_length]``.

    The first token of a row is never predicted, so it has no label: whoever counts labels counts predictions. A short
    block is filled up at its end, where no loss looks.

    Args:
        block: ids of the text, ``[n]``.
        block_length: tokens per row.
        padding: id that fills up a short block.
        start: id that is put before the block, or ``None``.
    """
    ids = block.astype(np.int64)
    if start is not None:
        ids = np.concatenate([[start], ids])
    missing = block_length - len(ids)
    labels = np.concatenate([ids, np.full(missing, IGNORED_LABEL)])
    labels[0] = IGNORED_LABEL
    return {"input_ids": np.concatenate([ids, np.full(missing, padding)]) if missing else ids, "labels": labels}


def padding_of(vocabulary: Vocabulary) -> int:
    """Return the id that fills up a short block."""
    return vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0))


class ShuffledBlocks:
    """Cached blocks, pass after pass, each pass in an order of its own."""

    def __init__(
        self,
        dataset: Dataset,
        counts: TextCounts,
        block_length: int,
        padding: int,
        wanted: int,
        seed: int,
        start: int | None = None,
    ) -> None:
        """Take the blocks, how many of them a run reads in all, and the token that each begins with, if any."""
        self.counts = counts
        self._start = start
        self._dataset, self._block_length, self._padding = dataset, block_length, padding
        self._wanted, self._seed = wanted, seed
        self._order = lru_cache(KEPT_PASSES)(self._shuffled)

    def __len__(self) -> int:
        """Return how many blocks a run reads."""
        return self._wanted

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text per token of a block."""
        return self.counts.bytes_per_token * stored_length(self._block_length, self._start) / self._block_length

    def _shuffled(self, number: int) -> np.ndarray:
        return np.random.default_rng([self._seed, number]).permutation(len(self._dataset))

    def place(self, index: int) -> int:
        """Return which cached block is read as the one of this number."""
        number, within = divmod(index, len(self._dataset))
        return int(self._order(number)[within])

    def __getitem__(self, index: int) -> Row:
        """Return the block that is read as the one of this number."""
        block = self._dataset[self.place(index)]["input_ids"]
        return training_row(block, self._block_length, self._padding, self._start)


class StreamedBlocks:
    """Blocks made while they are read, in the order of the text, over and over; nothing is kept on disk."""

    def __init__(
        self,
        texts: Texts,
        vocabulary: Vocabulary,
        block_length: int,
        wanted: int,
        start: int | None = None,
        control_strings: str = TOKENS,
    ) -> None:
        """Take the text, how many blocks a run reads in all, the token that each begins with, and the reading."""
        self._texts = as_read(texts, vocabulary, control_strings)
        self._vocabulary, self._block_length, self._control_strings = vocabulary, block_length, control_strings
        self._wanted, self._start = wanted, start
        self._next = 0
        self._padding = padding_of(vocabulary)
        self._read = self._tokenised()
        self._blocks = self._all()

    def __len__(self) -> int:
        """Return how many blocks a run reads."""
        return self._wanted

    @property
    def counts(self) -> TextCounts:
        """Sizes of what has been read in this pass."""
        return self._read.counts

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text per token of a block."""
        return self.counts.bytes_per_token * stored_length(self._block_length, self._start) / self._block_length

    def _tokenised(self) -> Tokenised:
        return Tokenised(self._texts, self._vocabulary, self._control_strings)

    def _all(self) -> Iterator[np.ndarray]:
        is_empty = False
        while not is_empty:
            self._read, is_empty = self._tokenised(), True
            for block in pack(iter(self._read), stored_length(self._block_length, self._start)):
                is_empty = False
                yield block

    def __getitem__(self, index: int) -> Row:
        """Return the block of this number; those before it are passed over.

        Raises:
            InputError: that block has been passed already.
        """
        if index < self._next:
            raise InputError(f"the text is streamed: block {index} has been passed, {self._next} comes next")
        for block in self._blocks:
            self._next += 1
            if self._next > index:
                return training_row(block, self._block_length, self._padding, self._start)
        raise InputError("the streamed text holds no document; check its split and its field")


Blocks = ShuffledBlocks | StreamedBlocks
