"""Sentences and words of a text, and the tokens that a tokenizer gives a word by itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clp_core.tokenization.vocabulary import Vocabulary

SENTENCE_END = re.compile(
    r"(?<=[^\W\d_]{3}\.)\s+|(?<=[^\W\d_]{3}\.[\"'”“»«)])\s+|(?<=[!?…।؟۔።])\s+|(?<=[!?…।؟۔።][\"'”“»«)])\s+"
)
"""Blanks after a full stop that three letters precede (``z. B.`` ends nothing), or after another closing mark."""

INSIDE_WORDS = "-'’"


@dataclass(frozen=True)
class Word:
    """A word as it stands in a sentence.

    Attributes:
        text: the word, without the marks around it.
        start: where it begins, in characters.
    """

    text: str
    start: int

    @property
    def stop(self) -> int:
        """Where it ends, in characters."""
        return self.start + len(self.text)


def sentences_of(document: str) -> Iterator[str]:
    """Yield the sentences of a document; what follows its last closing mark is one too."""
    for part in SENTENCE_END.split(document):
        if part.strip():
            yield part.strip()


def words_of(sentence: str) -> list[Word | None]:
    """Return what stands between blanks in a sentence: a word, or ``None`` for figures, paths and lone marks."""
    found: list[Word | None] = []
    for match in re.finditer(r"\S+", sentence):
        text, start = match.group(), match.start()
        kept = [i for i, character in enumerate(text) if unicodedata.category(character)[0] in "LMN"]
        if not kept:
            found.append(None)
            continue
        inner = text[kept[0] : kept[-1] + 1]
        is_word = all(c in INSIDE_WORDS or unicodedata.category(c)[0] in "LM" for c in inner)
        found.append(Word(inner, start + kept[0]) if is_word else None)
    return found


def casing(word: str) -> tuple[bool, bool, bool]:
    """Return the pattern of a word's capitals: whether it begins with one, and whether all others are, or none."""
    return word[:1].isupper(), word[1:].isupper(), word[1:].islower()


def encode_words(vocabulary: Vocabulary, words: Sequence[str]) -> list[list[int]]:
    """Return the ids of each word as it stands inside a sentence, after a blank.

    A tokenizer that puts a blank before every text by itself gets none from here.
    """
    if not words:
        return []
    spaced, bare = (
        vocabulary.tokenizer.encode_batch([before + word for word in words], add_special_tokens=False)
        for before in (" ", "")
    )
    return [
        own.ids if adds_blank(vocabulary, after.ids) else after.ids for after, own in zip(spaced, bare, strict=True)
    ]


def adds_blank(vocabulary: Vocabulary, ids: Sequence[int]) -> bool:
    """Say whether the ids of a text that begins with one blank begin with two."""
    data = b"".join(vocabulary.token_bytes[i] for i in ids[:2])
    return data.startswith(b"  ")
