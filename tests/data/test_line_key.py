import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clp_core.data.line_key import letters_of, line_key


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("Kapitel 3: Der Fuchs", "kapitel 17 -- DER FUCHS"),
        ("läuft", "la\u0308uft"),
        ("läu\u00adft\u200b", "läuft"),
        ("Ｗｉｅｓｅ．", "wiese"),
        ("die Straße", "DIE STRASSE"),
        ("敏捷的 狐狸", "敏捷的狐狸。"),
        ("snake_case", "snake case"),
    ],
)
def test_lines_with_the_same_letters_are_the_same(line, other):
    assert line_key(line) == line_key(other)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("läuft", "lauft"),
        ("किताब", "कतब"),  # vowel signs are marks, and carry meaning
        ("שָׁלוֹם", "שלום"),
        ("สวัสดี", "สวสด"),
        ("the house", "the mouse"),
    ],
)
def test_lines_with_other_letters_or_marks_differ(line, other):
    assert line_key(line) != line_key(other)


def test_letters_are_words_with_single_blanks():
    assert letters_of("  Der  Fuchs,\t42 Jahre alt: \u00bbhallo\u00ab ") == "der fuchs jahre alt hallo"
    assert letters_of("3.14 - 2") == ""


def character_by_character(line):
    def is_kept(character):
        category = unicodedata.category(character)
        return category[0] == "M" or (character.isalnum() and category != "Nd")

    text = "".join(character for character in line if unicodedata.category(character) != "Cf")
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if is_kept(c) else " " for c in text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_letters_are_those_of_every_character_by_its_category(line):
    assert letters_of(line).split() == character_by_character(line).split()


def test_every_code_point_counts_by_its_category():
    for start in range(0, sys.maxunicode + 1, 4096):
        codes = [code for code in range(start, start + 4096) if not 0xD800 <= code < 0xE000]
        line = "a".join(map(chr, codes))
        assert letters_of(line).split() == character_by_character(line).split()
