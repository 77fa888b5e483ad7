"""Characters: their script, and how they are shown where they cannot be seen."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

NO_LETTER = "no letter"
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
DOTTED_CIRCLE = "\N{DOTTED CIRCLE}"
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Embeddings, overrides and isolates: they can show what follows them on a line in another order. Marks, which letters
of Arabic and Hebrew need beside Latin ones, steer nothing further away."""


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
        sign_of(character) if character in BIDI_CONTROLS or is_control(character) else character for character in text
    )


def is_control(character: str) -> bool:
    """Say whether a character is a control character other than a line end or a tab."""
    return character not in "\n\t" and unicodedata.category(character) == "Cc"


def sign_of(character: str) -> str:
    """Return the picture of a control character; one of writing direction is written out, as in tokens."""
    code = ord(character)
    if character in BIDI_CONTROLS:
        return f"\\u{code:04x}"
    return chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else UNREADABLE
