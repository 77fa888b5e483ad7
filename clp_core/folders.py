"""Folders on disk: what is in one, whether one may be written, whether there is room."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from clp_core.errors import InputError
from clp_core.locate import read_json

MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
SAMPLES, SAMPLE_BYTES = 8, 4096
"""Blocks of a file that a fingerprint reads, and their size; a file of that size or less is read whole."""
FINGERPRINT_BYTES = 16


def fingerprint(folder: Path) -> str:
    """Name the present content of a model folder, wherever it lies: a moved workspace keeps its cache.

    The name is a hash of the files' names, sizes, modification times and a few blocks of each; times alone would not
    do, as images and archives set them all alike.
    """
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for path in sorted(folder.glob("*")):
        if path.suffix in MODEL_SUFFIXES and path.is_file():
            status = path.stat()
            digest.update(f"\n{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            last = max(0, status.st_size - SAMPLE_BYTES)
            with open(path, "rb", buffering=0) as file:
                for start in sorted({i * last // (SAMPLES - 1) for i in range(SAMPLES)}):
                    file.seek(start)
                    digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def has_changed(folder: Path, before: str) -> bool:
    """Say whether a folder differs from what its earlier fingerprint named.

    One of another form, which an earlier version wrote, cannot be compared and counts as unchanged.
    """
    return len(before) == 2 * FINGERPRINT_BYTES and fingerprint(folder) != before


def content_of(path: Path) -> str:
    """Return a hash of a file's bytes: scores on texts of the same content can be compared."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weight_files(folder: Path, single: str, index_name: str) -> tuple[Path, ...]:
    """Return the weight files of a folder: those that its index names, in order, else the single one, else none.

    Raises:
        InputError: the index is no index, or names a file that is not there.
    """
    index = read_json(folder / index_name)
    if not index:
        return (folder / single,) if (folder / single).is_file() else ()
    if not isinstance(index.get("weight_map"), dict):
        raise InputError(f"{folder / index_name} holds no weight_map; fetch the file again")
    names = sorted(set(index["weight_map"].values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{folder} lacks {absent[0]}, which its index names; fetch the model again")
    return tuple(folder / name for name in names)


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
        raise InputError(
            f"{folder} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB free; make room or choose another folder"
        )
