"""Texts and models of the experiment and the runs: the packaged demo's, or those of a folder of corpora."""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

from clp_core.demo import DATA

BLOCK_LINES, HELD_OUT_EVERY, HELD_OUT_PLACE = 40, 50, 7
"""Every fiftieth block of forty lines is held out, from the seventh on, so that no passage is in both parts."""


def copy_demo(folder: Path, train_lines: int = 0, valid_lines: int = 0) -> None:
    """Write the packaged demo's ``source``, ``helper``, ``train.txt`` and ``valid.txt`` into a folder.

    Args:
        folder: made where it is missing.
        train_lines: lines of the training text; 0: all.
        valid_lines: lines of the held-out text; 0: all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("source", "helper"):
        shutil.copytree(DATA / name, folder / name, dirs_exist_ok=True)
    for name, most in (("train", train_lines), ("valid", valid_lines)):
        lines = lzma.decompress((DATA / f"{name}.txt.xz").read_bytes()).decode().splitlines(keepends=True)
        (folder / f"{name}.txt").write_text("".join(lines[: most or None]), encoding="utf-8")


def write_split(corpus: Path, train: Path, valid: Path, valid_bytes: int) -> None:
    """Divide a corpus into training text and held-out text.

    Args:
        corpus: folder of ``.txt.xz`` files, one paragraph per line.
        train: file to write.
        valid: file to write; of all held-out lines every so many, to about ``valid_bytes``.
        valid_bytes: size of the held-out text.

    Raises:
        FileNotFoundError: there are no such files.
    """
    parts: dict[bool, list[str]] = {True: [], False: []}
    for is_held_out, line in numbered_lines(corpus):
        parts[is_held_out].append(line)
    if not parts[False]:
        raise FileNotFoundError(f"there is no .txt.xz file in {corpus}")
    train.parent.mkdir(parents=True, exist_ok=True)
    train.write_text("".join(parts[False]), encoding="utf-8")
    total = sum(len(line.encode()) for line in parts[True])
    valid.write_text("".join(parts[True][:: max(1, round(total / valid_bytes))]), encoding="utf-8")


def numbered_lines(corpus: Path) -> Iterator[tuple[bool, str]]:
    """Yield the lines of a corpus, file by file, and whether each is held out."""
    for path in sorted(corpus.glob("*.txt.xz")):
        for i, line in enumerate(lzma.decompress(path.read_bytes()).decode().splitlines(keepends=True)):
            yield i // BLOCK_LINES % HELD_OUT_EVERY == HELD_OUT_PLACE, line
