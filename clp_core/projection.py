"""Pictures of an embedding matrix in two dimensions: PCA at once, UMAP from exact neighbours."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clp_core.errors import InputError
from clp_core.neighbors import nearest_unit, unit
from clp_core.options import option
from clp_core.prepared import Prepared
from clp_core.progress import report_progress

METHODS = ("umap", "pca")
REDUCED_WIDTH = 50
N_NEIGHBORS = 15
MIN_DIST = 0.1


@dataclass(frozen=True)
class ProjectOptions:
    """What a projection is asked to do."""

    model: str = option(help="model: a folder or a Hub id")
    output: str = option(help="parquet file to write")
    method: str = option("umap", help="layout", choices=METHODS)
    seed: int = option(42, help="seed of the layout", minimum=0)

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if self.method not in METHODS:
            raise InputError(f"--method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if not self.output.endswith(".parquet"):
            raise InputError("--output must end in .parquet")


def pca_layout(rows: np.ndarray, seed: int = 42) -> np.ndarray:
    """Return the first two principal components of the rows scaled to length 1, float32 ``[n, 2]``."""
    return reduced(unit(rows), 2, seed)


def umap_layout(rows: np.ndarray, seed: int = 42) -> np.ndarray:
    """Return the UMAP layout of rows by cosine, float32 ``[n, 2]``.

    The rows are scaled to length 1 and reduced to 50 principal components; the neighbours are FAISS's exact ones, and
    the start is the first two components.
    """
    import umap

    report_progress("reducing the rows to 50 components", 0.1)
    components = reduced(unit(rows), REDUCED_WIDTH, seed)
    k = min(N_NEIGHBORS, len(rows) - 1)
    report_progress("finding exact neighbours", 0.2)
    scaled = unit(components)
    cosines, ids = nearest_unit(scaled, scaled, k)
    distances = np.clip(1 - cosines, 0, None)
    report_progress("laying out the picture", 0.4)
    start = components[:, :2] / max(float(components[:, :2].std()), 1e-12)
    with warnings.catch_warnings():
        # A seed means one thread, which is intended; the neighbours come without a search index, which none needs.
        warnings.filterwarnings("ignore", message=".*n_jobs value|.*precomputed_knn")
        layout = umap.UMAP(
            n_neighbors=k,
            min_dist=MIN_DIST,
            metric="cosine",
            init=start.astype(np.float32),
            random_state=seed,
            precomputed_knn=(ids.astype(np.int32), distances.astype(np.float32)),
        ).fit_transform(components)
    return np.asarray(layout, dtype=np.float32)


def reduced(rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Return the first principal components of rows, float32 ``[n, min(width, d, n)]``; signs are fixed."""
    from sklearn.decomposition import PCA

    components = min(width, *rows.shape)
    return np.asarray(PCA(components, random_state=seed).fit_transform(rows), dtype=np.float32)


def layout_file(prepared: Prepared, method: str, seed: int, cache: Path) -> Path:
    """Return where the layout of a matrix is kept: named by the hash of its rows and the settings."""
    settings = f"{method}-{seed}-{REDUCED_WIDTH}-{N_NEIGHBORS}-{MIN_DIST}"
    digest = hashlib.blake2b(f"{prepared.meta['content']}-{settings}".encode(), digest_size=12).hexdigest()
    return cache / "projections" / f"{digest}.npy"


def find_layout(prepared: Prepared, method: str, cache: Path, seed: int = 42) -> np.ndarray | None:
    """Return a layout that was made before, ``[n_ids, 2]``, or ``None``."""
    file = layout_file(prepared, method, seed, cache)
    return np.load(file) if file.is_file() else None


def project(prepared: Prepared, method: str, cache: Path, seed: int = 42) -> tuple[pd.DataFrame, bool]:
    """Lay out the tokens of a model; a layout of the same rows and settings is taken from the cache.

    Returns:
        One row a token with id, token, x, y; and whether it came from the cache.

    Raises:
        InputError: the model has fewer than three tokens.
    """
    vocabulary = prepared.vocabulary
    ids = np.array([i for i, token in enumerate(vocabulary.tokens) if token is not None])
    if len(ids) < 3:
        raise InputError(f"{vocabulary.name} has only {len(ids)} tokens; there is nothing to lay out")
    found = find_layout(prepared, method, cache, seed)
    if found is None:
        rows = prepared.rows("input").take(ids)
        layout = umap_layout(rows, seed) if method == "umap" else pca_layout(rows, seed)
        file = layout_file(prepared, method, seed, cache)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npy")
        np.save(part, layout)
        part.replace(file)
    else:
        layout = found
    tokens = [vocabulary.tokens[i] for i in ids]
    table = pd.DataFrame({"id": ids, "token": tokens, "x": layout[:, 0], "y": layout[:, 1]})
    return table, found is not None
