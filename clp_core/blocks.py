"""The blocks of a training text in the order of a run: shuffled from a cache, or streamed as they come.

Both are map-style datasets of which every process reads its part in ascending order, so a resumed run goes on at its
place without reading what came before from a model's point of view: the same block stands at the same number always.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from clp_core.corpus import TextCounts, Tokenised, pack
from clp_core.documents import Texts
from clp_core.errors import InputError
from clp_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED_LABEL = -100
KEPT_PASSES = 2

Row = dict[str, np.ndarray]


def training_row(block: np.ndarray, block_length: int, padding: int) -> Row:
    """Return a block as inputs and labels, int64 ``[block_length]``; a short one is filled up where no loss looks."""
    ids = block.astype(np.int64)
    missing = block_length - len(ids)
    if not missing:
        return {"input_ids": ids, "labels": ids}
    return {
        "input_ids": np.concatenate([ids, np.full(missing, padding)]),
        "labels": np.concatenate([ids, np.full(missing, IGNORED_LABEL)]),
    }


def padding_of(vocabulary: Vocabulary) -> int:
    """Return the id that fills up a short block."""
    return vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0))


class ShuffledBlocks:
    """Cached blocks, pass after pass, each pass in an order of its own."""

    def __init__(
        self, dataset: Dataset, counts: TextCounts, block_length: int, padding: int, wanted: int, seed: int
    ) -> None:
        """Take the blocks, and how many of them a run reads in all."""
        self.counts = counts
        self._dataset, self._block_length, self._padding = dataset, block_length, padding
        self._wanted, self._seed = wanted, seed
        self._order = lru_cache(KEPT_PASSES)(self._shuffled)

    def __len__(self) -> int:
        """Return how many blocks a run reads."""
        return self._wanted

    def _shuffled(self, number: int) -> np.ndarray:
        return np.random.default_rng([self._seed, number]).permutation(len(self._dataset))

    def place(self, index: int) -> int:
        """Return which cached block is read as the one of this number."""
        number, within = divmod(index, len(self._dataset))
        return int(self._order(number)[within])

    def __getitem__(self, index: int) -> Row:
        """Return the block that is read as the one of this number."""
        return training_row(self._dataset[self.place(index)]["input_ids"], self._block_length, self._padding)


class StreamedBlocks:
    """Blocks made while they are read, in the order of the text, over and over; nothing is kept on disk."""

    def __init__(self, texts: Texts, vocabulary: Vocabulary, block_length: int, wanted: int) -> None:
        """Take the text, and how many blocks a run reads in all."""
        self._texts, self._vocabulary, self._block_length = texts, vocabulary, block_length
        self._wanted = wanted
        self._next = 0
        self._padding = padding_of(vocabulary)
        self._read = Tokenised(texts, vocabulary)
        self._blocks = self._all()

    def __len__(self) -> int:
        """Return how many blocks a run reads."""
        return self._wanted

    @property
    def counts(self) -> TextCounts:
        """Sizes of what has been read in this pass."""
        return self._read.counts

    def _all(self) -> Iterator[np.ndarray]:
        is_empty = False
        while not is_empty:
            self._read, is_empty = Tokenised(self._texts, self._vocabulary), True
            for block in pack(iter(self._read), self._block_length):
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
                return training_row(block, self._block_length, self._padding)
        raise InputError("the streamed text holds no document; check its split and its field")


Blocks = ShuffledBlocks | StreamedBlocks
