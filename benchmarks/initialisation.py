"""Time the closed form of CLP against the published per-token loop and against its two matrix products alone.

    python benchmarks/initialisation.py [--overlap 15000 --missing 35000 --helper-width 768 --width 1600]

All three run in this process on the same random inputs. The loop is timed on some tokens and extrapolated, which the
output says. What is timed of the closed form is what a transfer does: fit on the anchors, then rows for all missing
tokens, with the figures of n_eff.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from clp_core.embeddings.row_source import ArrayRows
from clp_core.initializers import initializer
from clp_core.initializers.base import Context


def published_row(helper: np.ndarray, anchors: np.ndarray, source: np.ndarray, token: int) -> np.ndarray:
    """Return one row as the published code computes it: cosine to every anchor, then the weighted mean."""
    query = helper[token]
    cosines = (anchors @ query) / (np.linalg.norm(anchors, axis=1) * np.linalg.norm(query))
    return (cosines[:, None] * source).sum(axis=0) / cosines.sum()


def best_of(repeats: int, run: object) -> float:
    """Return the shortest time of several runs, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlap", type=int, default=15_000)
    parser.add_argument("--missing", type=int, default=35_000)
    parser.add_argument("--helper-width", type=int, default=768)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--loop-tokens", type=int, default=200, help="tokens of the loop that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    helper = generator.standard_normal((args.overlap + args.missing, args.helper_width), dtype=np.float32) + 0.3
    source = generator.standard_normal((args.overlap, args.width), dtype=np.float32)
    anchor_ids, missing = np.arange(args.overlap), np.arange(args.overlap, len(helper))
    context = Context(ArrayRows(helper), anchor_ids, ArrayRows(source))
    rows = np.empty((args.missing, args.width), dtype=np.float32)

    def closed_form() -> None:
        fitted = initializer("clp").fit(context)
        for start in range(0, args.missing, 4096):
            rows[start : start + 4096] = fitted.rows(missing[start : start + 4096])

    def health() -> None:
        initializer("clp").fit(context).n_eff(missing)

    def two_products() -> None:
        np.matmul(helper[missing], helper[anchor_ids].T @ source)

    products = best_of(args.repeats, two_products)
    closed = best_of(args.repeats, closed_form)
    started = time.perf_counter()
    anchors = helper[anchor_ids]
    loop_rows = np.stack([published_row(helper, anchors, source, int(t)) for t in missing[: args.loop_tokens]])
    loop = (time.perf_counter() - started) / args.loop_tokens * args.missing
    difference = np.linalg.norm(rows[: args.loop_tokens] - loop_rows, axis=1) / np.linalg.norm(loop_rows, axis=1)
    result = {
        "overlap": args.overlap,
        "missing": args.missing,
        "helper_width": args.helper_width,
        "width": args.width,
        "two_matrix_products_s": round(products, 2),
        "closed_form_s": round(closed, 2),
        "published_loop_s_extrapolated": round(loop, 1),
        "loop_tokens_timed": args.loop_tokens,
        "loop_over_closed_form": round(loop / closed, 1),
        "closed_form_over_products": round(closed / products, 2),
        "n_eff_of_all_s": round(best_of(1, health), 2),
        "largest_relative_difference": float(difference.max()),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
