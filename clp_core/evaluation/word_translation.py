"""Word pairs found again between a target's and its source's embeddings.

For a word of the target language that is one token of the target, all tokens of the source that stand for a word of the
other side of the list are ranked by the cosine of their input rows with the token's own row. Both rows are centred: the
mean row of all tokens of their own matrix is taken away first, since in most models all rows share one large component.

Figures, over tokens of the target; where the list gives a token several right answers, the best ranked one counts:

* precision@k: share of tokens with a right answer among the k nearest;
* mean reciprocal rank: mean of 1 / rank of the first right answer, 0 where it is not among the 100 nearest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import check_rows
from clp_core.checkpoints.provenance_reading import missing_rows, read_columns
from clp_core.embeddings.nearest import nearest
from clp_core.embeddings.row_source import RowSource, Subset, mean_row
from clp_core.errors import InputError
from clp_core.evaluation.downstream import Proportion
from clp_core.evaluation.words import encode_words
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.files.text_files import read_lines
from clp_core.tokenization.vocabulary import Vocabulary, token_ids

NEAREST = 100
FEW = 5


@dataclass(frozen=True)
class Ranks:
    """What comes of ranks of first right answers.

    Attributes:
        precision_at_1: share of right answers in the first place.
        precision_at_5: share of right answers among the first five.
        mean_reciprocal_rank: mean of 1 / rank, 0 beyond the 100th.
    """

    precision_at_1: float
    precision_at_5: float
    mean_reciprocal_rank: float

    @classmethod
    def of(cls, ranks: np.ndarray) -> Ranks:
        """Measure ranks that count from 1, 0 where no right answer was found, ``[n]`` of at least one."""
        found = ranks > 0
        reciprocal = np.divide(1.0, ranks, out=np.zeros(len(ranks)), where=found)
        return cls(float((ranks == 1).mean()), float((found & (ranks <= FEW)).mean()), float(reciprocal.mean()))

    @classmethod
    def by_chance(cls, right: np.ndarray, n_candidates: int) -> Ranks:
        """Return what is expected of a random order.

        Args:
            right: number of right answers of each token, ``[n]``.
            n_candidates: number of candidates N.
        """
        still_none = np.ones(len(right))  # P(no right answer among the first r) = prod_i (N - m - i) / (N - i)
        reciprocal, within = np.zeros(len(right)), {}
        for rank in range(1, min(NEAREST, n_candidates) + 1):
            first = still_none * np.minimum(1, right / (n_candidates - rank + 1))
            reciprocal += first / rank
            still_none -= first
            within[rank] = float(1 - still_none.mean())
        return cls(within[1], within[min(FEW, n_candidates)], float(reciprocal.mean()))


@dataclass(frozen=True)
class RetrievalScore:
    """Retrieval of some tokens of the target.

    Attributes:
        first: how many have a right answer in the first place, of how many.
        ranks: figures of the ranks.
        chance: what a random order is expected to give.
    """

    first: Proportion
    ranks: Ranks
    chance: Ranks

    @classmethod
    def of(cls, ranks: np.ndarray, right: np.ndarray, n_candidates: int) -> RetrievalScore | None:
        """Measure the ranks of tokens and the number of right answers of each; ``None`` where there are no tokens."""
        if not len(ranks):
            return None
        first = Proportion(int((ranks == 1).sum()), len(ranks))
        return cls(first, Ranks.of(ranks), Ranks.by_chance(right, n_candidates))

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        interval = {"precision_at_1_interval": list(self.first.interval)}
        return {"tokens": self.first.n} | asdict(self.ranks) | interval | {"chance": asdict(self.chance)}


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of all tokens, and of those apart whose rows a transfer made or copied.

    Attributes:
        pairs: pairs of the list of which both words are one token.
        listed: all pairs of the list.
        candidates: tokens of the source that were ranked.
        all: figures of all tokens.
        missing: of tokens whose row was made; ``None`` without provenance, or where there are none.
        copied: of tokens whose row came from the source, which find a word spelt alike without any skill.
    """

    pairs: int
    listed: int
    candidates: int
    all: RetrievalScore
    missing: RetrievalScore | None
    copied: RetrievalScore | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        parts = {"all": self.all, "missing": self.missing, "copied": self.copied}
        told = {name: found.to_json() if found else None for name, found in parts.items()}
        return {"pairs": self.pairs, "listed": self.listed, "candidates": self.candidates} | told


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Return the word pairs of a file, each once: a line a pair, target language first, a tab between.

    Raises:
        InputError: the file is missing or empty, or a line has another form.
    """
    pairs: dict[tuple[str, str], None] = {}
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no file of word pairs {path}; check the path")
    for line in read_lines(file):
        words = [word.strip() for word in line.split("\t")]
        if len(words) != 2 or not all(words):
            raise InputError(f"{path} has a line {line[:60]!r}; write a pair a line: target word, a tab, source word")
        pairs[words[0], words[1]] = None
    if not pairs:
        raise InputError(f"{path} holds no text; write a pair a line: target word, a tab, source word")
    return list(pairs)


def word_tokens(vocabulary: Vocabulary, words: Iterable[str], n_rows: int) -> dict[str, int]:
    """Return the token of each word that is one token as it stands in a sentence, and has a row.

    Where the tokenizer marks word starts, a token that goes on inside words does not count.
    """
    different = list(dict.fromkeys(words))
    starts = vocabulary.word_starts if vocabulary.word_starts.any() else np.ones(vocabulary.n_ids, dtype=bool)
    return {
        word: ids[0]
        for word, ids in zip(different, encode_words(vocabulary, different), strict=True)
        if len(ids) == 1 and starts[ids[0]] and ids[0] < n_rows and ids[0] not in vocabulary.special_ids
    }


def retrieve(target: Checkpoint, source: Checkpoint, pairs: Sequence[tuple[str, str]]) -> Retrieval:
    """Look for the other word of pairs among the source's rows, from the target's rows.

    Args:
        target: a target model, or a checkpoint that was trained from it.
        source: the source model.
        pairs: words of the target's language and of the source's.

    Raises:
        InputError: the rows have different widths or are not finite, or no pair is one token on both sides.
    """
    target_rows, source_rows = target.rows("input"), source.rows("input")
    if target_rows.shape[1] != source_rows.shape[1]:
        raise InputError(
            f"{target.folder} has rows of width {target_rows.shape[1]}, {source.folder} of {source_rows.shape[1]}: "
            "their cosines mean nothing; name the source model that the target was made from"
        )
    vocabularies = Vocabulary.open(target.folder), Vocabulary.open(source.folder)
    for model, rows, vocabulary in zip((target, source), (target_rows, source_rows), vocabularies, strict=True):
        # One bad row makes the mean of all rows bad, and with it every cosine.
        check_rows(rows, token_ids(vocabulary, rows.shape[0]), "input", str(model.folder), vocabulary)
    own = word_tokens(vocabularies[0], (a for a, _ in pairs), target_rows.shape[0])
    others = word_tokens(vocabularies[1], (b for _, b in pairs), source_rows.shape[0])
    usable = [(own[a], others[b]) for a, b in pairs if a in own and b in others]
    if not usable:
        raise InputError(
            f"none of the {len(pairs):,} word pairs is one token on both sides; write the target's word first, "
            "then the source's"
        )
    answers: dict[int, set[int]] = defaultdict(set)
    for a, b in usable:
        answers[a].add(b)
    queries, candidates = np.array(sorted(answers)), np.unique([b for _, b in usable])
    ranks = ranks_of(
        centred(target_rows, queries, vocabularies[0]), centred(source_rows, candidates, vocabularies[1]),
        [np.searchsorted(candidates, sorted(answers[a])) for a in queries.tolist()],
    )  # fmt: skip
    right = np.array([len(answers[a]) for a in queries.tolist()])
    parts = {
        name: RetrievalScore.of(ranks[mask], right[mask], len(candidates))
        for name, mask in provenance_masks(target.folder, queries).items()
    }
    found = RetrievalScore.of(ranks, right, len(candidates))
    assert found is not None
    return Retrieval(len(usable), len(pairs), len(candidates), found, parts.get("missing"), parts.get("copied"))


def centred(rows: RowSource, ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Return the rows of some tokens less the mean row of all tokens that have one, ``[n, d]``."""
    mean = mean_row(Subset(rows, token_ids(vocabulary, rows.shape[0])))
    return np.asarray(rows.take(ids).astype(np.float64) - mean, dtype=np.float32)


def ranks_of(queries: np.ndarray, candidates: np.ndarray, answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rank of each query's first right answer by cosine, 0 where it is beyond the 100th, ``[q]``.

    Args:
        queries: ``[q, d]``.
        candidates: ``[n, d]``.
        answers: for each query the places of its right answers among the candidates.
    """
    _, near = nearest(queries, candidates, NEAREST)
    is_right = np.array([np.isin(row, right) for row, right in zip(near, answers, strict=True)])
    return np.where(is_right.any(axis=1), is_right.argmax(axis=1) + 1, 0)


def provenance_masks(folder: Path, ids: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return which of some tokens are missing and which copied, ``[n]`` of bool; nothing without provenance.

    Tokens that were added after the transfer are neither.
    """
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return {}
    status = read_columns(folder, ["status"])["status"].to_numpy()
    known, places = ids < len(status), np.minimum(ids, len(status) - 1)
    return {"missing": known & missing_rows(folder)[places], "copied": known & (status == "copied")[places]}
