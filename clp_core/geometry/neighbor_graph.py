"""The nearest neighbours of every token of a model, and how far two models agree on them."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from clp_core.embeddings.nearest import nearest_unit, unit
from clp_core.errors import InputError
from clp_core.files.atomic import whole_file
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.progress import report_progress
from clp_core.tokenization.vocabulary import Vocabulary

K = 10
DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
"""What reading a damaged file of arrays raises."""
BLOCK = 4_096
DUPLICATE_COSINE = 0.999
"""Rows at least this near count as near-duplicates: the model can hardly tell such tokens apart."""


@dataclass(frozen=True)
class NeighborGraph:
    """The nearest neighbours of every token by the cosine of its input row, exact.

    Attributes:
        ids: the tokens, ascending, ``[n]``.
        near: the k nearest other tokens of each, best first, ``[n, k]`` int32.
        cosines: to them, float32 ``[n, k]``.
    """

    ids: np.ndarray
    near: np.ndarray
    cosines: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, ids: np.ndarray, k: int = K) -> NeighborGraph:
        """Search the neighbours of all rows, block by block, on a GPU where there is one.

        Args:
            rows: of the tokens, ``[n, d]``.
            ids: the tokens, ascending, ``[n]``.
            k: neighbours of each; at most n - 1.
        """
        k = min(k, len(ids) - 1)
        rows = unit(rows)
        # The mean changes no order; without it float32 keeps rows apart that are nearly alike.
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        base = rows - mean
        near, cosines = np.zeros((len(ids), k), np.int32), np.zeros((len(ids), k), np.float32)
        for start in range(0, len(ids), BLOCK):
            part = np.arange(start, min(start + BLOCK, len(ids)))
            products, found = nearest_unit(rows[part], base, k + 1)
            found_cosines = products + (rows[part] @ mean)[:, None]
            # The token itself is left out wherever it stands; among equal rows it may not come first, or not at all.
            is_self = found == part[:, None]
            is_self[~is_self.any(axis=1), -1] = True
            near[part] = ids[found[~is_self].reshape(len(part), k)]
            cosines[part] = found_cosines[~is_self].reshape(len(part), k)
            report_progress("finding the neighbours of every token", (part[-1] + 1) / len(ids))
        return cls(ids, near, cosines)

    def near_duplicates(self, above: float = DUPLICATE_COSINE) -> np.ndarray:
        """Return the tokens whose nearest other row has at least this cosine, ascending."""
        return self.ids[self.cosines[:, 0] >= above] if self.cosines.shape[1] else self.ids[:0]


def graph_file(prepared: EmbeddingCache, cache: Path, k: int = K) -> Path:
    """Return where the graph of a model's rows is kept, by their content."""
    return cache / "graphs" / f"{content_key(prepared, k)}.npz"


def content_key(prepared: EmbeddingCache, k: int) -> str:
    """Return a name for the rows of a model's tokens and a number of neighbours."""
    digest = hashlib.blake2b(f"{prepared.meta['content']}-{k}".encode(), digest_size=12)
    digest.update(prepared.token_ids.tobytes())
    return digest.hexdigest()


def find_graph(prepared: EmbeddingCache, cache: Path, k: int = K) -> NeighborGraph | None:
    """Return a graph that was made before, or ``None`` where there is none or its file is damaged."""
    file = graph_file(prepared, cache, k)
    if not file.is_file():
        return None
    try:
        with np.load(file) as found:
            graph = NeighborGraph(found["ids"], found["near"], found["cosines"])
    except DAMAGED:
        return None
    shape = (len(prepared.token_ids), min(k, len(prepared.token_ids) - 1))
    is_whole = graph.near.shape == graph.cosines.shape == shape and np.array_equal(graph.ids, prepared.token_ids)
    return graph if is_whole else None


def make_graph(prepared: EmbeddingCache, cache: Path, k: int = K) -> NeighborGraph:
    """Return the graph of a model's tokens, made once.

    Raises:
        InputError: the model has fewer than two tokens with finite rows.
    """
    found = find_graph(prepared, cache, k)
    if found is not None:
        return found
    if len(prepared.token_ids) < 2:
        told = "; ".join([f"{prepared.meta['name']} has fewer than two tokens with finite rows", *prepared.warnings])
        raise InputError(f"{told}; there are no neighbours to find")
    file = graph_file(prepared, cache, k)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        found = find_graph(prepared, cache, k)
        if found is not None:
            return found
        graph = NeighborGraph.of(prepared.rows("input").take(prepared.token_ids), prepared.token_ids, k)
        with whole_file(file) as part:
            np.savez(part, ids=graph.ids, near=graph.near, cosines=graph.cosines)
    return graph


@dataclass(frozen=True)
class Agreement:
    """How far two models of one tokenizer agree on each token's nearest neighbours (the paper's Figure 1).

    Attributes:
        ids: the tokens with a finite row in both, ascending, ``[n]``.
        common: how many of its k nearest tokens are the same in both, ``[n]``.
        k: neighbours looked at.
    """

    ids: np.ndarray
    common: np.ndarray
    k: int

    @classmethod
    def of(cls, first: NeighborGraph, second: NeighborGraph) -> Agreement:
        """Compare two graphs on the tokens that both have.

        Raises:
            InputError: there are none.
        """
        ids = np.intersect1d(first.ids, second.ids)
        if not len(ids):
            raise InputError("no token has a finite row in both models; there is nothing to compare")
        k = min(first.near.shape[1], second.near.shape[1])
        own, other = (graph.near[np.searchsorted(graph.ids, ids)][:, :k] for graph in (first, second))
        common = np.zeros(len(ids), dtype=np.int32)
        for column in range(k):
            common += (own[:, column, None] == other).any(axis=1)
        return cls(ids, common, k)

    @cached_property
    def share(self) -> np.ndarray:
        """Share of each token's neighbours that both models have, ``[n]``."""
        return self.common / self.k

    @property
    def mean(self) -> float:
        """Mean share of common neighbours."""
        return float(self.share.mean())

    @property
    def by_chance(self) -> float:
        """What the mean would be if the neighbours were drawn at random."""
        return self.k / max(len(self.ids) - 1, 1)

    def histogram(self) -> list[int]:
        """Return how many tokens have 0, 1, ... k neighbours in common."""
        return [int(count) for count in np.bincount(self.common, minlength=self.k + 1)]

    def table(self, vocabulary: Vocabulary) -> pd.DataFrame:
        """Return one row a token: id, token, common, share."""
        tokens = [vocabulary.tokens[i] for i in self.ids.tolist()]
        return pd.DataFrame({"id": self.ids, "token": tokens, "common": self.common, "share": self.share})

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        figures = {"k": self.k, "tokens": len(self.ids), "mean": self.mean, "by_chance": self.by_chance}
        return figures | {"histogram": self.histogram()}


def check_same_tokens(first: Vocabulary, second: Vocabulary) -> None:
    """Refuse two vocabularies that are not the same.

    Raises:
        InputError: they differ; the message names the first token that does.
    """
    if first.tokens == second.tokens:
        return
    pairs = zip(first.tokens, second.tokens, strict=False)
    shorter = min(first.n_ids, second.n_ids)
    place = next((i for i, (own, other) in enumerate(pairs) if own != other), shorter)
    told = [repr(found.tokens[place]) if place < found.n_ids else "nothing" for found in (first, second)]
    raise InputError(
        f"{first.name} and {second.name} have different tokenizers: id {place} is {told[0]} in one, {told[1]} in the "
        "other. They are compared token by token, so choose two models of one tokenizer, such as a helper and a "
        "target made with it"
    )


def make_agreement(first: EmbeddingCache, second: EmbeddingCache, cache: Path, k: int = K) -> Agreement:
    """Compare two models, whose graphs are made where they are lacking.

    Raises:
        InputError: they have different tokenizers.
    """
    check_same_tokens(first.vocabulary, second.vocabulary)
    return Agreement.of(make_graph(first, cache, k), make_graph(second, cache, k))


def find_agreement(first: EmbeddingCache, second: EmbeddingCache, cache: Path, k: int = K) -> Agreement | None:
    """Return the agreement of two models whose graphs were both made before, or ``None``.

    Raises:
        InputError: they have different tokenizers.
    """
    check_same_tokens(first.vocabulary, second.vocabulary)
    graphs = [find_graph(prepared, cache, k) for prepared in (first, second)]
    return Agreement.of(graphs[0], graphs[1]) if graphs[0] is not None and graphs[1] is not None else None
