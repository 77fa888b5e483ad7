"""Rows of matrices that need not be in memory: read by ids, and block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

BLOCK_BYTES = 16 << 20
"""Rows of which something is made at a time. The C library serves such arrays from memory that it has already."""
CACHE_BYTES = 1 << 30
"""Rows that are needed again are kept in memory up to this size, and read again block by block beyond it."""


class RowSource(Protocol):
    """Rows that are read in blocks: of a file, or of an array."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32 ``[len(ids), width]``."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows that lie in memory (or in a memory-mapped array)."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.array.shape[0], self.array.shape[1]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32."""
        is_run = len(ids) > 0 and ids[-1] - ids[0] == len(ids) - 1 and bool((np.diff(ids) == 1).all())
        rows = self.array[ids[0] : ids[-1] + 1] if is_run else self.array[ids]
        return np.asarray(rows).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Subset:
    """Some rows of a row source, numbered from 0 in the order of ``ids``."""

    rows: RowSource
    ids: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return len(self.ids), self.rows.shape[1]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32."""
        return self.rows.take(self.ids[ids])


@dataclass(frozen=True)
class JoinedRows:
    """Two row sources side by side, such as an output matrix and its bias as one more column."""

    left: RowSource
    right: RowSource

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.left.shape[0], self.left.shape[1] + self.right.shape[1]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32."""
        return np.concatenate([self.left.take(ids), self.right.take(ids)], axis=1)


def block_ranges(n_rows: int, width: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut ``n_rows`` float32 rows into slices of at most ``block_bytes`` (at least one row each)."""
    step = max(1, block_bytes // (4 * max(width, 1)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def row_blocks(rows: RowSource, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray]]:
    """Read all rows in order, in blocks of at most ``block_bytes`` of float32."""
    n_rows, width = rows.shape
    for part in block_ranges(n_rows, width, block_bytes):
        yield part, rows.take(np.arange(part.start, part.stop))


def fits_in_memory(n_rows: int, width: int) -> bool:
    """Say whether rows that are needed again are kept in memory in float32."""
    return 4 * n_rows * width <= CACHE_BYTES


def held_ranges(n_rows: int, width: int) -> list[slice]:
    """Return the rows that are held at a time: all of them where they fit in memory, else runs of a quarter of that."""
    if fits_in_memory(n_rows, width):
        return [slice(0, n_rows)]
    return list(block_ranges(n_rows, width, CACHE_BYTES // 4))


def in_memory(rows: RowSource) -> np.ndarray:
    """Read all rows, float32 ``[n, d]``."""
    array = np.empty(rows.shape, dtype=np.float32)
    for part, block in row_blocks(rows):
        array[part] = block
    return array


def non_finite_rows(rows: RowSource, ids: np.ndarray | None = None, block_bytes: int = BLOCK_BYTES) -> np.ndarray:
    """Find the rows that hold NaN or infinity, or whose squared length overflows float32.

    The rows are read block by block, so memory does not grow with the matrix.

    Args:
        rows: ``[n_rows, d]``.
        ids: the rows to check, ascending, ``[n]``; all of them by default.
        block_bytes: size of a block of float32.

    Returns:
        The indices among ``ids``, ascending, int64.
    """
    checked = np.arange(rows.shape[0]) if ids is None else np.asarray(ids, dtype=np.int64)
    found = [np.zeros(0, dtype=np.int64)]
    for part in block_ranges(len(checked), rows.shape[1], block_bytes):
        with np.errstate(over="ignore", invalid="ignore"):  # float64 rows may overflow when they are read as float32
            block = rows.take(checked[part])
            squares = np.einsum("nd,nd->n", block, block)
        found.append(checked[part][~np.isfinite(squares)])
    return np.concatenate(found)


def mean_row(rows: RowSource) -> np.ndarray:
    """Return the mean of all rows, float64 ``[width]``, summed block by block; zeros where there are none."""
    total = np.zeros(rows.shape[1])
    for _, block in row_blocks(rows):
        total += block.sum(axis=0, dtype=np.float64)
    return total / max(rows.shape[0], 1)
