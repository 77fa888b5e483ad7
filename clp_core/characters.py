"""Characters: their script, and how they are shown where they cannot be seen."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

NO_LETTER = "no letter"
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
DOTTED_CIRCLE = "\N{DOTTED CIRCLE}"
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@lru_cache(65536)
def script_of_character(character: str) -> str:
    """Return the script of a letter by its Unicode name, ``no letter`` for anything else."""
    if not character.isalpha():
        return NO_LETTER
    first = unicodedata.name(character, "OTHER").split()[0].title()
    return {"Cjk": "Han", "Fullwidth": "Latin", "Halfwidth": "Katakana"}.get(first, first)


def script_of(text: str) -> str:
    """Return the script of the first letter in a text, ``no letter`` where it has none."""
    return next((script_of_character(character) for character in text if character.isalpha()), NO_LETTER)


def visible(text: str) -> str:
    """Return a text with blanks as ``·`` and other characters that cannot be seen written out."""
    named = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
    shown = "".join(
        named.get(character) or (character if character.isprintable() else f"\\u{ord(character):04x}")
        for character in text
    )
    # A mark that combines with the character before it needs something to stand on.
    return DOTTED_CIRCLE + shown if shown and unicodedata.category(shown[0]).startswith("M") else shown


def no_formula(text: str) -> str:
    """Return the text of a CSV cell, with a quote before it where a spreadsheet would take it for a formula."""
    return "'" + text if text.startswith(FORMULA_SIGNS) else text


def printable(text: str) -> str:
    """Return text without what would steer a terminal or hide in a page: such characters become visible signs."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) != "Cc" else sign_of(character)
        for character in text
    )


def sign_of(character: str) -> str:
    """Return the picture of a control character."""
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else UNREADABLE
