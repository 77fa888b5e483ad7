"""Write safetensors files front to back: a copy of a file with some tensors replaced, hashed on the way."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from clp_core.checkpoints.finite import CURE, NonFiniteError
from clp_core.checkpoints.safetensors_reader import DTYPES, INTEGERS, TensorEntry, all_finite, chunks, read_header
from clp_core.errors import InputError

CLONE_REQUEST = 0x40049409  # FICLONE of Linux


@dataclass(frozen=True)
class Replacement:
    """A tensor that is written anew: its data type and shape, and its rows in order."""

    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[np.ndarray]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Data type of its values."""
        return (DTYPES | INTEGERS)[self.dtype]

    @property
    def n_bytes(self) -> int:
        """Size of the data in bytes."""
        return int(np.prod(self.shape)) * self.numpy_dtype.itemsize


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
    checked: frozenset[str] = frozenset(),
) -> Copied:
    """Write a safetensors file with some tensors replaced and some dropped; all other bytes are copied as they are.

    The source is read once, front to back, and hashed on the way. A file that stays as it is is cloned where the file
    system can do that (never linked: an edit of the copy must not reach the source), and then only read. The copy is
    still to be flushed to the disk.

    Args:
        source: the file.
        target: the file to write.
        replaced: new tensors by name.
        dropped: names of tensors that are left out.
        on_bytes: called with the number of source bytes of each step.
        checked: names of copied tensors whose values have to be finite.

    Raises:
        InputError: a value of a checked tensor, or of a replaced one, is not finite.
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
                if entry.name in checked:
                    check_values(data, entry)
                if not cloned:
                    writer.write(data)
                on_bytes(len(data))
            digests[entry.name] = digest.hexdigest()
        for data in chunks(reader, position, source.stat().st_size - position):
            whole.update(data)
    return Copied(offset, whole.hexdigest(), digests)


def check_values(data: bytes, entry: TensorEntry) -> None:
    """Refuse a part of a tensor of floating-point numbers that holds NaN or infinity.

    Raises:
        InputError: it does.
    """
    if entry.dtype in DTYPES and not all_finite(np.frombuffer(data, dtype=DTYPES[entry.dtype])):
        raise NonFiniteError(f"{entry.name} in {entry.path} holds NaN or infinity: {CURE}")


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


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_ahead(path: Path) -> None:
    """Ask the system to fetch a file into its page cache, so that the disk is busy while rows are computed."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


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


def write_blocks(writer: Any, name: str, new: Replacement) -> None:
    """Write the blocks of a replaced tensor in its data type.

    Raises:
        InputError: a value is not finite in that data type.
    """
    dtype = new.numpy_dtype
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
