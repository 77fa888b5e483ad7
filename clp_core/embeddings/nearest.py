"""Exact nearest neighbours by FAISS, on a GPU where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from clp_core.embeddings.row_source import ArrayRows, RowSource, block_ranges, non_finite_rows

MOST_ON_GPU = 2048
"""Neighbours that FAISS finds on a GPU at the most; more are found on the CPU."""


SPARE = 16
"""Candidates beyond the neighbours asked for that are scored again from the full rows."""


@lru_cache(1)
def gpu_resources() -> Any:
    """Return FAISS's scratch memory on the GPU, made once."""
    return faiss.StandardGpuResources()


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows ``[n, d]`` scaled to length 1 as contiguous float32; rows of zeros, or not finite, become zero."""
    wide = np.ascontiguousarray(rows, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=(norms > 0) & np.isfinite(norms))


def nearest(queries: np.ndarray, base: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k rows of ``base`` with the largest cosine to each query, best first.

    Args:
        queries: ``[q, d]``.
        base: ``[n, d]``.
        k: how many; at most n are returned.

    Returns:
        Cosines ``[q, k]`` float32 and indices into ``base`` ``[q, k]`` int64.
    """
    return nearest_unit(unit(queries), unit(base), k)


def nearest_unit(
    queries: np.ndarray, base: np.ndarray, k: int, *, use_gpu: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Do what ``nearest`` does for rows that are scaled to length 1 already; the web app passes ``use_gpu=False``."""
    return largest_products(queries, base, k, use_gpu=use_gpu)


def largest_products(
    queries: np.ndarray, base: np.ndarray, k: int, *, use_gpu: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest inner products of each query with the rows of ``base``, and their indices, best first.

    Args:
        queries: ``[q, d]`` float32.
        base: ``[n, d]`` float32.
        k: how many; at most n are returned.
        use_gpu: whether a GPU may be used where there is one.
    """
    k = min(k, len(base))
    queries, base = np.ascontiguousarray(queries), np.ascontiguousarray(base)
    # The import says nothing: the GPU build runs without one too.
    if use_gpu and 0 < k <= MOST_ON_GPU and faiss.get_num_gpus() > 0:
        products, ids = faiss.knn_gpu(gpu_resources(), queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)
    else:
        products, ids = faiss.knn(queries, base, k, metric=faiss.METRIC_INNER_PRODUCT)
    return products, ids.astype(np.int64)


def write_index(rows: RowSource, ids: np.ndarray, path: Path) -> None:
    """Write the rows of some tokens, scaled to length 1, in half precision as a FAISS index that can be mapped.

    Their mean is taken away first: it changes no order, as it adds the same to all products with a query, and without
    it half precision keeps apart rows that are nearly alike, as in a space that has collapsed.

    Args:
        rows: ``[n_rows, d]``.
        ids: which of them, ``[n]``; the index knows them by their place in this array.
        path: the file.
    """
    index = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    total = np.zeros(rows.shape[1])
    for part in block_ranges(len(ids), rows.shape[1]):
        total += unit(rows.take(ids[part])).sum(axis=0, dtype=np.float64)
    mean = (total / max(len(ids), 1)).astype(np.float32)
    for part in block_ranges(len(ids), rows.shape[1]):
        index.add(unit(rows.take(ids[part])) - mean)
    faiss.write_index(index, str(path))


@dataclass(frozen=True)
class RowIndex:
    """The rows of a model's tokens, ready to be searched for one token without reading them into memory.

    Half precision finds the candidates; their cosines and order are those of the full rows.

    Attributes:
        index: FAISS's index over unit rows less their mean in half precision, mapped from its file.
        ids: the token of each of its rows, ascending, ``[n]``.
        rows: the full rows by token id, ``[n_rows, d]``.
    """

    index: Any
    ids: np.ndarray
    rows: RowSource

    @classmethod
    def open(cls, path: Path, ids: np.ndarray, rows: RowSource) -> RowIndex:
        """Map the file that ``write_index`` has written for these ids and rows."""
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), ids, rows)

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k tokens whose rows have the largest cosine to each query, best first.

        Args:
            queries: ``[q, d]``.
            k: how many; at most n are returned.

        Returns:
            Cosines ``[q, k]`` float32 and token ids ``[q, k]`` int64.
        """
        k = min(k, len(self.ids))
        if not k:
            return np.zeros((len(queries), 0), dtype=np.float32), np.zeros((len(queries), 0), dtype=np.int64)
        queries = unit(queries)
        _, places = self.index.search(queries, min(k + SPARE, len(self.ids)))
        found = self.ids[places]
        rows = unit(self.rows.take(found.ravel())).reshape(*found.shape, -1)
        # From the distance, as products of rows that are nearly alike differ in their last digits only.
        distances = ((rows - queries[:, None]) ** 2).sum(axis=-1)
        is_zero = np.asarray(~rows.any(axis=-1)) | np.asarray(~queries.any(axis=-1))[:, None]
        cosines = np.where(is_zero, 0, 1 - distances / 2)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines, order, 1), np.take_along_axis(found, order, 1)

    def neighbours(self, token_id: int, k: int) -> list[tuple[int, float]]:
        """Return the k nearest tokens of a token, itself left out: id and cosine, best first.

        A token without a row, or whose row is not finite, has none.
        """
        if token_id >= self.rows.shape[0]:
            return []
        row = self.rows.take(np.array([token_id]))
        if len(non_finite_rows(ArrayRows(row))):
            return []
        cosines, found = self.nearest(row, k + 1)
        pairs = zip(found[0].tolist(), cosines[0].tolist(), strict=True)
        return [(i, cosine) for i, cosine in pairs if i != token_id][:k]
