"""Hashes of files and folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
