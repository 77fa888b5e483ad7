"""JSON files: read with one kind of error whatever is wrong in them, and written whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clp_core.errors import InputError

MOST_BYTES = 1 << 30
"""Size of the largest file that is parsed; tokenizers and indices of models have some tens of megabytes."""


def parsed_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not valid, not UTF-8, nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_file(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or not valid, see ``parsed_json``.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        return parsed_json(file.read().decode("utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one where there is no such file.

    Raises:
        InputError: the file is there but is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = read_json_file(path)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; fetch the file again")
    return data


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write a JSON file so that a reader sees the old content or the new, never a half.

    Args:
        path: the file.
        content: what it will hold.
        durable: wait until the disk has it, so that a loss of power leaves no empty file.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


LARGEST_NUMBER = 1e11
"""No time in seconds and no number of attempts in a job's files is larger."""


def read_state(path: Path) -> dict[str, Any]:
    """Return the object in a job's file; an empty one where a crash has left none. One bad job hides no other."""
    try:
        content = read_json_file(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def number_in(content: Mapping[str, Any], key: str, otherwise: float, largest: float = LARGEST_NUMBER) -> float:
    """Return a number of a file, or another one where the file holds none there that is finite and of a sane size."""
    value = content.get(key)
    if not isinstance(value, int | float) or not abs(value) <= largest:  # not true of NaN either
        return otherwise
    return float(value)
