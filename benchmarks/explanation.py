"""Measure how long one token's explanation takes at 250,000 tokens: from the helper's rows, and from what was kept.

    python benchmarks/explanation.py [--tokens 250000 --anchors 100000 --helper-width 768]

A target's folder is made as a transfer leaves it (report, provenance, tokenizer; no weights), with a helper whose rows
lie in memory as the pages have them. The first explanation makes the anchors' points ready; the others are timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from clp_core.embeddings.row_source import ArrayRows
from clp_core.files.artifacts import PROVENANCE_FILE, REPORT_FILE
from clp_core.initializers import initializer
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.provenance import KEPT_ANCHORS, Anchors, Health, write_provenance


def make_target(folder: Path, tokens: int, anchors: int, method: str, *, keep: bool) -> None:
    """Write the files that an explanation reads."""
    generator = np.random.default_rng(0)
    names = tuple(f"t{i}" for i in range(tokens))
    vocabulary = Vocabulary("target", names, "plain", {}, frozenset())
    source_ids = np.full(tokens, -1)
    source_ids[np.sort(generator.choice(tokens, anchors, replace=False))] = np.arange(anchors)
    copied = source_ids >= 0
    overlap = Overlap(vocabulary, vocabulary, "raw", source_ids)
    health = Health(np.full(tokens, 50.0), np.ones(tokens), ~copied, copied, anchors, False)
    kept = Anchors.empty(tokens, KEPT_ANCHORS) if keep else None
    if kept is not None:
        missing = np.flatnonzero(~copied)
        places = generator.choice(np.flatnonzero(copied), (len(missing), KEPT_ANCHORS))
        weights = np.sort(generator.random(places.shape))[:, ::-1]
        kept.keep(missing, places, source_ids[places], weights, weights, weights.sum(1) * 2, weights.sum(1))
    status = np.where(copied, "copied", "initialised").astype(object)
    made_by = np.where(copied, "", method).astype(object)
    write_provenance(folder / PROVENANCE_FILE, overlap, status, made_by, np.ones(tokens), health, kept)
    vocabulary_file = {"version": "1.0", "added_tokens": [], "model": {
        "type": "WordLevel", "vocab": {name: i for i, name in enumerate(names)}, "unk_token": "t0"}}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary_file))
    report = {
        "source": str(folder), "helper": "(in memory)", "method": method, "seed": 42, "overrides": {},
        "parameters": {"input": {method: {"lambda": 100.0} if method == "linear" else {}}},
        "settings": {method: initializer(method).resolve({})},
    }  # fmt: skip
    (folder / REPORT_FILE).write_text(json.dumps(report))


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--anchors", type=int, default=100_000)
    parser.add_argument("--helper-width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    generator = np.random.default_rng(1)
    helper = ArrayRows(generator.standard_normal((args.tokens, args.helper_width), dtype=np.float32))
    result: dict[str, object] = {key: getattr(args, key) for key in ("tokens", "anchors", "helper_width")}
    for name, method, keep in (("clp", "clp", False), ("linear", "linear", False), ("kept anchors", "two-view", True)):
        with tempfile.TemporaryDirectory() as folder:
            make_target(Path(folder), args.tokens, args.anchors, method, keep=keep)
            explainer = Explainer.open(Path(folder), helper)
            missing = np.flatnonzero((explainer.table["status"] == "initialised").to_numpy())
            started = time.perf_counter()
            explainer.explain(int(missing[0]))
            first = time.perf_counter() - started
            times = []
            for token in generator.choice(missing, args.repeats):
                started = time.perf_counter()
                explainer.explain(int(token))
                times.append(time.perf_counter() - started)
            result[name] = {
                "first_s": round(first, 2),
                "median_ms": round(1000 * statistics.median(times), 1),
                "largest_ms": round(1000 * max(times), 1),
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
