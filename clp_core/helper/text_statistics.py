"""A first reading of a text before a tokenizer is trained on it: sizes, characters, and a part to measure on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from clp_core.data.packing import document_bytes
from clp_core.data.text_sources import Texts
from clp_core.data.train_valid_split import HELD_OUT_BYTES, SplitRule
from clp_core.progress import HEART, report_progress
from clp_core.tokenization.token_bytes import WORD_START

EVERY_50TH = SplitRule(block=1, every=50)
MIN_DOCUMENTS_TO_HOLD_OUT = 500
COVERAGE = 0.9995
"""Share of the running characters that stand for themselves in ``sentencepiece``; the rest fall back to bytes."""

BEAT_DOCUMENTS = 1000
MERGES_EXPECT_S = 3600.0


@dataclass
class Survey:
    """What a first reading of the text finds.

    Attributes:
        documents: number of documents.
        bytes: UTF-8 bytes, the line end of each document included.
        mixed: documents that NFC would change.
        characters: how often each character stands in it, where that was asked for.
        held_out: documents that training does not see.
        head: documents from its beginning, for a text that is too small to hold any out.
    """

    documents: int = 0
    bytes: int = 0
    mixed: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    held_out: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, texts: Texts, *, count_characters: bool) -> Survey:
        """Read a text once."""
        found = cls()
        held_bytes = head_bytes = 0
        for i, document in enumerate(texts):
            size = document_bytes(document)
            found.documents += 1
            found.bytes += size
            found.mixed += not unicodedata.is_normalized("NFC", document)
            if count_characters:
                found.characters.update(document)
            if EVERY_50TH.holds_out(i) and held_bytes + size <= HELD_OUT_BYTES:
                found.held_out.append(document)
                held_bytes += size
            if head_bytes < HELD_OUT_BYTES:
                found.head.append(document[:HELD_OUT_BYTES])
                head_bytes += size
            if i % BEAT_DOCUMENTS == 0:
                report_progress("reading the text")
        if found.documents < MIN_DOCUMENTS_TO_HOLD_OUT:
            found.held_out = []
        return found

    @property
    def measured_on(self) -> str:
        """In words, what the tokenizer's figures are measured on."""
        if self.held_out:
            return f"{len(self.held_out):,} documents that were held out (every {EVERY_50TH.every}th)"
        return "the text it was trained on, which has too few documents to hold some out"

    @property
    def measured_text(self) -> str:
        """The text that the tokenizer's figures are measured on."""
        return "\n".join(self.held_out or self.head)

    def training(self, texts: Texts) -> Iterator[str]:
        """Yield the documents that were not held out, and tell how far the reading is."""
        held, seen = 0, 0
        for i, document in enumerate(texts):
            seen += document_bytes(document)
            if EVERY_50TH.holds_out(i) and held < len(self.held_out) and self.held_out[held] == document:
                held += 1
                continue
            if i % BEAT_DOCUMENTS == 0:
                report_progress("counting the words", min(1.0, seen / self.bytes))
            yield document
        HEART.beat("learning the merges", expect_next_s=MERGES_EXPECT_S)

    def alphabet(self) -> list[str]:
        """Return the most frequent characters, as many as cover nearly all of the text, in code point order."""
        counts = Counter({character: n for character, n in self.characters.items() if not character.isspace()})
        counts[WORD_START] = max(1, self.documents)
        wanted, covered, chosen = COVERAGE * counts.total(), 0, []
        for character, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if covered >= wanted:
                break
            chosen.append(character)
            covered += n
        return sorted({*chosen, WORD_START})
