"""FAISS on the GPU against the CPU: exact neighbours, and the graph that UMAP and the pages take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import faiss
import numpy as np

from clp_core.embeddings.nearest import largest_products, unit
from clp_core.geometry.neighbor_graph import NeighborGraph
from gpu_items.findings import NEEDS_GPU, Findings
from gpu_items.setting import Setting

ROWS, WIDTH, K = 50_000, 768, 15
SMOKE_ROWS, SMOKE_WIDTH = 600, 32
TIE = 1e-5
"""Cosines that differ by less count as equal: which of two such neighbours comes first is rounding."""


def run(setting: Setting, findings: Findings) -> None:
    """Search on both devices; in miniature the CPU's search is held against a full sort."""
    n, width = (SMOKE_ROWS, SMOKE_WIDTH) if setting.smoke else (ROWS, WIDTH)
    rows = unit(np.random.default_rng(0).standard_normal((n, width), dtype=np.float32))
    findings.figure("rows", [n, width])
    seconds, (cosines, ids) = timed(lambda: largest_products(rows, rows, K, use_gpu=False))
    findings.figure("cpu_seconds", seconds)
    some = np.arange(0, n, max(1, n // 500))
    exact = np.argsort(-(rows[some].astype(np.float64) @ rows.T.astype(np.float64)), axis=1, kind="stable")[:, :K]
    judge(findings, "neighbours on the CPU equal a full sort", rows, some, ids[some], exact)
    n_gpus = faiss.get_num_gpus()
    if not n_gpus:
        reason = NEEDS_GPU if not setting.on_gpu else f"FAISS {faiss.__version__} sees no GPU: it is the CPU build"
        findings.skip("neighbours on the GPU", reason)
        findings.skip("graph on the GPU", reason)
        cosines_found = NeighborGraph.of(rows, np.arange(n), K - 1).cosines
        findings.check("graph on the CPU", bool(np.isfinite(cosines_found).all()), f"{n:,} rows, {K - 1} neighbours")
        return
    largest_products(rows[:64], rows[:64], K)  # makes its scratch memory
    seconds, (on_gpu, found) = timed(lambda: largest_products(rows, rows, K))
    findings.figure("gpu_seconds", seconds)
    findings.figure("largest_cosine_difference", float(np.abs(on_gpu - cosines).max()))
    judge(findings, "neighbours on the GPU equal the CPU's", rows, np.arange(n), found, ids)
    with mock.patch.object(faiss, "get_num_gpus", return_value=0):
        seconds_cpu, on_cpu = timed(lambda: NeighborGraph.of(rows, np.arange(n), K - 1))
    seconds, graph = timed(lambda: NeighborGraph.of(rows, np.arange(n), K - 1))
    findings.figure("graph_seconds", {"cpu": seconds_cpu, "gpu": seconds})
    judge(findings, "graph on the GPU equals the CPU's", rows, np.arange(n), graph.near, on_cpu.near)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that some work takes, and its result."""
    began = time.perf_counter()
    result = work()
    return round(time.perf_counter() - began, 4), result


def judge(
    findings: Findings, name: str, rows: np.ndarray, queries: np.ndarray, found: np.ndarray, expected: np.ndarray
) -> None:
    """Compare two lists of neighbours, ties apart.

    Args:
        findings: where the verdict goes.
        name: of the check.
        rows: unit rows, ``[n, d]``.
        queries: which rows were searched for, ``[q]``.
        found: their neighbours, ``[q, k]``.
        expected: what they should be, ``[q, k]``.
    """
    same = found == expected
    tied = np.zeros_like(same)
    for query, column in zip(*np.nonzero(~same), strict=True):
        one, other = (rows[ids[query, column]] @ rows[queries[query]] for ids in (found, expected))
        tied[query, column] = abs(one - other) < TIE
    recall = float(np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(found, expected, strict=True)]))
    detail = f"{same.mean():.4%} of the places equal, {int(tied.sum())} ties, recall {recall:.4%}"
    findings.check(name, bool((same | tied).all()), detail)
