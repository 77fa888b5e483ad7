"""Rows that a user makes by hand: this token is the mean of those source tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clp_core.errors import InputError
from clp_core.vocabulary import WORD_START, Vocabulary

TOKEN_MARKS = ("Ġ", WORD_START, "##")


def read_overrides(pairs: Sequence[str], file: str = "") -> list[tuple[str, str]]:
    """Return pairs of token and text, from ``TOKEN=TEXT`` and from the lines ``TOKEN<tab>TEXT`` of a file.

    Raises:
        InputError: a pair or a line has another form, or the file cannot be read.
    """
    found = []
    for pair in pairs:
        place = pair.find("=", 1)  # a token may begin with =
        if place < 0 or place == len(pair) - 1:
            raise InputError(f"--override {pair!r} is not TOKEN=TEXT")
        found.append((pair[:place], pair[place + 1 :]))
    if file:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the overrides in {file} cannot be read ({error})") from error
        for number, line in enumerate(lines, 1):
            token, tab, text = line.partition("\t")
            if line.strip() and (not tab or not token or not text):
                raise InputError(f"line {number} of {file} is not TOKEN, a tab, TEXT")
            if line.strip():
                found.append((token, text))
    return found


def resolve_overrides(
    pairs: Sequence[tuple[str, str]], source: Vocabulary, target: Vocabulary, n_source: int
) -> dict[int, np.ndarray]:
    """Return the source ids whose mean is the row, by target id.

    A text is one raw source token, or several separated by blanks if it holds a word-start mark, or ``#id``; anything
    else is written in the pieces of the source's tokenizer.

    Args:
        pairs: token of the target (string, text or ``#id``) and text.
        source: the source's vocabulary.
        target: the target's vocabulary.
        n_source: number of source rows.

    Raises:
        InputError: a token is named twice, or a token or text is none.
    """
    found: dict[int, np.ndarray] = {}
    for token, text in pairs:
        token_id = target.find(token)
        if token_id in found:
            raise InputError(f"the token {token!r} is overridden twice; keep one of them")
        ids = source_ids(text, source)
        unknown = source.roles.get("unk")
        ids = [i for i in ids if i < n_source and (i != unknown or source.tokens[i] == text)]
        if not ids:
            raise InputError(f"the text {text!r} of the override of {token!r} has no pieces in {source.name}")
        found[token_id] = np.array(ids, dtype=np.int64)
    return found


def source_ids(text: str, source: Vocabulary) -> list[int]:
    """Return the source tokens that a text names."""
    if text in source.ids:
        return [source.ids[text]]
    if text.startswith("#") and text[1:].isdecimal() and int(text[1:]) < source.n_ids:
        return [int(text[1:])]
    parts = text.split()
    if any(mark in text for mark in TOKEN_MARKS) and all(part in source.ids for part in parts):
        return [source.ids[part] for part in parts]
    return source.encode(text)
