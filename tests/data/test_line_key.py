import pytest

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
