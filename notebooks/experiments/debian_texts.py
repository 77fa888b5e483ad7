"""Text of a language from Debian's packages of documentation, for experiments on further languages.

On a Debian or Ubuntu machine::

    python notebooks/experiments/debian_texts.py libreoffice-help-fr gimp-help-fr --language fr --output texts/fr

writes ``texts/fr-train.txt`` and ``texts/fr-valid.txt``: paragraphs of the packages' HTML pages, one a line, every one
once. Blocks of 40 paragraphs are held out, those whose number leaves 7 when divided by 50 (``--every``); training
paragraphs that repeat a held-out one, case, digits and punctuation aside, are left out. The texts have their packages'
licences, which stand in ``/usr/share/doc/PACKAGE/copyright``, and are not part of this project.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from clp_core.data.line_key import letters_of
from scripts.build_demo import HELD_OUT_EVERY, split_lines

PARAGRAPHS = frozenset({"p", "li", "dd", "dt", "td", "th", "h1", "h2", "h3", "h4", "blockquote", "div", "section"})
SKIPPED = frozenset({"script", "style", "pre", "code", "nav", "header", "footer", "head", "tt", "samp", "kbd"})
LEAST_CHARACTERS, MOST_CHARACTERS = 40, 4000
LEAST_LETTERS = 0.6
COMMON_WORDS = {
    "en": {"the", "of", "and", "to", "in", "is", "that", "for", "with", "this", "you", "be", "are", "as", "or", "can"},
    "de": {"der", "die", "das", "und", "ist", "in", "zu", "den", "mit", "sie", "von", "für", "ein", "eine", "wird"},
    "fr": {"le", "la", "les", "de", "des", "et", "est", "un", "une", "pour", "dans", "que", "vous", "du", "sur", "à"},
    "fi": {"ja", "on", "ei", "se", "että", "voi", "tai", "joka", "kun", "ovat", "tämä", "jos", "voidaan", "myös"},
}
"""The commonest words of each language: a paragraph belongs to the language that has most of its words."""


class Paragraphs(HTMLParser):
    """Collects the text of paragraphs, without code, menus and scripts."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.found: list[str] = []
        self._parts: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """Begin a paragraph, or something to leave out."""
        self._skipping += tag in SKIPPED
        if tag in PARAGRAPHS:
            self.end_paragraph()

    def handle_endtag(self, tag: str) -> None:
        """End a paragraph, or what is left out."""
        if tag in SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        if tag in PARAGRAPHS:
            self.end_paragraph()

    def handle_data(self, data: str) -> None:
        """Take text."""
        if not self._skipping:
            self._parts.append(data)

    def end_paragraph(self) -> None:
        """Keep the paragraph, blanks made single."""
        text = " ".join(unicodedata.normalize("NFC", "".join(self._parts)).split())
        self._parts = []
        if text:
            self.found.append(text)


def paragraphs_of(package: str, folder: Path) -> Iterator[str]:
    """Fetch and unpack a package of this machine's Debian, and yield the paragraphs of its pages."""
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder / package)], check=True)
    for page in sorted((folder / package).rglob("*.html")):
        if not page.is_symlink():
            reader = Paragraphs()
            reader.feed(page.read_text(encoding="utf-8", errors="replace"))
            reader.close()
            reader.end_paragraph()
            yield from reader.found


def is_text(paragraph: str, language: str) -> bool:
    """Say whether a paragraph is running text of a language."""
    letters = sum(character.isalpha() for character in paragraph)
    if not LEAST_CHARACTERS <= len(paragraph) <= MOST_CHARACTERS or letters < LEAST_LETTERS * len(paragraph):
        return False
    words = paragraph.lower().split()
    counts = {name: sum(word in common for word in words) for name, common in COMMON_WORDS.items()}
    return counts[language] > max((count for name, count in counts.items() if name != language), default=0)


def main() -> None:
    """Fetch the packages and write the two texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", help="Debian packages with HTML pages")
    parser.add_argument("--language", required=True, choices=sorted(COMMON_WORDS))
    parser.add_argument("--output", required=True, help="path of the two files, without -train.txt and -valid.txt")
    parser.add_argument("--every", type=int, default=HELD_OUT_EVERY, help="one block in so many is held out, 8 or more")
    given = parser.parse_args()
    kept: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        for package in given.packages:
            kept |= dict.fromkeys(p for p in paragraphs_of(package, Path(folder)) if is_text(p, given.language))
    training, held_out = split_lines(list(kept), given.every)
    forbidden = {letters_of(line) for line in held_out}
    training = [line for line in training if letters_of(line) not in forbidden]
    for name, lines in (("train", training), ("valid", held_out)):
        path = Path(f"{given.output}-{name}.txt")
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{path}: {len(lines):,} paragraphs, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
