"""The tables of the trials of other rows, from the raw figures in ``notebooks/experiments/trials``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clp_core.experiments.tables import NOTHING, Table

FIGURES = ("centred_cosine", "relative_error", "zero_step_bits_per_byte")


def trial_tables(folder: Path) -> list[Table]:
    """Return the candidates with their scores on both pairs, and those that were trained for some steps."""
    demo = candidates_in(folder / "demo.json")
    real = candidates_in(folder / "smollm2.json")
    for name, scores in candidates_in(folder / "smollm2-zero-step.json").items():
        real[name] = real.get(name, {}) | {key: value for key, value in scores.items() if value is not None}
    rows = [(f"`{name}`", *cells(demo.get(name, {})), *cells(real.get(name, {}))) for name in {**demo, **real}]
    columns = [f"{pair}: {figure}" for pair in ("demo", "SmolLM2") for figure in ("cosine", "error", "bits/byte")]
    found = [Table("rows", "Rows by other ways", ("candidate", *columns), tuple(rows))]
    trained = folder / "trained.json"
    return [*found, trained_table(json.loads(trained.read_text(encoding="utf-8")))] if trained.is_file() else found


def candidates_in(path: Path) -> dict[str, dict[str, Any]]:
    """Return the scores in a file by candidate; nothing where it is not there."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"candidates": []}
    return {scores["candidate"]: scores for scores in told["candidates"]}


def cells(scores: Mapping[str, Any]) -> list[str]:
    """Return the three figures of a candidate on a pair."""
    return [NOTHING if scores.get(name) is None else f"{scores[name]:.3f}" for name in FIGURES]


def trained_table(runs: list[dict[str, Any]]) -> Table:
    """Return the bits per byte of the candidates that were trained, by steps."""
    steps = list(runs[0]["bits_per_byte"])
    rows = [
        (
            f"`{run['candidate']}`" + (" and a teacher" if run["teacher"] else ""),
            *(f"{run['bits_per_byte'][step]:.3f}" for step in steps),
        )
        for run in runs
    ]
    return Table("trained", "Trained for some steps", ("candidate", *(f"{step} steps" for step in steps)), tuple(rows))
