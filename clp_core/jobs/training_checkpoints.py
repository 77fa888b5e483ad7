"""The checkpoints of a run: complete only with a manifest that fits, the last few and the best are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clp_core.files.artifacts import MANIFEST_FILE
from clp_core.files.json_files import read_json_file, write_json

RUN_STATE_FILE = "clp_run.json"
OPTIMISER_FILES = ("optimizer.pt", "optimizer-*.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint by its folder's name."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's manifest; an empty one where there is none that can be read."""
    try:
        content = read_json_file(folder / MANIFEST_FILE)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_complete(folder: Path) -> bool:
    """Say whether all files of a checkpoint are there with the sizes that its manifest names."""
    files = read_manifest(folder).get("files")
    if not isinstance(files, dict) or not files:
        return False
    try:
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError):  # a name with a NUL byte
        return False


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a run's ``checkpoints`` folder, oldest first."""
    return sorted((path for path in folder.glob("checkpoint-*") if is_complete(path)), key=step_of)


def resumable_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint that holds the optimiser's state, or ``None``."""
    found = [path for path in complete_checkpoints(folder) if read_manifest(path).get("resumable")]
    return found[-1] if found else None


def seal(folder: Path, figures: dict[str, Any] | None = None) -> None:
    """Complete a checkpoint: wait until the disk has its files, then write the manifest that names them.

    Args:
        folder: the checkpoint, all of whose files are written.
        figures: what was measured at its step, such as ``bits_per_byte``.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MANIFEST_FILE:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[path.name] = path.stat().st_size
    resumable = bool({"optimizer.pt", "optimizer-0.pt"} & files.keys())
    flush_folder(folder)
    write_json(folder / MANIFEST_FILE, {"files": files, "resumable": resumable} | (figures or {}), durable=True)
    flush_folder(folder)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, without which it has not the files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def best_of(checkpoints: Sequence[Path]) -> Path | None:
    """Return the checkpoint with the least bits per byte, of those that were scored."""
    scored = [(bits, path) for path in checkpoints if (bits := read_manifest(path).get("bits_per_byte")) is not None]
    return min(scored)[1] if scored else None


def keep_only(folder: Path, last: int, *, best: bool) -> list[Path]:
    """Remove all but the last few complete checkpoints and the best one; return those that went.

    An older best one keeps its weights, but not the optimiser's state, which is two thirds of a checkpoint.
    """
    checkpoints = complete_checkpoints(folder)
    kept = checkpoints[-max(last, 1) :]
    best_one = best_of(checkpoints) if best else None
    gone = [path for path in checkpoints if path not in kept and path != best_one]
    for path in gone:
        remove(path)
    if best_one is not None and best_one not in kept and read_manifest(best_one).get("resumable"):
        drop_optimiser(best_one)
    return gone


def remove(folder: Path) -> None:
    """Remove a checkpoint; its manifest goes first, so that it is never taken for complete while it shrinks."""
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def drop_optimiser(folder: Path) -> None:
    """Leave of a checkpoint what a model needs; training cannot go on from it any more."""
    manifest = read_manifest(folder)
    gone = [path for pattern in OPTIMISER_FILES for path in folder.glob(pattern)]
    names = {path.name for path in gone}
    files = {name: size for name, size in manifest["files"].items() if name not in names}
    write_json(folder / MANIFEST_FILE, manifest | {"files": files, "resumable": False}, durable=True)
    for path in gone:
        path.unlink()


def remove_incomplete(folder: Path) -> None:
    """Remove what an interrupted save has left."""
    for path in folder.glob("checkpoint-*"):
        if path.is_dir() and not is_complete(path):
            remove(path)
    for path in folder.glob("tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
