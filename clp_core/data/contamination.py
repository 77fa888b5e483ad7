"""Whether lines of the held-out text stand in the training text: then their scores say less than they seem to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clp_core.data.line_key import key_of_letters, letters_of
from clp_core.data.text_sources import Texts
from clp_core.files.json_files import read_json, write_json
from clp_core.progress import report_progress

LARGEST_TEXT_AT_ONCE = 20_000_000
"""Bytes of training text that are searched while a run is planned; the run itself searches larger ones."""
STANDS_IN_IT = "held-out lines stand in the training text too"
KEY_VERSION = "5"
"""Raised when lines are compared otherwise, so that cached results are made anew."""
SHORTEST, SHORTEST_BYTES = 20, 40
"""Letters, or their UTF-8 bytes: shorter lines, such as headings, repeat by chance; Chinese says more per character."""


@dataclass(frozen=True)
class Contamination:
    """Contamination: how much of a held-out text stands in a training text, compared as ``line_key`` says.

    Attributes:
        found: held-out lines that are lines of the training text too, of whatever document; not those within a
            longer line.
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


def find_leak(texts: Texts, held_out: Texts, cache: Path | None = None, ignored: Sequence[str] = ()) -> Contamination:
    """Look for the lines of a held-out text in a training text.

    A line that contains ignored strings is looked for as a whole, without them, and in the parts between them: any of
    these that stands in the other text counts.

    Args:
        texts: the training text, which is read once.
        held_out: the held-out text.
        cache: where the result is kept by the content of both and the ignored strings.
        ignored: strings that are removed before lines are compared, such as a tokenizer's ``<|endoftext|>``.
    """
    separators = tuple(sorted({string for string in ignored if string}, key=lambda string: (-len(string), string)))
    file = None
    if cache is not None:
        name = "\0".join([KEY_VERSION, texts.content(), held_out.content(), json.dumps(separators)])
        file = cache / "leaks" / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.json"
        if known := read_json(file):
            return Contamination(**known)
    lines: dict[bytes, str] = {}
    wanted: dict[bytes, bytes] = {}
    for line, own in digests(held_out, separators):
        lines.setdefault(own[0], line)
        for digest in own:
            wanted.setdefault(digest, own[0])
    found: dict[bytes, str] = {}
    for _, own in digests(texts, separators) if wanted else ():
        for digest in own:
            if (whole := wanted.get(digest)) is not None:
                found[whole] = lines[whole]
    leak = Contamination(len(found), len(lines), next(iter(found.values()), "")[:80])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(leak))
    return leak


def digests(texts: Texts, separators: Sequence[str] = ()) -> Iterator[tuple[str, list[bytes]]]:
    """Yield every line that is not too short, with hashes of it and of its parts between separators.

    Lines are compared as ``line_key`` says, the separators left out.

    Args:
        texts: the documents.
        separators: strings to leave out, those that contain others first.
    """
    cut = re.compile("|".join(map(re.escape, separators))) if separators else None
    for number, document in enumerate(texts):
        if number % 100_000 == 0:
            report_progress("looking for held-out text in the training text")
        for line in document.splitlines():
            parts = cut.split(line) if cut else [line]
            candidates = ["".join(parts), *parts] if len(parts) > 1 else parts
            own = [key_of_letters(letters) for letters in map(letters_of, candidates) if is_long(letters)]
            if own:
                yield line, own


def is_long(letters: str) -> bool:
    """Check that a line has letters enough not to repeat by chance."""
    return len(letters) >= SHORTEST or len(letters.encode()) >= SHORTEST_BYTES
