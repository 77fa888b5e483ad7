"""Measure our UMAP layout against ``umap.UMAP(metric="cosine")`` as it comes: time, and how far neighbours are kept.

    python benchmarks/projection.py [--points 50000 --width 768] [--model FOLDER]

Both lay out the same rows for the same number of epochs in the same run, ours first with a seed (the same picture every
time), the peer without one (which lets it use all cores). Trustworthiness (scikit-learn's, cosine, k = 15) is taken on
one fixed sample of 5,000 points. Without ``--model`` the rows are drawn: clusters of clusters on a common mean, with a
falling spectrum, as embedding matrices have them. Numba's compilation is done before on a small sample, for both.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import umap
from sklearn.manifold import trustworthiness

from clp_core.projection import N_NEIGHBORS, n_epochs_of, umap_layout

SAMPLE = 5_000


def drawn_rows(points: int, width: int, seed: int = 0) -> np.ndarray:
    """Return rows with the shape of an embedding matrix: two levels of clusters, a falling spectrum, a common mean."""
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1) ** -0.4
    coarse = generator.standard_normal((60, width))
    fine = coarse[generator.integers(60, size=2_000)] + generator.standard_normal((2_000, width))
    rows = fine[generator.integers(2_000, size=points)] + 1.2 * generator.standard_normal((points, width))
    return ((rows + 0.7 * generator.standard_normal(width)) * spectrum).astype(np.float32)


def model_rows(folder: Path, points: int) -> np.ndarray:
    """Return the first input rows of a model."""
    from clp_core.checkpoint import Checkpoint

    rows = Checkpoint.open(folder).rows("input")
    return np.asarray(rows.take(np.arange(min(points, rows.shape[0]))), dtype=np.float32)


def peer_layout(rows: np.ndarray, epochs: int) -> np.ndarray:
    """Return the layout of umap-learn with its own neighbours, start and threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(umap.UMAP(metric="cosine", n_epochs=epochs).fit_transform(rows), dtype=np.float32)


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--model", type=Path, help="take the rows of this model instead")
    args = parser.parse_args()
    rows = model_rows(args.model, args.points) if args.model else drawn_rows(args.points, args.width)
    small = rows[:: max(1, len(rows) // 5_000)]
    epochs = n_epochs_of(len(rows))
    sample = np.sort(np.random.default_rng(1).choice(len(rows), min(SAMPLE, len(rows)), replace=False))
    result: dict[str, object] = {"points": len(rows), "width": rows.shape[1], "epochs": epochs}
    layouts = {"ours": lambda of: umap_layout(of, epochs=epochs), "peer": lambda of: peer_layout(of, epochs)}
    for layout in layouts.values():
        layout(small)
    seconds = {}
    for name, layout in layouts.items():
        started = time.perf_counter()
        found = layout(rows)
        seconds[name] = time.perf_counter() - started
        kept = trustworthiness(rows[sample], found[sample], n_neighbors=N_NEIGHBORS, metric="cosine")
        result[name] = {"seconds": round(seconds[name], 1), "trustworthiness": round(float(kept), 4)}
        print(name, result[name], flush=True)
    result["times_faster"] = round(seconds["peer"] / seconds["ours"], 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
