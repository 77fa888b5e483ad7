"""Short names for files and folders, made of names that users give."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata

MOST_CHARACTERS = 40
"""Of four bytes at most: a part of a path has 255, and stands behind a date and the like."""
KEPT = ("L", "Mn", "Mc", "Nd")
"""Letters of any script, what combines with them, and digits; so no control, direction or path character."""
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that show nothing, by which two names could look alike."""
EMPTY = "job"


def slug_of(text: str) -> str:
    """Shorten a text to a part of a path: letters of any script without case (NFC), digits, and single hyphens between.

    It is never empty, hidden, or longer than 160 bytes. Where the file system's encoding lacks its letters, they are
    those of ``ascii_slug``.
    """
    shown = "".join(character for character in text if not is_ignorable(character))
    slug = joined(unicodedata.normalize("NFC", unicodedata.normalize("NFC", shown).casefold()))
    try:
        os.fsencode(slug)
    except UnicodeEncodeError:
        return ascii_slug(text)
    return slug or EMPTY


def ascii_slug(text: str) -> str:
    """Shorten a text to lower-case ASCII letters, digits and single hyphens, accents left out; ``job`` for none."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MOST_CHARACTERS].strip("-") or EMPTY


def is_slug(text: str) -> bool:
    """Say whether a text, in any normalisation, may have come from ``slug_of``."""
    is_bare = text == text.strip("-") and all(character == "-" or is_kept(character) for character in text)
    return is_bare and 0 < len(unicodedata.normalize("NFC", text)) <= MOST_CHARACTERS


def joined(text: str) -> str:
    """Join the words of a text by hyphens, cut to ``MOST_CHARACTERS`` before a character with all its marks."""
    words = "".join(character if is_kept(character) else "-" for character in text).split("-")
    whole = "-".join(filter(None, map(without_first_marks, words)))
    end = min(MOST_CHARACTERS, len(whole))
    while 0 < end < len(whole) and is_mark(whole[end]):
        end -= 1
    return whole[:end].strip("-")


def without_first_marks(word: str) -> str:
    """Return a word without the marks it begins with, which have nothing to combine with."""
    return "".join(itertools.dropwhile(is_mark, word))


def is_mark(character: str) -> bool:
    """Say whether a character combines with the one before it."""
    return unicodedata.category(character).startswith("M")


def is_kept(character: str) -> bool:
    """Say whether a character may stand in a slug."""
    return unicodedata.category(character).startswith(KEPT) and not INVISIBLE.match(character)


def is_ignorable(character: str) -> bool:
    """Say whether a character shows nothing within a word, such as a joiner or a soft hyphen, and does not part it."""
    return unicodedata.category(character) == "Cf" or bool(INVISIBLE.match(character))
