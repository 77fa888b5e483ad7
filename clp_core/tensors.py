"""Safetensors files by rows: read some rows of one tensor, hash a tensor.

The library's own reader maps the file, which counts against the process. Here rows are read with ``pread``, so memory
does not grow with the checkpoint; ``shards`` writes files the same way.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import xxhash

from clp_core.errors import InputError
from clp_core.safetensors_header import LENGTH_BYTES, header_length, parse_header

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Data types of matrices that rows are made for."""
INTEGERS: dict[str, np.dtype[Any]] = {"I64": np.dtype(np.int64), "I32": np.dtype(np.int32)}
LFS_POINTER = b"version https://git-lfs"
COPY_BYTES = 8 << 20
READ_BYTES = 1 << 30  # Linux reads less than 2 GiB at once
BLOCK_BYTES = 64 << 20


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


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a safetensors file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def n_bytes(self) -> int:
        """Size of the data in bytes."""
        return self.stop - self.start


@dataclass(frozen=True)
class TensorRows:
    """The rows of one matrix in a safetensors file, read with ``pread``."""

    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.entry.shape[0], self.entry.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type in the file."""
        return DTYPES[self.entry.dtype]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` in the file's own data type."""
        with open(self.entry.path, "rb") as file:
            return self._run(file.fileno(), start, stop - start)

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32."""
        return self.take_exact(ids).astype(np.float32, copy=False)

    def take_exact(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices in the file's own data type; ascending ones are read run by run."""
        ids = np.asarray(ids, dtype=np.int64)
        out = np.empty((len(ids), self.shape[1]), dtype=self.dtype)
        breaks = np.flatnonzero(np.diff(ids) != 1) + 1
        edges = [0, *breaks.tolist(), len(ids)]
        with open(self.entry.path, "rb") as file:
            for low, high in itertools.pairwise(edges):
                if high > low:
                    out[low:high] = self._run(file.fileno(), int(ids[low]), high - low)
        return out

    def _run(self, descriptor: int, first: int, count: int) -> np.ndarray:
        row_bytes = self.shape[1] * self.dtype.itemsize
        start, wanted = self.entry.start + first * row_bytes, count * row_bytes
        parts, done = [], 0
        while done < wanted:
            parts.append(os.pread(descriptor, min(wanted - done, READ_BYTES), start + done))
            if not parts[-1]:
                raise InputError(f"{self.entry.path} ends before {self.entry.name} does; fetch the file again")
            done += len(parts[-1])
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, dtype=self.dtype).reshape(count, self.shape[1])


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Return the tensors of a safetensors file in file order, and its metadata.

    Raises:
        InputError: the file is cut short, or not a valid safetensors file, see ``safetensors_header``.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            start = file.read(LENGTH_BYTES)
            if start == LFS_POINTER[:LENGTH_BYTES]:
                raise ValueError("a pointer of Git LFS, as git leaves it where the file itself was not fetched")
            length = header_length(start, size)
            places, metadata = parse_header(file.read(length))
    except ValueError as error:
        raise InputError(f"{path} is not a valid safetensors file ({error}); fetch it again") from error
    data = LENGTH_BYTES + length
    found = {
        place.name: TensorEntry(path, place.name, place.dtype, place.shape, data + place.start, data + place.stop)
        for place in places
    }
    for entry in found.values():
        if entry.stop > size:
            raise InputError(
                f"{path} is cut short: {entry.name!r} ends at byte {entry.stop} of {size}; fetch the file again"
            )
    end = max((entry.stop for entry in found.values()), default=data)
    if end < size:
        raise InputError(f"{path} has {size - end} bytes behind its last tensor; fetch the file again")
    return found, metadata


def content_of(rows: TensorRows) -> str:
    """Return the BLAKE2 hash of a matrix's bytes, by which caches and reports know it again."""
    digest = hashlib.blake2b(digest_size=16)
    with open(rows.entry.path, "rb") as reader:
        for data in chunks(reader, rows.entry.start, rows.entry.n_bytes):
            digest.update(data)
    return digest.hexdigest()


def tensor_digest(entry: TensorEntry) -> str:
    """Return the xxh3 of a tensor's bytes, as ``write_copy`` takes it."""
    digest = xxhash.xxh3_128()
    with open(entry.path, "rb") as reader:
        for data in chunks(reader, entry.start, entry.n_bytes):
            digest.update(data)
    return digest.hexdigest()


def all_finite(values: np.ndarray) -> bool:
    """Say whether no value of a contiguous array is NaN or infinite; 16-bit ones are judged by their exponents."""
    exponent = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}.get(values.dtype)
    if exponent is None:
        return bool(np.isfinite(values).all())
    return not bool(((values.view(np.uint16) & exponent) == exponent).any())


def chunks(reader: Any, start: int, n_bytes: int) -> Iterator[bytes]:
    """Read a range of an open file in pieces.

    Raises:
        InputError: the file ends before the range does.
    """
    reader.seek(start)
    left = n_bytes
    while left:
        data = reader.read(min(COPY_BYTES, left))
        if not data:
            raise InputError(f"{reader.name} ended while it was read; fetch the file again")
        yield data
        left -= len(data)
