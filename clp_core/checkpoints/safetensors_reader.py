"""Safetensors files by rows: read some rows of one tensor, hash a tensor.

The library's own reader maps the file, which counts against the process. Here rows are read with ``pread``, so memory
does not grow with the checkpoint; ``safetensors_writer`` writes files the same way.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import xxhash

from clp_core.checkpoints.safetensors_header import LENGTH_BYTES, header_length, parse_header
from clp_core.errors import InputError

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
GAP_BYTES = 32 << 10
"""What lies between two rows is read with them up to this size: less work than another read."""
READ_BYTES = 1 << 30  # Linux reads less than 2 GiB at once


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
        """Return the rows with these indices in the file's own data type.

        They are read in the order of the file, near ones in one go with what lies between them.
        """
        ids = np.asarray(ids, dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        row_bytes = max(self.shape[1] * self.dtype.itemsize, 1)
        is_far = np.diff(ordered) > max(GAP_BYTES // row_bytes, 1)
        is_long = np.diff(ordered // max(COPY_BYTES // row_bytes, 1)) != 0
        edges = [0, *(np.flatnonzero(is_far | is_long) + 1).tolist(), len(ids)]
        out = np.empty((len(ids), self.shape[1]), dtype=self.dtype)
        with open(self.entry.path, "rb") as file:
            for low, high in itertools.pairwise(edges):
                if high > low:
                    first, last = int(ordered[low]), int(ordered[high - 1])
                    out[order[low:high]] = self._run(file.fileno(), first, last - first + 1)[ordered[low:high] - first]
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
