"""Pre-tokens: how a new tokenizer divides a text before anything is merged.

A pre-token is a run of letters with their combining marks, of numbers, or of other signs, each with the blank before
it, or a run of white space. GPT-2's own rule cuts words at combining marks, which breaks up most scripts of India.

Runs are bounded at ``LONGEST_RUN`` characters: learning the merges of a run takes time quadratic in its length, so that
one long line without blanks would take hours. The bound is part of the tokenizer's regular expression, so texts are
divided alike in training and in use, and every text still comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

LONGEST_RUN = 256
"""Characters; words and sentences of scripts without blanks are shorter, so that hardly any of them is cut."""
LETTERS = r"\p{L}\p{M}\x{200C}\x{200D}"
LONG_WHITE_SPACE = re.compile(rf"\s{{{LONGEST_RUN + 1}}}")


def pattern(blank: str, longest: int | None = LONGEST_RUN) -> str:
    """Write the regular expression of a pre-token.

    Args:
        blank: the character that stands for a blank.
        longest: characters of the longest run; ``None`` for no bound.
    """
    run = "+" if longest is None else f"{{1,{longest}}}"
    words = (rf"{blank}?[{LETTERS}]{run}", rf"{blank}?\p{{N}}{run}", rf"{blank}?[^\s{LETTERS}\p{{N}}{blank}]{run}")
    return "|".join((*words, rf"\s{run}(?!\S)", rf"\s{run}", blank))


def splitter(blank: str, longest: int | None = LONGEST_RUN) -> PreTokenizer:
    """Make what divides a text into pre-tokens; see ``pattern``."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern(blank, longest)), "isolated")


def may_be_cut(document: str) -> bool:
    """Whether a document has a run that is too long, signs and letters not told apart: a quick test."""
    if len(document) <= LONGEST_RUN:
        return False
    lengths = list(map(len, document.split()))
    if max(lengths, default=0) > LONGEST_RUN:
        return True
    return len(document) - sum(lengths) > LONGEST_RUN and bool(LONG_WHITE_SPACE.search(document))


@dataclass
class CutCounter:
    """Counts where the bound cuts runs in documents that pass through.

    Attributes:
        blank: the character that stands for a blank.
        cuts: number of cuts so far.
    """

    blank: str
    cuts: int = 0

    def watch(self, documents: Iterable[str]) -> Iterator[str]:
        """Yield documents as they are, counting."""
        for document in documents:
            if may_be_cut(document):
                self.cuts += self._cuts_in(document)
            yield document

    @cached_property
    def _splitters(self) -> tuple[PreTokenizer, PreTokenizer]:
        return splitter(self.blank), splitter(self.blank, None)

    def _cuts_in(self, document: str) -> int:
        text = document.replace(" ", self.blank)
        bounded, unbounded = (len(parts.pre_tokenize_str(text)) for parts in self._splitters)
        return bounded - unbounded
