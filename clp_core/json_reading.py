"""JSON that others have written: whatever a parser cannot read ends in one kind of error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
