"""An overlap on a running text: coverage, fertility, where two tokenizers disagree, and whether a pair is fit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from clp_core.errors import InputError
from clp_core.files.text_files import without_surrogates
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.scripts import NO_LETTER
from clp_core.tokenization.vocabulary import Vocabulary

MIN_ANCHORS = 300
MIN_COVERAGE = 0.3
MIN_SCRIPT_SHARE = 0.05
"""Share of a text's tokens from which on the anchors of a script count for the verdict."""

SCRIPT_COLUMNS = ("script", "share", "coverage", "anchors")
PART_CHARACTERS = 50_000
MARKS = "".join(chr(i) for i in range(0x10000) if unicodedata.category(chr(i)).startswith("M"))
WORD = re.compile(rf"\w[\w{re.escape(MARKS)}\u200c\u200d]*")
"""A run of letters, digits and underscores; combining marks and joiners, which ``\\w`` leaves out, go on in a word."""


@dataclass(frozen=True)
class Segmentation:
    """A text as one tokenizer reads it.

    Attributes:
        ids: token ids, ``[n]``.
        ends: position in the text, in characters, where each token ends, never falling, ``[n]``.
    """

    ids: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, vocabulary: Vocabulary, text: str) -> Segmentation:
        """Read a text without special tokens around it; a long one is read in parts that end at line ends."""
        ids, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        start = 0
        for part in parts_of(text):
            found = vocabulary.tokenizer.encode(part, add_special_tokens=False)
            ids.append(np.array(found.ids, dtype=np.int64))
            ends.append(np.array([end for _, end in found.offsets], dtype=np.int64) + start)
            start += len(part)
        joined = np.concatenate(ends)
        return cls(np.concatenate(ids), np.maximum.accumulate(joined) if len(joined) else joined)

    def cuts(self) -> np.ndarray:
        """Return the positions where a token ends and the next one begins, ascending."""
        return np.unique(self.ends)


@dataclass(frozen=True)
class TokenizerFigures:
    """What one tokenizer makes of a text.

    Attributes:
        tokens: running tokens.
        fertility: tokens a word (a word is a run of letters, digits and underscores).
        bytes_per_token: UTF-8 bytes of the text per token.
        unknown_share: share of the tokens that stand for unknown text.
    """

    tokens: int
    fertility: float
    bytes_per_token: float
    unknown_share: float

    @classmethod
    def of(cls, vocabulary: Vocabulary, text: str, reading: Segmentation | None = None) -> TokenizerFigures:
        """Measure a tokenizer on a text, which it may have read before."""
        ids = (reading or Segmentation.of(vocabulary, text)).ids
        n_words = sum(1 for _ in WORD.finditer(text)) or 1
        n = max(len(ids), 1)
        return cls(
            tokens=len(ids),
            fertility=len(ids) / n_words,
            bytes_per_token=len(text.encode("utf-8", errors="replace")) / n,
            unknown_share=float(np.isin(ids, list(vocabulary.unknown_ids)).sum() / n),
        )


@dataclass(frozen=True)
class Segment:
    """A stretch of text between two places where both tokenizers cut.

    Attributes:
        source: source ids.
        target: target ids.
        agrees: whether both cut it alike.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    agrees: bool


def segments(overlap: Overlap, source: Segmentation, target: Segmentation) -> Iterator[Segment]:
    """Yield the stretches of a text between the places where both readings cut, in order.

    They agree on a stretch where each has one token for it, or where both have the same bytes in the same cuts (a
    character that both write in several bytes).
    """
    common = np.intersect1d(source.cuts(), target.cuts())
    bounds = [np.concatenate([[0], np.searchsorted(reading.ends, common, "right")]) for reading in (source, target)]
    bounds = [np.append(found, len(reading.ids)) for found, reading in zip(bounds, (source, target), strict=True)]
    for i in range(len(common) + 1):
        own = tuple(source.ids[bounds[0][i] : bounds[0][i + 1]].tolist())
        other = tuple(target.ids[bounds[1][i] : bounds[1][i + 1]].tolist())
        if own or other:
            yield Segment(own, other, agree(overlap, own, other))


def agree(overlap: Overlap, source: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Say whether two tokenizers cut a stretch alike; a blank that marks a word start is no difference."""
    if len(source) != len(target):
        return False
    if len(source) == 1:
        return True
    pairs = zip(source, target, strict=True)
    return all(overlap.source.bytes_of(i).strip() == overlap.target.bytes_of(j).strip() for i, j in pairs)


@dataclass(frozen=True)
class TextOverlap:
    """An overlap on a text.

    Attributes:
        tokens: running tokens of the text under the target tokenizer.
        coverage: share of these that are overlap.
        source_fertility: source tokens a word (a word is a run of letters, digits and underscores).
        target_fertility: target tokens a word.
        source_bytes_per_token: UTF-8 bytes of the text per source token.
        target_bytes_per_token: UTF-8 bytes of the text per target token.
        unknown_share: share of the running target tokens that stand for unknown text.
        scripts: the text's scripts by running target tokens: columns script, share (of the tokens), coverage (share of
            them that is overlap), anchors (overlapping tokens of the vocabulary in that script).
        source_reading: the text under the source tokenizer.
        target_reading: the text under the target tokenizer.
    """

    tokens: int
    coverage: float
    source_fertility: float
    target_fertility: float
    source_bytes_per_token: float
    target_bytes_per_token: float
    unknown_share: float
    scripts: pd.DataFrame = field(repr=False)
    source_reading: Segmentation = field(repr=False)
    target_reading: Segmentation = field(repr=False)

    @property
    def figures(self) -> dict[str, float]:
        """The numbers alone, by name."""
        names = ("tokens", "coverage", "source_fertility", "target_fertility", "source_bytes_per_token")
        return {name: getattr(self, name) for name in (*names, "target_bytes_per_token", "unknown_share")}


def measure_text(overlap: Overlap, text: str) -> TextOverlap:
    """Measure an overlap on a running text.

    Raises:
        InputError: the text is empty.
    """
    if not text.strip():
        raise InputError("the text is empty; give some text of the target language")
    text = without_surrogates(text)
    source, target = Segmentation.of(overlap.source, text), Segmentation.of(overlap.target, text)
    of_source = TokenizerFigures.of(overlap.source, text, source)
    of_target = TokenizerFigures.of(overlap.target, text, target)
    return TextOverlap(
        tokens=of_target.tokens,
        coverage=float((overlap.source_ids[target.ids] >= 0).sum() / max(of_target.tokens, 1)),
        source_fertility=of_source.fertility,
        target_fertility=of_target.fertility,
        source_bytes_per_token=of_source.bytes_per_token,
        target_bytes_per_token=of_target.bytes_per_token,
        unknown_share=of_target.unknown_share,
        scripts=scripts_of(overlap, target.ids),
        source_reading=source,
        target_reading=target,
    )


def scripts_of(overlap: Overlap, ids: np.ndarray) -> pd.DataFrame:
    """Return the scripts of running target tokens, most frequent first; see ``TextOverlap.scripts``."""
    copied = overlap.source_ids >= 0
    scripts = overlap.target.scripts
    running = pd.DataFrame({"script": scripts[ids], "copied": copied[ids]})
    table = running.groupby("script")["copied"].agg(coverage="mean", tokens="size").reset_index()
    anchors = pd.Series(scripts[copied]).value_counts()
    table["share"] = table["tokens"] / max(len(ids), 1)
    table["anchors"] = [int(anchors.get(script, 0)) for script in table["script"]]
    return table.sort_values("tokens", ascending=False)[list(SCRIPT_COLUMNS)].reset_index(drop=True)


@dataclass(frozen=True)
class Fitness:
    """Whether a pair has enough in common for a transfer: a rule of thumb, not a measurement.

    Attributes:
        weaknesses: what speaks against it, as whole sentences; none means fit.
    """

    weaknesses: tuple[str, ...]

    @property
    def is_fit(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.weaknesses


def fitness(overlap: Overlap, on_text: TextOverlap) -> Fitness:
    """Judge a pair by its anchors, in all and in each script of the text, and by how much of the text they cover.

    Fewer than 300 anchors leave little to fit a method to; with less than 30 % of the running text covered, most of
    what the target reads at first are rows that were made up. A script of the text without anchors of its own is made
    of the tokens of others.
    """
    found = []
    if overlap.size < MIN_ANCHORS:
        found.append(f"There are only {overlap.size} tokens in common; {MIN_ANCHORS} are the least to fit a method to.")
    if on_text.coverage < MIN_COVERAGE:
        share = per_cent(on_text.coverage)
        found.append(f"Only {share} of the running text is copied; most of what the target reads first is made up.")
    if overlap.size >= MIN_ANCHORS:
        for script, share, coverage, anchors in zip(*(on_text.scripts[name] for name in SCRIPT_COLUMNS), strict=True):
            is_bare = anchors < MIN_ANCHORS and coverage < MIN_COVERAGE
            if is_bare and script != NO_LETTER and share >= MIN_SCRIPT_SHARE:
                found.append(f"{script} makes up {per_cent(share)} of the text and has only {anchors} anchors.")
    return Fitness(tuple(found))


def per_cent(share: float) -> str:
    """Return a share as whole per cent."""
    return f"{100 * share:.0f} %"


def parts_of(text: str) -> Iterator[str]:
    """Cut a text into parts of about 50,000 characters that end at line ends, or at a blank, where there is one."""
    start = 0
    while start < len(text):
        end = start + PART_CHARACTERS
        if end < len(text):
            line, blank = text.rfind("\n", start, end), text.rfind(" ", start, end)
            # A word starts with its blank, so a part ends before one.
            end = line + 1 if line > start else blank if blank > start else end
        yield text[start:end]
        start = end
