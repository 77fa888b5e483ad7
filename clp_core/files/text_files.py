"""Text files that users supply: compression, encoding and line ends, in one place for all commands.

Texts, word vectors, dictionaries and lists of overrides are all opened here. They are UTF-8, with or without a byte
order mark, plain or compressed by one of ``DECOMPRESSORS``. No string that leaves this module or ``text_forms`` holds a
surrogate, which could not be encoded later.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from clp_core.errors import InputError
from clp_core.files.text_endings import endings_of

LONGEST_DOCUMENT = 1 << 28
"""Bytes of the longest line, and characters of the longest field or JSON value, that are read.

A compressed file of a kilobyte can hold a line that no memory holds.
"""
SURROGATES = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
"""The mark of UTF-32 comes first: it begins with that of UTF-16."""
LONGEST_MARK = 4
READ_BYTES = 1 << 16

ARCHIVE = "unpack it and give the folder"
DOCUMENT = "extract its text into a .txt file"
MARKUP = "extract its text into a .txt or .jsonl file"
TABLE = "write its rows to a .parquet or .jsonl file"
OTHER_COMPRESSION = "decompress it, or compress it with gz, xz, zst or bz2"
BINARY = "give the text itself"
OTHER_FORMATS = (
    dict.fromkeys((".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar"), ARCHIVE)
    | dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".ppt", ".pptx", ".odp"), DOCUMENT)
    | dict.fromkeys((".html", ".htm", ".xhtml", ".xml", ".tei", ".warc", ".wet"), MARKUP)
    | dict.fromkeys((".arrow", ".feather", ".ipc", ".avro", ".orc", ".msgpack", ".xls", ".xlsx", ".ods"), TABLE)
    | dict.fromkeys((".sqlite", ".db", ".h5", ".hdf5", ".npy", ".npz", ".pkl", ".pickle"), TABLE)
    | dict.fromkeys((".lz4", ".z", ".lzma", ".lz", ".lzo", ".snappy", ".zz"), OTHER_COMPRESSION)
    | dict.fromkeys((".bin", ".pth", ".safetensors", ".gguf"), BINARY)
)
"""Endings of formats that would come out as nonsense if read as lines, and what to do instead.

Corpora are often named by their language, so ``.pt`` and ``.br`` are not among them.
"""


def open_zstandard(file: BinaryIO) -> io.BufferedReader:
    """Decompress a Zstandard file with pyarrow, which reads parquet and needs no further package.

    Raises:
        InputError: pyarrow was built without Zstandard.
    """
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise InputError("this pyarrow cannot decompress Zstandard; install pyarrow from PyPI")
    return io.BufferedReader(cast("io.RawIOBase", pa.CompressedInputStream(file, "zstd")))


class StreamsReader(io.RawIOBase):
    """Decompresses the streams of a file one after the other, as parallel compressors and ``cat`` write them.

    Where a later stream is damaged at its beginning, the readers of the standard library take it for rubbish behind the
    data, and end as if the file did.
    """

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        """Begin with the first stream.

        Args:
            file: the compressed file.
            decompressor: makes what decompresses one stream.
        """
        self._file, self._new = file, decompressor
        self._now = decompressor()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with decompressed bytes; 0 at the end of the file.

        Raises:
            EOFError: the file ends within a stream.
            OSError: a stream is damaged (bzip2).
            LZMAError: the same (xz).
        """
        while True:
            data = b""
            if self._now.eof:
                data = self._next_stream()
                if not data:
                    return 0
                self._now = self._new()
            elif self._now.needs_input:
                data = self._file.read(io.DEFAULT_BUFFER_SIZE)
                if not data:
                    raise EOFError("the file ends within its compressed data")
            found = self._now.decompress(data, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)

    def _next_stream(self) -> bytes:
        """Return the first bytes of the next stream, padding before it left out; none at the end of the file."""
        data = bytes(self._now.unused_data).lstrip(b"\0")
        while not data:
            data = self._file.read(io.DEFAULT_BUFFER_SIZE)
            if not data:
                return b""
            data = data.lstrip(b"\0")
        return data


class LinesReader(io.RawIOBase):
    """Passes on the bytes of a file as long as its lines are of a length that memory can hold."""

    def __init__(self, file: Any, path: Path, ends: Sequence[bytes]) -> None:
        """Begin a line.

        Args:
            file: the file, decompressed.
            path: its path, for the message.
            ends: what ends a line.
        """
        self._file, self._path, self._ends = file, path, ends
        self._length = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end of the file.

        Raises:
            InputError: the line is longer than ``LONGEST_DOCUMENT``.
        """
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        end = max(map(data.rfind, self._ends))
        self._length = len(data) - 1 - end if end >= 0 else self._length + len(data)
        if self._length > LONGEST_DOCUMENT:
            raise InputError(
                f"{self._path} has a line of more than {LONGEST_DOCUMENT >> 20} MiB, which is not read as one "
                "document; give one document per line"
            )
        return len(data)


DECOMPRESSORS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lambda file: io.BufferedReader(StreamsReader(file, lzma.LZMADecompressor)),
    ".zst": open_zstandard,
    ".bz2": lambda file: io.BufferedReader(StreamsReader(file, bz2.BZ2Decompressor)),
}
"""How files with each of the endings ``COMPRESSIONS`` are decompressed."""


def check_format(path: Path) -> None:
    """Refuse files whose ending names a format that is not read here.

    Raises:
        InputError: the ending is one of ``OTHER_FORMATS``.
    """
    form, _ = endings_of(path)
    if form in OTHER_FORMATS:
        raise InputError(f"{path} is a {form} file, which is not read as text; {OTHER_FORMATS[form]}")


@contextlib.contextmanager
def open_text(path: Path, newline: str = "\n", *, has_lines: bool = True) -> Iterator[TextIO]:
    r"""Open a text file, compressed or not, without its byte order mark.

    Args:
        path: the file.
        newline: as ``open`` takes it; by default lines end at ``\n`` alone.
        has_lines: whether it is read line by line, so that a line too long for memory is refused.

    Raises:
        InputError: the file is of another format, damaged, or not UTF-8, or a line is too long.
    """
    with open_bytes(path) as (_, file):
        ends = (b"\n", b"\r") if not newline else (b"\n",)
        checked = io.BufferedReader(LinesReader(file, path, ends), READ_BYTES) if has_lines else file
        yield io.TextIOWrapper(checked, encoding="utf-8-sig", newline=newline)


def beginning_of(path: Path, n_bytes: int) -> tuple[str, float]:
    """Read the beginning of a text file.

    Args:
        path: the file.
        n_bytes: how much to read, once it is decompressed.

    Returns:
        The text, and about which share of the file it takes; 1 if it is the whole text.

    Raises:
        InputError: the file is of another format or damaged.
    """
    with open_bytes(path) as (raw, file):
        head = file.read(n_bytes)
        share = raw.tell() / path.stat().st_size if file.read(1) else 1.0
    return head.decode("utf-8-sig", errors="ignore"), share


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """Open a text file for reading bytes, as it is on the disk and decompressed; both are one where it is plain.

    Raises:
        InputError: the file is of another format, damaged, or not UTF-8.
    """
    check_format(path)
    _, compression = endings_of(path)
    with explained_reading(path), open(path, "rb") as raw, contextlib.ExitStack() as stack:
        file: Any = raw
        if compression:
            file = stack.enter_context(DECOMPRESSORS[compression](raw))
        check_encoding(path, file.peek(LONGEST_MARK)[:LONGEST_MARK])
        yield raw, file


@contextlib.contextmanager
def explained_reading(path: Path) -> Iterator[None]:
    """Turn errors of decoding and decompressing into one line.

    Raises:
        InputError: the file is damaged or not UTF-8.
    """
    _, compression = endings_of(path)
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid UTF-8 ({error}); convert it, with iconv for example") from error
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's: no such file, no permission
        cure = "decompress it with `zstd -d --long=31`" if "too much memory" in str(error) else "compress it again"
        raise InputError(f"{path} is not a valid {compression} file ({error}); {cure}") from error


def check_encoding(path: Path, head: bytes) -> None:
    """Refuse text that begins as other encodings do.

    Args:
        path: the file.
        head: its first four bytes.

    Raises:
        InputError: it begins with the mark of UTF-16 or UTF-32, or with a zero byte.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise InputError(
                f"{path} is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 {path.name} > NEW.txt"
            )
    if b"\0" in head:
        raise InputError(f"{path} has zero bytes, so it is not UTF-8 text; if it is UTF-16, convert it with iconv")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, without their line ends, each with its number from 1.

    Raises:
        InputError: the file is of another format, damaged, or not UTF-8.
    """
    with open_text(path) as file:
        yield from lines_in(file)


def lines_in(file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file that are not blank, without their line ends, each with its number from 1."""
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if text.strip():
            yield number, text


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file that are not blank, without their line ends.

    Raises:
        InputError: the file is of another format, damaged, or not UTF-8.
    """
    return (line for _, line in numbered_lines(path))


def without_surrogates(text: str) -> str:
    r"""Replace surrogates by U+FFFD: JSON may spell half a character (``"\ud83d"``), which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATES.sub(REPLACEMENT, text)
    return text
