"""Room on a disk, and where a folder may be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from clp_core.errors import FULL_DISK, InputError


def refuse_if_inside(output: Path, *inputs: Path) -> None:
    """Refuse an output that is one of the inputs or a folder above one.

    Raises:
        InputError: it is.
    """
    wanted = output.expanduser().resolve()
    for folder in inputs:
        resolved = folder.resolve()
        if wanted == resolved or wanted in resolved.parents:
            raise InputError(f"{output} holds {folder}, which is read here; choose another output folder")


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to start writing what the disk cannot hold.

    Args:
        folder: where it goes; its nearest existing parent is asked.
        needed: bytes.

    Raises:
        InputError: fewer bytes are free.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        scale, unit = (1e9, "GB") if needed >= 1e9 else (1e6, "MB")
        raise InputError(
            f"{folder} needs {needed / scale:.1f} {unit}, {free / scale:.1f} {unit} free; make room or choose another "
            "folder"
        )


def is_full_disk(error: BaseException, text: str) -> bool:
    """Say whether an error is that of a disk without room, in whatever class it comes."""
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return True
    # safetensors and torch tell of the operating system's error in their own classes.
    spoken = ("No space left on device", "os error 28", "os error 27", "Disk quota exceeded", "File too large")
    return any(words in text for words in (*spoken, "PytorchStreamWriter failed writing file"))
