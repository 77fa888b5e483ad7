"""Endings of the files that hold documents, and of their compressions."""

from __future__ import annotations

from pathlib import Path

PLAIN = (".txt",)
JSON = (".json",)
JSON_LINES = (".jsonl", ".ndjson")
COMMA_SEPARATED = (".csv",)
TAB_SEPARATED = (".tsv",)
PARQUET = (".parquet",)
"""Compressed within, so that no file of it is compressed as a whole."""
ENDINGS = (*PLAIN, *JSON, *JSON_LINES, *COMMA_SEPARATED, *TAB_SEPARATED, *PARQUET)
COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")


def endings_of(path: Path) -> tuple[str, str]:
    """Split the ending of a file into that of the form and that of the compression, in lower case, each may be empty.

    ``a.JSONL.gz`` has the endings ``.jsonl`` and ``.gz``.
    """
    outer = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), outer) if outer in COMPRESSIONS else (outer, "")


def has_text_ending(path: Path) -> bool:
    """Say whether the ending of a file is that of documents, so that it is read as part of a folder."""
    form, compression = endings_of(path)
    return form in ENDINGS and (not compression or form not in PARQUET)


def is_text(path: Path) -> bool:
    """Say whether a file is one of documents, by its name."""
    return path.is_file() and has_text_ending(path)
