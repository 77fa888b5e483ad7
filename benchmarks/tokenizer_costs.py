"""Measure how long tokenizers take: to train on one long line against short ones, and to read for the first time.

    python benchmarks/tokenizer_costs.py [FOLDER ...] [--bytes 867000]

The text is random letters, which no merge shortens fast: the worst case of a line without blanks. Printed are seconds
and their ratio in the same run. Each FOLDER with a tokenizer is read once by transformers and once from the cache.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.helper.tokenizer_training import train_tokenizer
from clp_core.tokenization import tokenizer_reading
from clp_core.tokenization.tokenizer_reading import read_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD, LINE = 8, 90


def seconds_to_train(text: str, folder: Path, name: str) -> float:
    """Train a tokenizer of 8,192 tokens on a text; return the seconds."""
    path = folder / f"{name}.txt"
    path.write_text(text)
    began = time.perf_counter()
    train_tokenizer(TokenizerOptions(text=(str(path),), output=str(folder / name), vocab_size=8192))
    return time.perf_counter() - began


def seconds_to_read(folder: Path, cache: Path) -> float:
    """Read the tokenizer in a folder, as a new process does; return the seconds."""
    tokenizer_reading._READINGS.clear()
    began = time.perf_counter()
    read_tokenizer(folder, cache)
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--bytes", type=int, default=867_000)
    options = parser.parse_args()
    import transformers  # noqa: F401  (its import, some seconds, is no part of a reading)

    letters = "".join(random.Random(0).choices(LETTERS, k=options.bytes))
    lines = "\n".join(
        " ".join(letters[i + j : i + j + WORD] for j in range(0, LINE, WORD)) for i in range(0, len(letters), LINE)
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        long, short = seconds_to_train(letters, root, "long"), seconds_to_train(lines, root, "short")
        print(
            f"training on {options.bytes:,} letters: one line {long:.2f} s, short lines {short:.2f} s, "
            f"{long / short:.1f}x"
        )
        for folder in options.folders:
            first, again = seconds_to_read(folder, root), seconds_to_read(folder, root)
            print(f"reading {folder.name}: first {first:.2f} s, from the cache {again:.2f} s")


if __name__ == "__main__":
    main()
