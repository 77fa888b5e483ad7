"""Exact nearest neighbours by FAISS, on a GPU where there is one."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import faiss
import numpy as np

MOST_ON_GPU = 2048
"""Neighbours that FAISS finds on a GPU at the most; more are found on the CPU."""


@lru_cache(1)
def gpu_resources() -> Any:
    """Return FAISS's scratch memory on the GPU, made once."""
    return faiss.StandardGpuResources()


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows ``[n, d]`` scaled to length 1 as contiguous float32; a zero row stays zero."""
    wide = np.ascontiguousarray(rows, dtype=np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)


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
