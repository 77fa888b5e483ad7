"""The overlap of many vocabularies, as a matrix."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clp_core.errors import InputError
from clp_core.progress import report_progress
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd


def overlap_pairs(vocabularies: Sequence[Vocabulary], match: str = "raw") -> list[Overlap]:
    """Return the overlap of every pair of vocabularies, each pair once, in the order given."""
    return [Overlap.of(a, b, match) for a, b in itertools.combinations(vocabularies, 2)]


@dataclass(frozen=True)
class OverlapMatrix:
    """The overlap of every vocabulary with every other, as in the paper's Table 1.

    Attributes:
        names: of the vocabularies, told apart where two are called alike.
        sizes: number of tokens of each, ``[n]``.
        counts: target tokens that overlap, by source (row) and target (column), ``[n, n]``.
        share_of_source: share of the source vocabulary (row) that the overlap uses, ``[n, n]``.
        share_of_target: share of the target vocabulary (column) that overlaps, ``[n, n]``.
        match: the match mode.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    counts: np.ndarray
    share_of_source: np.ndarray
    share_of_target: np.ndarray
    match: str

    @classmethod
    def of(cls, vocabularies: Sequence[Vocabulary], match: str = "raw") -> OverlapMatrix:
        """Match every vocabulary with every other, in both directions.

        Raises:
            InputError: fewer than two vocabularies, or an unknown match mode.
        """
        if len(vocabularies) < 2:
            raise InputError("a matrix needs two tokenizers or more")
        n = len(vocabularies)
        sizes = np.array([vocabulary.size for vocabulary in vocabularies])
        counts, of_source, of_target = np.diag(sizes), np.eye(n), np.eye(n)
        for i, j in itertools.permutations(range(n), 2):
            found = Overlap.of(vocabularies[i], vocabularies[j], match)
            counts[i, j], of_source[i, j], of_target[i, j] = found.size, found.share_of_source, found.share_of_target
            report_progress("matching the vocabularies", (i * n + j + 1) / n**2)
        names = [vocabulary.name for vocabulary in vocabularies]
        names = [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]
        return cls(tuple(names), sizes, counts, of_source, of_target, match)

    def table(self) -> pd.DataFrame:
        """Return one row an ordered pair: source, target, their sizes, overlap, share_of_source, share_of_target."""
        import pandas as pd

        rows = [
            (self.names[i], self.names[j], int(self.sizes[i]), int(self.sizes[j]), int(self.counts[i, j]),
             float(self.share_of_source[i, j]), float(self.share_of_target[i, j]))
            for i, j in itertools.permutations(range(len(self.names)), 2)
        ]  # fmt: skip
        columns = ["source", "target", "source_size", "target_size", "overlap", "share_of_source", "share_of_target"]
        return pd.DataFrame(rows, columns=columns)
