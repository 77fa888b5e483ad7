"""Measure our UMAP layout against ``umap.UMAP(metric="cosine")`` as it comes: time, and how far neighbours are kept.

    python benchmarks/projection.py [--points 50000 --width 768] [--model FOLDER]

Both lay out the same rows for the same number of epochs, one after the other, each in a process of its own: once from
the start of the process, as the job does that a page starts (imports and numba's compilation count), and once again
warm. Ours has a seed, so that the picture is the same every time, which means one thread in umap-learn; the peer has
none, and uses all cores. Trustworthiness (scikit-learn's, cosine, k = 15) is taken on one fixed sample of 5,000 points.
Without ``--model`` the rows are drawn: clusters of clusters on a common mean, with a falling spectrum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SAMPLE = 5_000
NEIGHBOURS = 15


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
    from clp_core.checkpoints.checkpoint import Checkpoint

    rows = Checkpoint.open(folder).rows("input")
    return np.asarray(rows.take(np.arange(min(points, rows.shape[0]))), dtype=np.float32)


def lay_out(name: str, rows: np.ndarray, epochs: int) -> np.ndarray:
    """Return the layout by ``ours`` or by the ``peer``."""
    if name == "ours":
        from clp_core.geometry.layout import umap_layout

        return umap_layout(rows, epochs=epochs)
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(umap.UMAP(metric="cosine", n_epochs=epochs).fit_transform(rows), dtype=np.float32)


def run_one(name: str, folder: Path, epochs: int, started: float) -> None:
    """Lay out the stored rows twice, and print the seconds of each."""
    rows = np.load(folder / "rows.npy")
    layout = lay_out(name, rows, epochs)
    first = time.time() - started
    again = time.perf_counter()
    lay_out(name, rows, epochs)
    np.save(folder / f"{name}.npy", layout)
    print(json.dumps({"from_process_start_s": round(first, 1), "warm_s": round(time.perf_counter() - again, 1)}))


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--model", type=Path, help="take the rows of this model instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.folder, args.epochs, args.started)
        return
    from sklearn.manifold import trustworthiness

    from clp_core.geometry.layout import n_epochs_of

    rows = model_rows(args.model, args.points) if args.model else drawn_rows(args.points, args.width)
    epochs = n_epochs_of(len(rows))
    sample = np.sort(np.random.default_rng(1).choice(len(rows), min(SAMPLE, len(rows)), replace=False))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "rows.npy", rows)
        for name in ("ours", "peer"):
            command = [sys.executable, __file__, "--one", name, "--folder", folder, "--epochs", str(epochs)]
            done = subprocess.run(
                [*command, "--started", str(time.time())], check=True, stdout=subprocess.PIPE, text=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
            layout = np.load(Path(folder) / f"{name}.npy")[sample]
            kept = trustworthiness(rows[sample], layout, n_neighbors=NEIGHBOURS, metric="cosine")
            found[name]["trustworthiness"] = round(float(kept), 4)
    ratios = {key: round(found["peer"][key] / found["ours"][key], 2) for key in ("from_process_start_s", "warm_s")}
    result = {"points": len(rows), "width": rows.shape[1], "epochs": epochs, **found, "times_faster": ratios}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
