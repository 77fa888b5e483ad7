"""The header of a safetensors file, with the checks of the safetensors library (``Metadata::validate``).

The file begins with the length of the header in 8 bytes, little-endian, then the header: a JSON object of one entry per
tensor, with data type, shape and the place of its bytes behind the header. The tensors cover the rest of the file
without gaps or overlaps. What the library refuses is refused here, and two things besides that the description of the
format rules out and the library reads: names that stand twice, and a header that does not begin with ``{``.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any, NoReturn

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"
FIELDS = ("dtype", "shape", "data_offsets")
MOST = 1 << 64
"""Sizes and offsets are 64-bit numbers without a sign."""
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Bits per element by data type."""


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a header.

    Attributes:
        name: of the tensor.
        dtype: data type, one of ``BITS``.
        shape: of the tensor.
        start: first byte of its data, counted from the end of the header.
        stop: byte behind its data, counted likewise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_length(start: bytes, file_bytes: int) -> int:
    """Read the length of a header in bytes.

    Args:
        start: the first 8 bytes of the file.
        file_bytes: size of the file.

    Raises:
        ValueError: the file is too short, or its header too long.
    """
    if len(start) < LENGTH_BYTES:
        raise ValueError(f"it has {len(start)} bytes, fewer than the {LENGTH_BYTES} of its header's length")
    (length,) = struct.unpack("<Q", start)
    if length > file_bytes - LENGTH_BYTES:
        raise ValueError("the header is longer than the file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {length} bytes, more than {MAX_HEADER_BYTES}")
    return int(length)


def parse_header(data: bytes) -> tuple[list[TensorPlace], dict[str, str]]:
    """Read a header; tensors come in the order of the file, without a check of the file's size.

    Args:
        data: the header without its length.

    Raises:
        ValueError: it is not the header of a safetensors file, or its tensors overlap or leave gaps.
    """
    text = data.decode("utf-8")
    if not text.startswith("{"):
        raise ValueError("the header does not begin with {")
    try:
        header = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=number_of,
            parse_float=number_of,
            parse_constant=refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    if "\\u" in text:
        json.dumps(header, ensure_ascii=False).encode()  # raises where half a character is spelled
    metadata = metadata_of(header.pop(METADATA, None))
    places = sorted(
        (place_of(name, item) for name, item in header.items()), key=lambda place: (place.start, place.stop)
    )
    check_layout(places)
    return places, metadata


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs.

    Raises:
        ValueError: a key stands twice.
    """
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{shortened(twice)} stands twice in the header")
    return entries


def number_of(text: str) -> float:
    """Read a number; only those that fit 64 bits without a sign become integers.

    Raises:
        ValueError: it is too large for a float.
    """
    if text.isdecimal() and len(text) <= len(str(MOST)) and int(text) < MOST:
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}... in the header is out of range")
    return value


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and infinity, which JSON does not have.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} stands in the header")


def metadata_of(value: Any) -> dict[str, str]:
    """Check the metadata of a header: an object of strings, or nothing.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
        raise ValueError("the metadata are not an object of strings")
    return value


def place_of(name: str, item: Any) -> TensorPlace:
    """Read the entry of one tensor.

    Raises:
        ValueError: a field is missing or of another kind, or length, shape and data type do not fit each other.
    """
    if not isinstance(item, dict) or any(field not in item for field in FIELDS):
        raise ValueError(f"the entry of {name!r} lacks one of {', '.join(FIELDS)}")
    dtype, shape, offsets = (item[field] for field in FIELDS)
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name!r} has the unknown data type {shortened(dtype)}")
    if not is_sizes(shape):
        raise ValueError(f"the shape {shortened(shape)} of {name!r} is not a list of whole numbers")
    if not is_sizes(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise ValueError(f"the offsets {shortened(offsets)} of {name!r} are not two ascending whole numbers")
    n_values = 1
    for size in shape:
        n_values *= size
        if n_values >= MOST:  # the library refuses it even where a later size is 0
            break
    n_bits = BITS[dtype] * n_values
    if n_bits >= MOST:
        raise ValueError(f"the shape {shortened(shape)} of {name!r} is too large")
    if n_bits % 8 or n_bits // 8 != offsets[1] - offsets[0]:
        raise ValueError(
            f"{name!r} has {offsets[1] - offsets[0]} bytes, and its shape {shortened(shape)} in {dtype} takes "
            f"{n_bits // 8 if n_bits % 8 == 0 else n_bits / 8}"
        )
    return TensorPlace(name, dtype, tuple(shape), *offsets)


def is_sizes(value: Any) -> bool:
    """Say whether a value is a list of whole numbers that are not negative."""
    return isinstance(value, list) and all(type(entry) is int for entry in value)  # a bool is no size


def check_layout(places: list[TensorPlace]) -> None:
    """Refuse tensors that overlap or leave gaps.

    Args:
        places: of all tensors, ascending by start.

    Raises:
        ValueError: they do.
    """
    end, before = 0, "the header"
    for place in places:
        if place.start != end:
            what = "overlaps" if place.start < end else "does not follow directly on"
            raise ValueError(f"{place.name!r} {what} {before}: it starts at byte {place.start}, not at {end}")
        end, before = place.stop, repr(place.name)
