"""Train a candidate of the trials for its first steps on the demo pair, by a plain loop, with and without a teacher.

    python notebooks/experiments/trials/train_trial.py --source S --helper H --train-text FILE --text FILE \
        --output notebooks/experiments/trials/trained.json --candidate "linear:neighbours=16" --teacher

The loop has the recipe of ``clp train`` (AdamW, betas 0.9 and 0.95, gradients clipped at 1, warm-up, cosine); it is
here because a trial's rows are no target model. Each call adds one curve to the output.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trial_data import BLOCK, Data
from trials import CANDIDATES, STEPS

from clp_core.data.block_datasets import IGNORED_LABEL
from clp_core.data.packing import token_stream
from clp_core.data.text_sources import Texts
from clp_core.evaluation.bits_per_byte import EvaluationText, load_model, score
from clp_core.geometry.embedding_cache import max_positions
from clp_core.training.distillation import Distillation
from clp_core.training.schedule import plain, teacher_weight
from clp_core.transfer.model_pair import ModelPair

RATE, BATCH, PLANNED, SEED = 3e-3, 16, 500, 0
SOURCE_BLOCKS = 300
SCORED = (10, 25, 40, 60)


def rows_of(candidate: str, pair: ModelPair, blocks: np.ndarray) -> np.ndarray:
    """Return all rows of a candidate, ``[n_target, D]``."""
    data, context = Data(pair, blocks, SOURCE_BLOCKS, load_model(pair.source.folder)), pair.context("input", 42)
    base, step = STEPS.get(candidate, (candidate, None))
    rows = data.all_rows(context, CANDIDATES[base])
    return step(data, context, rows)[0] if step is not None else rows


def train(model: Any, blocks: np.ndarray, text: EvaluationText, teacher: Distillation | None) -> dict[str, float]:
    """Train the first steps of a planned run; return bits per byte by steps."""
    schedule = plain(PLANNED, RATE, RATE, 0.1, 0.0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    order = np.random.default_rng(SEED).permutation(len(blocks))
    found = {"0": round(score(model, text).bits_per_byte, 4)}
    for step in range(max(SCORED)):
        model.train()
        for group in optimiser.param_groups:
            group["lr"] = schedule.rates(step)[0]
        ids = torch.from_numpy(blocks[order[step * BATCH : (step + 1) * BATCH]].astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(input_ids=ids, use_cache=False)
            if teacher is not None:
                teacher.weight = teacher_weight(step, PLANNED, 1.0, 1.0)
                loss = teacher(outputs, ids)
            else:
                logits = outputs.logits[:, :-1].flatten(0, 1).float()
                loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=IGNORED_LABEL)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step + 1 in SCORED:
            found[str(step + 1)] = round(score(model, text).bits_per_byte, 4)
    return found


def main() -> None:
    """Train one candidate and add its curve to the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "helper", "train-text", "text", "output", "candidate"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--teacher", action="store_true", help="follow the helper besides the text")
    given = parser.parse_args()
    pair = ModelPair.open(given.source, given.helper)
    vocabulary = pair.overlap.target
    stream, _ = token_stream(Texts.open([given.train_text]), vocabulary)
    blocks = stream[: len(stream) // BLOCK * BLOCK].reshape(-1, BLOCK).astype(np.int64)
    text = EvaluationText.read(Texts.open([given.text]), vocabulary, max_positions(pair.source.config))
    rows = torch.nn.Parameter(torch.from_numpy(rows_of(given.candidate, pair, blocks).copy()).float())
    model = load_model(pair.source.folder)
    model.get_input_embeddings().weight = rows
    model.get_output_embeddings().weight = rows
    teacher = Distillation.open(pair.helper.folder, vocabulary, torch.device("cpu")) if given.teacher else None
    began = time.time()
    curve = train(model, blocks, text, teacher)
    output = Path(given.output)
    runs = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else []
    told = {"candidate": given.candidate, "teacher": given.teacher, "steps": max(SCORED), "of": PLANNED, "lr": RATE}
    told |= {"batch": BATCH, "seed": SEED, "text": Path(given.text).name, "bits_per_byte": curve}
    runs.append(told | {"seconds": round(time.time() - began)})
    output.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
