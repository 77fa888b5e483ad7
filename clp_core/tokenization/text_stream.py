"""Streaming decoder of tokens: never half a character, and joined the same as decoded in one piece."""

from __future__ import annotations

from collections.abc import Sequence

from clp_core.tokenization.scripts import UNREADABLE
from clp_core.tokenization.vocabulary import Vocabulary

LONGEST_TAIL = 64


class TextStream:
    """Decodes tokens one by one.

    ``DecodeStream`` of tokenizers 0.23 is no substitute. Under byte fallback it emits a character before the bytes that
    follow make it unreadable, then raises "Invalid prefix" at the next token; and it drops bytes that are cut off at
    the end of a text. Models write both. A test shows these failures, and fails once they are mended.

    Tokens are decoded behind one that precedes them: alone, the first would lose the blank before it. A character whose
    bytes are spread over tokens is held back until the last of them, and so is a run of a tokenizer's byte tokens,
    which is read as a whole: one byte too many makes all of it unreadable.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int] = ()) -> None:
        """Begin after the tokens of a prompt; without one, at the start of a text."""
        self._vocabulary = vocabulary
        before = next((i for i in reversed(prompt) if self._can_stand_before(i)), None)
        if before is None and prompt:
            before = next((i for i in range(vocabulary.n_ids) if self._can_stand_before(i)), None)
        self._ids = [] if before is None else [before]
        self._n_emitted = len(self._decoded(self._ids))

    def add(self, token_id: int) -> str:
        """Add a token; return the text that is now certain."""
        self._ids.append(token_id)
        certain = self._ids
        if self._vocabulary.family == "sentencepiece":
            while certain and self._vocabulary.is_byte(certain[-1]):
                certain = certain[:-1]
        text = self._decoded(certain).rstrip(UNREADABLE)
        piece = text[self._n_emitted :]
        self._n_emitted += len(piece)
        if len(self._ids) > LONGEST_TAIL and certain is self._ids and self._n_emitted == len(self._decoded(certain)):
            self._shorten()
        return piece

    def rest(self) -> str:
        """Return the text held back, once no more tokens come."""
        piece = self._decoded(self._ids)[self._n_emitted :]
        self._n_emitted += len(piece)
        return piece

    def _shorten(self) -> None:
        """Drop emitted tokens, so that the time per token does not grow with the text."""
        if self._can_stand_before(self._ids[-1]):
            self._ids = self._ids[-1:]
            self._n_emitted = len(self._decoded(self._ids))

    def _can_stand_before(self, token_id: int) -> bool:
        vocabulary = self._vocabulary
        if not 0 <= token_id < vocabulary.n_ids or vocabulary.tokens[token_id] is None:
            return False
        text = self._decoded([token_id])
        return not vocabulary.is_byte(token_id) and bool(text.strip()) and UNREADABLE not in text

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._vocabulary.tokenizer.decode(list(ids), skip_special_tokens=True))
