"""Word vectors from .vec text, composed to vectors of tokens, and two spaces aligned by a dictionary."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.linalg import orthogonal_procrustes

from clp_core.checkpoints.safetensors_reader import all_finite
from clp_core.errors import InputError
from clp_core.files.text_files import numbered_lines, read_lines
from clp_core.initializers.base import Vectors
from clp_core.progress import report_progress
from clp_core.tokenization.token_bytes import decoded
from clp_core.tokenization.vocabulary import Vocabulary

MAX_WORDS = 400_000
MIN_PAIRS = 50


@dataclass(frozen=True)
class WordVectors:
    """Words in the order of their file (most frequent first, by custom) and their vectors.

    Attributes:
        words: the words.
        vectors: float32 ``[n, v]``.
    """

    words: list[str]
    vectors: np.ndarray

    @cached_property
    def places(self) -> dict[str, int]:
        """Place of each word."""
        return {word: i for i, word in reversed(list(enumerate(self.words)))}

    @classmethod
    def read(cls, path: Path) -> WordVectors:
        """Read .vec text, compressed or not: a line with count and width, then a word and its numbers per line.

        At most the first 400,000 words are read.

        Raises:
            InputError: there is no such file, or it has another form.
        """
        if not path.is_file():
            raise InputError(f"there are no word vectors {path}; check the path")
        lines = numbered_lines(path)
        first = next(lines, (0, ""))[1].split()
        if len(first) != 2 or not all(part.isdecimal() for part in first):
            raise InputError(f"{path} is no .vec text: its first line should be the number of words and their width")
        count, width = min(int(first[0]), MAX_WORDS), int(first[1])
        words, vectors = [], np.zeros((count, width), dtype=np.float32)
        for i, (number, line) in enumerate(itertools.islice(lines, count)):
            word, *values = line.rstrip().rsplit(" ", width)
            try:
                with np.errstate(over="ignore"):
                    vectors[i] = np.array(values, dtype=np.float32).reshape(width)
            except ValueError as error:
                raise InputError(f"line {number} of {path} has not {width} numbers after a word") from error
            if not all_finite(vectors[i]):
                raise InputError(f"line {number} of {path} ({word!r}) holds NaN or infinity; remove the line")
            words.append(word)
        if not words:
            raise InputError(f"{path} holds no words")
        return cls(words, vectors[: len(words)])


def token_vectors(words: WordVectors, vocabulary: Vocabulary, *, direct: bool) -> np.ndarray:
    """Return a vector for each token, zeros where there is none, float32 ``[n_ids, v]``.

    A token's vector is the mean of the words that hold it among their tokens, weighted by frequency (WECHSEL, section
    3); .vec text has no counts, so a word's frequency is taken as 1 over its rank (Zipf).

    Args:
        words: word vectors.
        vocabulary: the tokens.
        direct: whether a token that is itself in the list takes that vector (FOCUS trains vectors of tokens).
    """
    total = np.zeros((vocabulary.n_ids, words.vectors.shape[1]))
    mass = np.zeros(vocabulary.n_ids)
    for prefix in ("", " "):
        for first, ids in encoded(words.words, prefix, vocabulary):
            weight = 1 / (first + 1)
            total[ids] += weight * words.vectors[first]
            mass[ids] += weight
    found = np.divide(total, mass[:, None], out=np.zeros_like(total), where=mass[:, None] > 0)
    if direct:
        for i, token in enumerate(vocabulary.tokens):
            text = (decoded(vocabulary.token_bytes[i]) or "").strip()
            place = words.places.get(token or "", words.places.get(text, -1))
            if token is not None and place >= 0:
                found[i] = words.vectors[place]
    found[list(vocabulary.special_ids)] = 0
    return found.astype(np.float32)


def encoded(
    words: list[str], prefix: str, vocabulary: Vocabulary, step: int = 10_000
) -> Iterator[tuple[int, list[int]]]:
    """Yield the place and the distinct token ids of each word, with a prefix before it."""
    for first in range(0, len(words), step):
        batch = [prefix + word for word in words[first : first + step]]
        for i, encoding in enumerate(vocabulary.tokenizer.encode_batch(batch, add_special_tokens=False)):
            yield first + i, sorted(set(encoding.ids))
        report_progress("composing token vectors", min(1.0, (first + step) / len(words)))


def read_dictionary(path: Path, source: WordVectors, target: WordVectors) -> list[tuple[int, int]]:
    """Return places of word pairs, source first, from lines of two words (tab or blank between, either order).

    The order is the one in which more pairs have vectors on both sides.

    Raises:
        InputError: there is no such file, or too few pairs have vectors.
    """
    if not path.is_file():
        raise InputError(f"there is no dictionary {path}; check the path")
    pairs = [line.split("\t") if "\t" in line else line.split() for line in read_lines(path)]
    pairs = [[word.strip() for word in pair] for pair in pairs if len(pair) == 2]
    orders = [
        [(source.places[a], target.places[b]) for a, b in order if a in source.places and b in target.places]
        for order in (pairs, [pair[::-1] for pair in pairs])
    ]
    best = max(orders, key=len)
    if len(best) < MIN_PAIRS:
        raise InputError(
            f"only {len(best)} pairs of {path} have vectors in both languages, {MIN_PAIRS} are needed; "
            "check that the dictionary is of these two languages"
        )
    return best


def read_vectors(
    target_file: str, source_file: str, dictionary: str, source: Vocabulary, target: Vocabulary
) -> Vectors | None:
    """Return the vectors of both vocabularies' tokens, ``None`` where no file is named.

    With target vectors alone the rule is FOCUS; with source vectors and a dictionary it is WECHSEL, the source's space
    turned onto the target's by orthogonal Procrustes on the dictionary's pairs.

    Raises:
        InputError: a file is missing or has another form, or source vectors come without a dictionary.
    """
    if not target_file:
        if source_file or dictionary:
            raise InputError("source vectors and a dictionary need --target-vectors too")
        return None
    if bool(source_file) != bool(dictionary):
        raise InputError("the rule of WECHSEL needs both --source-vectors and --dictionary")
    report_progress("reading word vectors")
    target_words = WordVectors.read(Path(target_file).expanduser())
    if not source_file:
        return Vectors(token_vectors(target_words, target, direct=True))
    source_words = WordVectors.read(Path(source_file).expanduser())
    if source_words.vectors.shape[1] != target_words.vectors.shape[1]:
        raise InputError(
            f"{source_file} has vectors of width {source_words.vectors.shape[1]}, {target_file} of "
            f"{target_words.vectors.shape[1]}; the rule of WECHSEL needs one width"
        )
    pairs = np.array(read_dictionary(Path(dictionary).expanduser(), source_words, target_words))
    turn, _ = orthogonal_procrustes(
        source_words.vectors[pairs[:, 0]].astype(np.float64), target_words.vectors[pairs[:, 1]].astype(np.float64)
    )
    aligned = WordVectors(source_words.words, (source_words.vectors @ turn).astype(np.float32))
    return Vectors(token_vectors(target_words, target, direct=False), token_vectors(aligned, source, direct=False))
