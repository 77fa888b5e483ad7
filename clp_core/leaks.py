"""Whether lines of the held-out text stand in the training text: then their scores say less than they seem to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from clp_core.documents import Texts
from clp_core.locate import read_json
from clp_core.progress import report_progress, write_json

LARGEST_TEXT_AT_ONCE = 20_000_000
"""Bytes of training text that are searched while a run is planned; the run itself searches larger ones."""
STANDS_IN_IT = "held-out lines stand in the training text too"
SHORTEST = 20
"""Characters: shorter lines, such as headings, repeat by chance."""


@dataclass(frozen=True)
class Leak:
    """How much of a held-out text stands in a training text, white space and case left out of account.

    Attributes:
        found: held-out lines that stand in the training text, alone or within a document.
        lines: held-out lines that were looked for.
        example: one that was found, at most 80 characters; empty if none was.
    """

    found: int
    lines: int
    example: str = ""

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores should know."""
        if not self.found:
            return []
        return [
            f"{self.found:,} of {self.lines:,} {STANDS_IN_IT} "
            f"({self.example!r}): the scores will flatter the run. Take them out of the training text"
        ]


def find_leak(texts: Texts, held_out: Texts, cache: Path | None = None) -> Leak:
    """Look for the lines of a held-out text in a training text.

    Args:
        texts: the training text, which is read once.
        held_out: the held-out text.
        cache: where the result is kept by the content of both.
    """
    file = None
    if cache is not None:
        key = hashlib.blake2b(f"2\0{texts.content()}\0{held_out.content()}".encode(), digest_size=16).hexdigest()
        file = cache / "leaks" / f"{key}.json"
        if known := read_json(file):
            return Leak(**known)
    wanted = dict(digests(held_out))
    found = {digest: wanted[digest] for digest, _ in digests(texts) if digest in wanted} if wanted else {}
    leak = Leak(len(found), len(wanted), next(iter(found.values()), "")[:80])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(leak))
    return leak


def digests(texts: Texts) -> Iterator[tuple[bytes, str]]:
    """Yield a hash of every line that is not too short, without its white space and case, and the line."""
    for number, document in enumerate(texts):
        if number % 100_000 == 0:
            report_progress("looking for held-out text in the training text")
        for line in document.splitlines():
            if len(line) >= SHORTEST:
                plain = "".join(line.split()).casefold()
                yield hashlib.blake2b(plain.encode(), digest_size=12).digest(), line
