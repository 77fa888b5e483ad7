"""When two lines of text are the same: for holding text out, and for finding it again in training text."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence
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
    return key_of_letters(letters_of(line))


def key_of_letters(letters: str) -> bytes:
    """Return the ``line_key`` of a line from what ``letters_of`` has found in it."""
    return hashlib.blake2b(letters.replace(" ", "").encode(), digest_size=KEY_BYTES).digest()


@lru_cache(1)
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile patterns for runs of format characters, and for runs of all that is neither letter nor mark.

    Each is one class of characters by their ranges, which is searched several times faster than alternatives are.
    """
    is_letter = re.compile(r"[^\W\d_]")
    formats, kept = [], []
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category == "Cf":
            formats.append(code)
        if category[0] == "M" or is_letter.match(chr(code)):
            kept.append(code)
    return re.compile(f"[{ranges_of(formats)}]+"), re.compile(f"[^{ranges_of(kept)}]+")


def ranges_of(codes: Sequence[int]) -> str:
    """Return ascending code points as the ranges of a class in a regular expression."""
    found: list[list[int]] = []
    for code in codes:
        if found and code == found[-1][1] + 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in found)
