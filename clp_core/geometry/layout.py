"""Pictures of an embedding matrix in two dimensions: PCA at once, UMAP from exact neighbours; what is drawn of them."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from clp_core.embeddings.nearest import nearest_unit, unit
from clp_core.embeddings.row_source import block_ranges
from clp_core.errors import InputError
from clp_core.files.atomic import whole_file
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.geometry.neighbor_graph import check_same_tokens
from clp_core.geometry.project_options import UmapSettings
from clp_core.progress import report_progress

REDUCED_WIDTH = 50
NEGATIVE_SAMPLES = 1
"""Points pushed away for each one pulled near; umap-learn takes 5, which costs 2.5 times the time for no better layout
(``benchmarks/projection.py``)."""

MOST_POINTS = 100_000


def n_epochs_of(n: int) -> int:
    """Return the passes of UMAP over its graph for so many points, as umap-learn chooses them."""
    return 500 if n <= 10_000 else 200


def umap_layout(rows: np.ndarray, settings: UmapSettings | None = None, epochs: int | None = None) -> np.ndarray:
    """Return the UMAP layout of rows ``[n, d]`` by cosine, float32 ``[n, 2]``; the same every time.

    The rows are scaled to length 1 and reduced to 50 principal components; the neighbours are FAISS's exact ones among
    these, and the start is the first two components.
    """
    import umap

    chosen = settings or UmapSettings()
    report_progress("reducing the rows to 50 components", 0.05)
    components = reduced(unit(rows), REDUCED_WIDTH, chosen.seed)
    k = min(chosen.neighbors, len(rows) - 1)
    report_progress("finding exact neighbours", 0.1)
    scaled = unit(components)
    cosines, ids = nearest_unit(scaled, scaled, k)
    distances = np.clip(1 - cosines, 0, None)
    report_progress("laying out the picture", 0.2)
    start = components[:, :2] / max(float(components[:, :2].std()), 1e-12)
    bar = UmapProgress()
    with warnings.catch_warnings():
        # A seed means one thread, which is intended; the neighbours come without a search index, which none needs.
        warnings.filterwarnings("ignore", message=".*n_jobs value|.*precomputed_knn")
        layout = umap.UMAP(
            n_neighbors=k,
            min_dist=chosen.min_dist,
            n_epochs=epochs or n_epochs_of(len(rows)),
            negative_sample_rate=NEGATIVE_SAMPLES,
            metric="cosine",
            init=start.astype(np.float32),
            random_state=chosen.seed,
            precomputed_knn=(ids.astype(np.int32), distances.astype(np.float32)),
            tqdm_kwds={"file": bar, "disable": False, "bar_format": "{percentage:.0f} ", "mininterval": 0.5},
        ).fit_transform(components)
    return np.asarray(layout, dtype=np.float32)


class UmapProgress(io.StringIO):
    """Takes what umap-learn writes as its progress bar, and reports it as progress."""

    def write(self, text: str) -> int:
        """Report the per cent that a bar shows."""
        share = text.strip()
        if share.isdecimal():
            report_progress("laying out the picture", 0.2 + 0.75 * int(share) / 100)
        return len(text)


def reduced(rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Return the first principal components of rows, float32 ``[n, min(width, d, n)]``; signs are fixed."""
    from sklearn.decomposition import PCA

    components = min(width, *rows.shape)
    return np.asarray(PCA(components, random_state=seed).fit_transform(rows), dtype=np.float32)


def layout_file(prepared: EmbeddingCache, settings: UmapSettings, cache: Path) -> Path:
    """Return where a UMAP layout is kept: named by the hash of the rows, their tokens and the settings."""
    told = f"{settings.neighbors}-{settings.min_dist:g}-{settings.seed}-{REDUCED_WIDTH}-{NEGATIVE_SAMPLES}"
    digest = hashlib.blake2b(f"{prepared.meta['content']}-{told}".encode(), digest_size=12)
    digest.update(prepared.token_ids.tobytes())
    return cache / "projections" / f"{digest.hexdigest()}.npy"


def find_layout(
    prepared: EmbeddingCache, method: str, cache: Path, settings: UmapSettings | None = None
) -> np.ndarray | None:
    """Return the layout of a model's tokens, float32 ``[n, 2]``, or ``None`` where a UMAP was not made before."""
    if method == "pca":
        return prepared.pca[prepared.token_ids]
    file = layout_file(prepared, settings or UmapSettings(), cache)
    try:
        layout = np.load(file)
    except (OSError, EOFError, ValueError):  # not there, or damaged: it is made again
        return None
    return layout if isinstance(layout, np.ndarray) and layout.shape == (len(prepared.token_ids), 2) else None


def project(
    prepared: EmbeddingCache, method: str, cache: Path, settings: UmapSettings | None = None
) -> tuple[pd.DataFrame, bool]:
    """Lay out the tokens of a model; a layout of the same rows and settings is taken from the cache.

    Returns:
        One row a token with id, token, text (as shown to eyes), x, y, category, script and norm; and whether it came
        from the cache (where PCA always lies).

    Raises:
        InputError: the model has fewer than three tokens with finite rows.
    """
    vocabulary, ids = prepared.vocabulary, prepared.token_ids
    if len(ids) < 3:
        told = "; ".join([f"{vocabulary.name} has only {len(ids)} tokens with finite rows", *prepared.warnings])
        raise InputError(f"{told}; there is nothing to lay out")
    layout = find_layout(prepared, method, cache, settings)
    is_cached = layout is not None
    if layout is None:
        chosen = settings or UmapSettings()
        file = layout_file(prepared, chosen, cache)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            layout = find_layout(prepared, method, cache, chosen)
            if layout is None:
                layout = umap_layout(prepared.rows("input").take(ids), chosen)
                with whole_file(file) as part:
                    np.save(part, layout)
    table = pd.DataFrame(
        {
            "id": ids,
            "token": [vocabulary.tokens[i] for i in ids.tolist()],
            "text": [vocabulary.shown(i) for i in ids.tolist()],
            "x": layout[:, 0],
            "y": layout[:, 1],
            "category": vocabulary.categories[ids],
            "script": vocabulary.scripts[ids],
            "norm": prepared.norms[ids],
        }
    )
    return table, is_cached


def sampled(
    groups: np.ndarray, most: int = MOST_POINTS, always: Sequence[int] | np.ndarray = (), seed: int = 42
) -> np.ndarray:
    """Choose which of n points are drawn, stratified by group, ascending places ``[at most about most]``.

    Every group keeps its share of the points, and at least one; the draw is the same every time.

    Args:
        groups: name of each point's group, ``[n]``.
        most: how many are drawn.
        always: places that are never left out.
        seed: of the draw.
    """
    n = len(groups)
    if n <= most:
        return np.arange(n)
    generator = np.random.default_rng(seed)
    names, inverse, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    kept = [np.asarray(always, dtype=np.int64)]
    for group in range(len(names)):
        size = max(1, int(most * counts[group] / n))
        kept.append(generator.choice(np.flatnonzero(inverse == group), size, replace=False))
    return np.unique(np.concatenate(kept))


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Say which points ``[n, 2]`` lie inside a polygon ``[m, 2]``, by the even-odd rule, ``[n]`` of bool."""
    found = np.zeros(len(points), dtype=bool)
    x, y = points[:, 0], points[:, 1]
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        found ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


@dataclass(frozen=True)
class Movement:
    """How far the rows of a model moved in training.

    Attributes:
        ids: the tokens whose rows are finite before and after, ascending, ``[n]``.
        cosines: between each token's row before and after, ``[n]``.
        places: x before, y before, x after, y after on the principal axes of the rows before, float32 ``[n, 4]``.
        norm_ratio: length after over length before, ``[n]``.
    """

    ids: np.ndarray
    cosines: np.ndarray
    places: np.ndarray
    norm_ratio: np.ndarray

    @classmethod
    def of(cls, before: EmbeddingCache, after: EmbeddingCache) -> Movement:
        """Compare the input rows of two models of one tokenizer, token by token.

        Raises:
            InputError: their tokenizers or widths differ, or no row is finite in both.
        """
        check_same_tokens(before.vocabulary, after.vocabulary)
        if before.meta["width"] != after.meta["width"]:
            raise InputError(f"{before.meta['name']} and {after.meta['name']} have rows of different widths")
        ids = np.intersect1d(before.token_ids, after.token_ids)
        rows = [prepared.rows("input") for prepared in (before, after)]
        if not len(ids):
            raise InputError("; ".join(["no token has a finite row before and after", *after.warnings]))
        cosines, places = np.zeros(len(ids)), np.zeros((len(ids), 4), np.float32)
        places[:, :2] = before.pca[ids]
        for part in block_ranges(len(ids), before.meta["width"]):
            old, new = (found.take(ids[part]) for found in rows)
            cosines[part] = np.einsum("nd,nd->n", unit(old), unit(new))
            places[part, 2:] = before.axes.place(new)
        ratio = after.norms[ids] / np.maximum(before.norms[ids], 1e-12)
        return cls(ids, cosines, places, ratio)

    def furthest(self, n: int) -> np.ndarray:
        """Return the places among ``ids`` of the n tokens that turned most, furthest first."""
        return np.argsort(self.cosines, kind="stable")[:n]
