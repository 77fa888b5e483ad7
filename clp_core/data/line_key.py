"""When two lines of text are the same: for holding text out, and for finding it again in training text."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from functools import lru_cache

KEY_BYTES = 12
ASCII_GAPS = re.compile(r"[^a-z]+")


def letters_of(line: str) -> str:
    """Return the letters of a line with their combining marks, in NFKC and case folded, all between them as one blank.

    Digits, punctuation and format characters (category Cf: soft hyphens, zero-width joiners) are dropped, much as
    CCNet does before it removes duplicates (Wenzek et al. 2020, section 3.1), which puts 0 for digits.
    """
    if line.isascii():
        return ASCII_GAPS.sub(" ", line.lower()).strip()
    formats, gaps = patterns()
    return gaps.sub(" ", unicodedata.normalize("NFKC", formats.sub("", line)).casefold()).strip()


def line_key(line: str) -> bytes:
    """Return a hash of the letters of a line; lines with the same key count as the same line."""
    return hashlib.blake2b(letters_of(line).replace(" ", "").encode(), digest_size=KEY_BYTES).digest()


@lru_cache(1)
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile patterns for runs of format characters, and for runs of all that is neither letter nor mark."""
    categories: dict[str, list[str]] = {"Cf": [], "M": []}
    for character in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(character)
        categories.get(category if category == "Cf" else category[0], []).append(character)
    formats, marks = ("".join(categories[name]) for name in ("Cf", "M"))
    return re.compile(f"[{formats}]+"), re.compile(rf"(?:[^\w{marks}]|[\d_])+")
