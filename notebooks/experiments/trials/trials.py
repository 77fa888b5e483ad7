"""Trials of rows made from the same two models, and of what the text of training tells of them; to be thrown away.

Each candidate is one short function of a context (the anchors it may see) and ids. It is scored on hidden anchors as
``clp_core.transfer.heldout_anchors`` does, and by the bits per byte of the source with its rows, before any training.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from trial_data import BLOCK, Blocks, Candidate, Data, anchor_rows
from trial_rows import (
    CANDIDATES,
    Step,
    calibrated,
    joint,
    kernel,
    layers_alone,
    log_count,
    logit_space,
    low_rank,
    matched,
    means,
    newton,
    next_mean,
    norm_by_frequency,
    piece_means,
    prefix_mean,
    product_method,
    source_next,
    stacked,
    times,
    weighted,
    whitened,
)

from clp_core.data.packing import token_stream
from clp_core.data.text_sources import Texts
from clp_core.evaluation.bits_per_byte import EvaluationText, load_model, score
from clp_core.geometry.embedding_cache import max_positions
from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.transfer import heldout_anchors
from clp_core.transfer.model_pair import ModelPair

log = logging.getLogger(__name__)
AUTO = "linear:neighbours=16"
CANDIDATES |= {
    name: product_method(name)
    for name in ("clp", "clp-sparse", "clp-topk", "linear", AUTO, "two-view", "mean", "random", "subword-mean")
}
CANDIDATES |= {f"weighted {p}": weighted(lambda c, p=p: c**p) for p in (-0.25, 0.25, 0.5)}
CANDIDATES |= {"weighted log": weighted(np.log1p), "weighted log +16": weighted(np.log1p, 16)}
CANDIDATES |= {f"weighted {p} +16": weighted(lambda c, p=p: c**p, 16) for p in (-0.25, 0.25, 0.5)}
CANDIDATES |= {f"rbf {w} {s}{' +16' if near else ''}": kernel(w, s, near)
               for w, s in ((1, 0.5), (0.6, 0.7), (1, 0.9)) for near in (0, 16)}  # fmt: skip
BLOCKS: dict[str, Blocks] = {
    "means": means,
    "next": next_mean,
    "alone": layers_alone,
    "bigrams": lambda data, _: [data.bigrams],
    "spelling": lambda data, _: [data.spelling],
    "count": log_count,
    "source-next": source_next,
    "pieces": piece_means,
    "pieces+alone": lambda data, context: [*piece_means(data, context), *data.alone],
    "pieces+means": lambda data, context: [*piece_means(data, context), *data.context_means],
    "means+bigrams": lambda data, _: [*data.context_means, data.bigrams],
    "next+source-next": lambda data, context: [data.context_means[-1], *source_next(data, context)],
    "pieces+source-next": lambda data, context: [*piece_means(data, context), *source_next(data, context)],
    "spelling+source-next": lambda data, context: [data.spelling, *source_next(data, context)],
    "everything": lambda data, context: [
        *data.context_means, data.bigrams, data.spelling, *source_next(data, context), *piece_means(data, context)
    ],
}  # fmt: skip
for _name, _blocks in BLOCKS.items():
    CANDIDATES |= {_name: joint(_blocks), f"{_name} +16": joint(_blocks, "row"),
                   f"{_name} +16 joint": joint(_blocks, "joint")}  # fmt: skip
for _name in ("means", "spelling", "source-next", "everything"):
    CANDIDATES |= {f"{_name} by block": joint(BLOCKS[_name], by_block=True),
                   f"{_name} by block +16": joint(BLOCKS[_name], "row", by_block=True)}  # fmt: skip
CANDIDATES |= {f"whitened {kind}": whitened(kind) for kind in ("clp", "sparse", "topk")}
CANDIDATES |= {"whitened topk 16": whitened("topk", k=16), "whitened sparse 1": whitened("sparse", 1.0),
               "whitened topk 1": whitened("topk", 1.0), "prefix": prefix_mean}  # fmt: skip
CANDIDATES |= {"rank 32": low_rank(32), "rank 64 source-next": low_rank(64, source_next)}
CANDIDATES |= {"logit-space": logit_space(), "logit-space +16": logit_space(16)}
CANDIDATES |= {f"{AUTO} x {f}": times(AUTO, f) for f in (0.6, 0.8, 1.2, 1.5)}
CANDIDATES |= {"linear x 0.8": times("linear", 0.8), "norm by frequency": norm_by_frequency(AUTO)}
CANDIDATES |= {
    "shrunk linear": stacked("linear"),
    "shrunk +16": stacked(AUTO),
    "stack linear topk": stacked("linear", "clp-topk"),
    "stack +16 prefix": stacked(AUTO, "prefix"),
    "stack +16 rbf spelling": stacked(AUTO, "rbf 1 0.9", "spelling +16"),
    "stack all": stacked(AUTO, "rbf 1 0.9 +16", "spelling +16", "means +16", "two-view"),
}
CALIBRATIONS: dict[str, Step] = {
    f"unigram {which}{' untied' if untied else ''}": calibrated(which, untied)
    for which in ("all", "missing", "one")
    for untied in (False, True)
}
CALIBRATIONS["unigram all 1 round"] = calibrated("all", rounds=1)
CALIBRATIONS["unigram all 8 rounds"] = calibrated("all", rounds=8)
CALIBRATIONS |= {f"matched {share}": matched(share) for share in (0.1, 0.3, 1.0)}
CALIBRATIONS |= {f"newton {share}{' untied' if untied else ''}": newton(share, 5.0, untied)
                 for share in (0.1, 0.3, 1.0) for untied in (False, True)}  # fmt: skip
STEPS: dict[str, tuple[str, Step]] = {
    f"{base}; {name}": (base, step) for base in CANDIDATES for name, step in CALIBRATIONS.items()
}


class AsMethod(Initializer):
    """A candidate as heldout scores it."""

    def __init__(self, data: Data, candidate: Candidate) -> None:
        self.data, self.candidate = data, candidate

    def fit(self, context: Context) -> Fitted:
        """Wait for the ids."""
        made = type("Made", (), {"rows": lambda _, ids: self.candidate(self.data, context, ids)})
        return made()  # type: ignore[no-any-return]


def measure(data: Data, text: EvaluationText | None, name: str, folds: int) -> dict[str, Any]:
    """Return the figures of one candidate."""
    base, step = STEPS.get(name, (name, None))
    context = data.pair.context("input", 42)
    out: dict[str, Any] = {"candidate": name}
    if step is None and folds:
        found = heldout_anchors.score(AsMethod(data, CANDIDATES[base]), context, 42, folds=folds)
        assert found is not None
        out |= {"centred_cosine": round(found.centred_cosine, 4), "relative_error": round(found.relative_error, 4)}
    started = time.perf_counter()
    rows = data.all_rows(context, CANDIDATES[base])
    output = None
    if step is not None:
        rows, output = step(data, context, rows)
    out["seconds"] = round(time.perf_counter() - started, 2)
    missing = np.setdiff1d(np.arange(len(rows)), context.anchor_ids)
    copied = np.linalg.norm(anchor_rows(context), axis=1).mean()
    out["norm_ratio"] = round(float(np.linalg.norm(rows[missing], axis=1).mean() / copied), 3)
    if text is not None:
        data.set_rows(rows, output)
        out["zero_step_bits_per_byte"] = round(score(data.model, text).bits_per_byte, 4)
    return out


def main() -> None:
    """Score candidates, and write their figures after each one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("source", "helper", "train-text", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--text", default="", help="text to score before training; none: held-out only")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--source-blocks", type=int, default=300, help="blocks of the text that the source reads")
    parser.add_argument("--only", default="", help="names of candidates, by commas")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pair = ModelPair.open(args.source, args.helper)
    stream, _ = token_stream(Texts.open([args.train_text]), pair.overlap.target)
    blocks = stream[: len(stream) // BLOCK * BLOCK].reshape(-1, BLOCK).astype(np.int64)
    data = Data(pair, blocks, args.source_blocks, load_model(pair.source.folder))
    text = None
    if args.text:
        text = EvaluationText.read(Texts.open([args.text]), pair.overlap.target, max_positions(pair.source.config))
    file = Path(args.output)
    done = json.loads(file.read_text()) if file.is_file() else {"source": pair.source.folder.name,
        "helper": pair.helper.folder.name, "train_text": Path(args.train_text).name, "text": Path(args.text).name,
        "source_blocks": args.source_blocks, "candidates": []}  # fmt: skip
    names = args.only.split(",") if args.only else [*CANDIDATES, *(f"{AUTO}; {name}" for name in CALIBRATIONS)]
    for name in names:
        if any(found["candidate"] == name for found in done["candidates"]):
            continue
        found = measure(data, text, name, args.folds)
        log.info("%s", json.dumps(found))
        done["candidates"].append(found)
        file.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
