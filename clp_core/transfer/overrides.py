"""Rows that a user makes by hand: this token is the mean of those source tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from clp_core.errors import InputError
from clp_core.files.atomic import write_whole
from clp_core.files.text_files import numbered_lines, without_surrogates
from clp_core.tokenization.token_bytes import WORD_START
from clp_core.tokenization.vocabulary import Vocabulary, id_in

TOKEN_MARKS = ("Ġ", WORD_START, "##")
MOST_DIGITS = 12
MOST_NAME_BYTES = 230
"""Of the two models' names in the name of a file, which has 255 bytes."""


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
            for number, line in numbered_lines(Path(file).expanduser()):
                token, tab, text = line.partition("\t")
                if not tab or not token or not text:
                    raise InputError(f"line {number} of {file} is not TOKEN, a tab, TEXT")
                found.append((token, text))
        except OSError as error:
            raise InputError(f"the overrides in {file} cannot be read ({error})") from error
    return [(without_surrogates(token), without_surrogates(text)) for token, text in found]


@dataclass(frozen=True)
class OverrideList:
    """Overrides noted for a pair, to go into the form of its next transfer: a file of ``TOKEN<tab>TEXT`` lines.

    Attributes:
        file: where they are noted.
    """

    file: Path

    @classmethod
    def of(cls, root: Path, source: Path, helper: Path) -> OverrideList:
        """Return the list of a pair of models below the workspace's root."""
        digest = hashlib.blake2b(f"{source.resolve()}\0{helper.resolve()}".encode(), digest_size=4).hexdigest()
        shown = f"{source.name}-{helper.name}".encode()[:MOST_NAME_BYTES].decode(errors="ignore")
        return cls(root / "overrides" / f"{shown}-{digest}.tsv")

    def pairs(self) -> list[tuple[str, str]]:
        """Return the noted pairs of token and text.

        Raises:
            InputError: the file was changed by hand and cannot be read.
        """
        return read_overrides([], str(self.file)) if self.file.is_file() else []

    def note(self, token: str, text: str) -> None:
        """Note an override in place of an earlier one of the same token; empty text takes it away."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):  # another tab may note one at the same moment
            kept = [pair for pair in self.pairs() if pair[0] != token]
            if text:
                kept.append((token, text))
            write_whole(self.file, "".join(f"{token}\t{text}\n" for token, text in kept))

    def options(self) -> list[str]:
        """Return the pairs as ``TOKEN=TEXT``, as the option takes them."""
        return [f"{token}={text}" for token, text in self.pairs()]


def name_for_override(vocabulary: Vocabulary, token_id: int) -> str:
    """Write a token as an override names it: its string, or ``#id`` where the string would be misread."""
    token = vocabulary.tokens[token_id]
    if token is None:
        return f"#{token_id}"
    is_safe = token == token.strip() and "=" not in token[1:] and len(token.splitlines()) <= 1 and "\t" not in token
    if is_safe and token and vocabulary.find(token) == token_id:
        return token
    # A token may be spelled as its id is, which more zeros set apart.
    names = (f"#{token_id:0{width}}" for width in range(MOST_DIGITS))
    return next((name for name in names if vocabulary.find(name) == token_id), f"#{token_id}")


def resolve_overrides(
    pairs: Sequence[tuple[str, str]], source: Vocabulary, target: Vocabulary, n_source: int
) -> dict[int, np.ndarray]:
    """Return the source ids whose mean is the row, by target id.

    A text is one raw source token, else ``#id``, else several raw tokens separated by blanks if it holds a word-start
    mark; anything else is written in the pieces of the source's tokenizer.

    Args:
        pairs: token of the target (string, text or ``#id``) and text.
        source: the source's vocabulary.
        target: the target's vocabulary.
        n_source: number of source rows.

    Raises:
        InputError: a token is named twice, a token or text is none, or an id is beyond the vocabulary or the rows.
    """
    found: dict[int, np.ndarray] = {}
    for token, text in pairs:
        token_id = target.find(token)
        if token_id in found:
            raise InputError(f"the token {token!r} is overridden twice; keep one of them")
        ids = source_ids(text, source)
        if id_in(text) is not None and text not in source.ids and ids[0] >= n_source:
            raise InputError(f"{source.name} has no row {text}; its largest is #{n_source - 1}")
        unknown = source.roles.get("unk")
        ids = [i for i in ids if i < n_source and (i != unknown or source.tokens[i] == text)]
        if not ids:
            raise InputError(f"the text {text!r} of the override of {token!r} has no pieces in {source.name}")
        found[token_id] = np.array(ids, dtype=np.int64)
    return found


def source_ids(text: str, source: Vocabulary) -> list[int]:
    """Return the source tokens that a text names.

    Raises:
        InputError: it is an id that no token has.
    """
    if text in source.ids:
        return [source.ids[text]]
    if id_in(text) is not None:
        return [source.find_id(text)]
    parts = text.split()
    if any(mark in text for mark in TOKEN_MARKS) and all(part in source.ids for part in parts):
        return [source.ids[part] for part in parts]
    return source.encode(text)
