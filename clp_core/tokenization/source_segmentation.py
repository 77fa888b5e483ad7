"""The target's tokens as the source's tokenizer writes them: its pieces for each token's text."""

from __future__ import annotations

import json
from functools import cached_property

import numpy as np
from scipy import sparse

from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.token_bytes import WORD_START, character_of_byte, decoded
from clp_core.tokenization.vocabulary import Vocabulary

MOST_SPLITS = 64


class SourceSegmentation:
    """Pieces of target tokens in source tokens, never a token's own match.

    A hidden anchor is a token of the source, so its text would come back as itself: it is split at its last merge
    (BPE), or where the two parts are likeliest (Unigram) or the first longest (others).
    """

    def __init__(self, overlap: Overlap, n_source: int) -> None:
        """Take the two vocabularies, their overlap, and the number of source rows."""
        self._source = overlap.source
        self._n_source = n_source
        self._target = overlap.target
        self._source_ids = overlap.source_ids

    def of(self, ids: np.ndarray) -> sparse.csr_array:
        """Return equal weights on each token's pieces, ``[len(ids), n_source]``; an empty row where there are none."""
        lists = [self._pieces[int(i)] for i in ids]
        counts = np.array([len(pieces) for pieces in lists], dtype=np.int64)
        flat = np.array([piece for pieces in lists for piece in pieces], dtype=np.int64)
        weights = np.repeat(1 / np.maximum(counts, 1), counts)
        lines = np.repeat(np.arange(len(lists)), counts)
        found = sparse.csr_array((weights, (lines, flat)), shape=(len(lists), self._n_source))
        found.sum_duplicates()
        return found

    def traits(self, ids: np.ndarray) -> np.ndarray:
        """Return no pieces (0 or 1), log(1 + pieces), log(1 + bytes), starts a word; float64 ``[len(ids), 4]``."""
        counts = np.array([len(self._pieces[int(i)]) for i in ids])
        lengths, starts = self._target.lengths[ids], self._target.word_starts[ids]
        return np.column_stack([counts == 0, np.log1p(counts), np.log1p(lengths), starts]).astype(np.float64)

    @cached_property
    def _pieces(self) -> list[list[int]]:
        return [self._split(i) for i in range(self._target.n_ids)]

    def _split(self, token_id: int) -> list[int]:
        if self._target.tokens[token_id] is None or token_id in self._target.special_ids:
            return []
        raw = raw_text(self._target.token_bytes[token_id], self._source)
        own = int(self._source_ids[token_id])
        pieces = self._tokenise(raw) if raw is not None else self._bytes(self._target.token_bytes[token_id])
        if pieces == [own]:
            pieces = self._parts(self._source.tokens[own] or "")
        unknown = self._source.roles.get("unk")
        return [piece for piece in pieces if piece not in (own, unknown) and piece < self._n_source]

    def _tokenise(self, raw: str) -> list[int]:
        if self._source.family == "wordpiece":
            return self._source.encode(raw)
        return [token.id for token in self._source.tokenizer.model.tokenize(raw)]

    def _bytes(self, data: bytes) -> list[int]:
        """Return the source's tokens for single bytes, where it has all of them."""
        found = [self._byte_tokens.get(bytes([byte])) for byte in data]
        return [token for token in found if token is not None] if None not in found else []

    def _parts(self, token: str) -> list[int]:
        ids = self._source.ids
        if token in self._merges:
            return [ids[part] for part in self._merges[token] if part in ids]
        inner = "##" if self._source.family == "wordpiece" else ""
        splits = [(token[:i], inner + token[i:]) for i in range(min(len(token) - 1, MOST_SPLITS), 0, -1)]
        splits = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        if not splits:
            return []
        best = max(splits, key=lambda pair: self._scores.get(pair[0], 0.0) + self._scores.get(pair[1], 0.0))
        return [ids[best[0]], ids[best[1]]]

    @cached_property
    def _model(self) -> dict[str, object]:
        return json.loads(self._source.serialized).get("model") or {}

    @cached_property
    def _merges(self) -> dict[str, tuple[str, str]]:
        """The merge that makes each token, the earliest where there are several."""
        found: dict[str, tuple[str, str]] = {}
        merges = self._model.get("merges") or []
        assert isinstance(merges, list)
        for merge in merges:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            found.setdefault(left + right, (left, right))
        return found

    @cached_property
    def _scores(self) -> dict[str, float]:
        """Log probability of each token of a Unigram model."""
        vocabulary = self._model.get("vocab")
        return {token: float(score) for token, score in vocabulary} if isinstance(vocabulary, list) else {}

    @cached_property
    def _byte_tokens(self) -> dict[bytes, int]:
        keys = self._source.canonical_keys
        return {key: i for i, key in reversed(list(enumerate(keys))) if isinstance(key, bytes) and len(key) == 1}


def raw_text(data: bytes, vocabulary: Vocabulary) -> str | None:
    """Return bytes as a vocabulary writes them in its tokens, ``None`` where it cannot."""
    if vocabulary.family == "byte-level":
        characters = character_of_byte()
        return "".join(characters[byte] for byte in data)
    text = decoded(data)
    if text is None:
        return None
    if vocabulary.family == "sentencepiece":
        return text.replace(" ", WORD_START)
    return text.strip() if vocabulary.family == "wordpiece" else text
