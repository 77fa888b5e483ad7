"""Safetensors files by rows: read some rows of one tensor, write a file whose tensors come in pieces.

The library's own reader maps the file and its writer wants all tensors in memory; both count against the process. Here
rows are read with ``pread`` and a file is written front to back, so memory does not grow with the checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import xxhash

from clp_core.errors import InputError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
COPY_BYTES = 8 << 20
READ_BYTES = 1 << 30  # Linux reads less than 2 GiB at once
BLOCK_BYTES = 64 << 20
CLONE_REQUEST = 0x40049409  # FICLONE of Linux


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
        InputError: the file is truncated or no safetensors file.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        found = [
            TensorEntry(
                path,
                name,
                item["dtype"],
                tuple(item["shape"]),
                *(8 + length + offset for offset in item["data_offsets"]),
            )
            for name, item in header.items()
        ]
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no whole safetensors file ({error}); fetch it again") from error
    for entry in found:
        if entry.stop > size:
            raise InputError(
                f"{path} is cut short: {entry.name} ends at byte {entry.stop} of {size}; fetch the file again"
            )
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.start)}, metadata


@dataclass(frozen=True)
class Replacement:
    """A tensor that is written anew: its data type and shape, and its rows in order."""

    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]

    @property
    def n_bytes(self) -> int:
        """Size of the data in bytes."""
        return int(np.prod(self.shape)) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Copied:
    """What was seen while a file was copied.

    Attributes:
        n_bytes: tensor data written, in bytes.
        sha256: of the whole source file.
        digests: xxh3 of every tensor that was copied as it is, by its name.
    """

    n_bytes: int
    sha256: str
    digests: dict[str, str]


def write_copy(
    source: Path,
    target: Path,
    replaced: Mapping[str, Replacement],
    dropped: frozenset[str] = frozenset(),
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Copied:
    """Write a safetensors file with some tensors replaced and some dropped; all other bytes are copied as they are.

    The source is read once, front to back, and hashed on the way. A file that stays as it is is cloned where the file
    system can do that (never linked: an edit of the copy must not reach the source), and then only read.

    Args:
        source: the file.
        target: the file to write.
        replaced: new tensors by name.
        dropped: names of tensors that are left out.
        on_bytes: called with the number of source bytes of each step.
    """
    entries, metadata = read_header(source)
    kept = [entry for name, entry in entries.items() if name not in dropped]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for entry in kept:
        new = replaced.get(entry.name)
        dtype, shape, n_bytes = (
            (new.dtype, new.shape, new.n_bytes) if new else (entry.dtype, entry.shape, entry.n_bytes)
        )
        header[entry.name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    changed = dropped | set(replaced)
    with open(source, "rb") as reader, open(target, "wb") as writer, Sha256Thread() as whole:
        cloned = not changed & set(entries) and clone(reader, writer)
        if not cloned:
            write_header(writer, header)
        digests = {}
        position = 0
        for entry in entries.values():
            for data in chunks(reader, position, entry.start - position):  # the header, and what no tensor claims
                whole.update(data)
            position = entry.stop
            if entry.name in changed:
                whole.update_range(entry)  # hashed beside the making of the new rows
                if entry.name in replaced:
                    write_blocks(writer, entry.name, replaced[entry.name])
                on_bytes(entry.n_bytes)
                continue
            digest = xxhash.xxh3_128()
            for data in chunks(reader, entry.start, entry.n_bytes):
                whole.update(data)
                digest.update(data)
                if not cloned:
                    writer.write(data)
                on_bytes(len(data))
            digests[entry.name] = digest.hexdigest()
        for data in chunks(reader, position, source.stat().st_size - position):
            whole.update(data)
        writer.flush()
        os.fsync(writer.fileno())
    return Copied(offset, whole.hexdigest(), digests)


def write_header(writer: Any, header: Mapping[str, Any]) -> None:
    """Write the header of a safetensors file, filled up with blanks to a multiple of 8 bytes."""
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    writer.write(struct.pack("<Q", len(encoded)) + encoded)


def clone(reader: Any, writer: Any) -> bool:
    """Make an empty file share another one's blocks until one of them is written; say whether that worked."""
    try:
        fcntl.ioctl(writer.fileno(), CLONE_REQUEST, reader.fileno())
    except OSError:
        return False
    return True


class Sha256Thread:
    """A SHA-256 that is computed beside the reading and writing."""

    def __init__(self) -> None:
        """Start with nothing hashed."""
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[bytes | TensorEntry | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Sha256Thread:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread once all is hashed."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._take(data)
            except (OSError, InputError) as error:
                self._error = error

    def _take(self, data: bytes | TensorEntry) -> None:
        if isinstance(data, bytes):
            self._digest.update(data)
            return
        with open(data.path, "rb") as reader:
            for piece in chunks(reader, data.start, data.n_bytes):
                self._digest.update(piece)

    def update(self, data: bytes) -> None:
        """Hash data, in the order in which it comes."""
        self._queue.put(data)

    def update_range(self, entry: TensorEntry) -> None:
        """Read a tensor's bytes in the thread and hash them, in their turn."""
        self._queue.put(entry)

    def hexdigest(self) -> str:
        """Return the hash; to be asked once the block is left.

        Raises:
            InputError: a range could not be read.
        """
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()


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


def write_blocks(writer: Any, name: str, new: Replacement) -> None:
    """Write the blocks of a replaced tensor in its data type.

    Raises:
        InputError: a value is not finite in that data type.
    """
    dtype = DTYPES[new.dtype]
    written = 0
    for block in new.blocks:
        with np.errstate(over="ignore"):
            data = np.ascontiguousarray(block).astype(dtype, copy=False)
        if not all_finite(data):
            raise InputError(
                f"a row of {name} is not finite as {dtype}: the source's own rows are not, or the method overflows "
                "(then choose another, such as --method linear)"
            )
        writer.write(data.view(np.uint8))
        written += data.nbytes
    if written != new.n_bytes:
        raise ValueError(f"{name}: {written} bytes came, {new.n_bytes} were announced")
