"""Measure what a change of settings costs on the page Train: one plan after another, over a large training text.

    python benchmarks/training_plan.py [--megabytes 19 --tokens 50000 --repeats 10]

A model with that many tokens (one layer, random weights) and two texts are made in a temporary workspace. Printed are
the milliseconds of the first plan, which reads texts and tokenizer; of plans that differ from it in the learning rate;
of the same with empty caches in memory, as in the process of `clp train` after the page has planned; and of the search
for contamination with which a run begins.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pages import make_model, make_words


def milliseconds(action: Callable[[], Any]) -> float:
    """Return the milliseconds that something takes."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def write_texts(folder: Path, words: list[str], megabytes: float) -> tuple[Path, Path]:
    """Write a training text of random sentences of these words, and a held-out text of a thousandth of its size."""
    generator = np.random.default_rng(0)
    plain = np.array([word.strip("▁") for word in words])
    paths = (folder / "train.txt", folder / "valid.txt")
    for path, size in zip(paths, (megabytes * 1e6, megabytes * 1e3), strict=True):
        with open(path, "w", encoding="utf-8") as file:
            while file.tell() < size:
                file.writelines(" ".join(line) + "\n" for line in plain[generator.integers(0, len(plain), (200, 20))])
    return paths


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=19.0)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("CLP_BENCHMARK_DIR")) as folder:
        os.environ["CLP_WORKSPACE"] = folder
        from clp_core.tokenization.vocabulary import Vocabulary
        from clp_core.training import plan as plans
        from clp_core.training.main import look_for_leak
        from clp_core.training.options import TrainOptions

        root, model = Path(folder), Path(folder) / "model"
        words = make_words(arguments.tokens - 3, np.random.default_rng(1), set())
        make_model(model, words, 64, 1)
        text, held_out = write_texts(root, words, arguments.megabytes)
        options = TrainOptions(str(model), (str(text),), str(held_out), device="cpu", max_steps=100)
        vocabulary = Vocabulary.open(model)  # the tokenizer's own cache, as of a model that was prepared

        def planned(**changed: Any) -> None:
            plans.plan(replace(options, **changed).resolved(), model, root / "cache")

        first = milliseconds(planned)
        changed = [milliseconds(lambda i=i: planned(learning_rate=1e-4 / (i + 1))) for i in range(arguments.repeats)]
        for cache in (plans.open_vocabulary, plans.count_beginning, plans.find_leak_once):
            cache.cache_clear()
        fresh = milliseconds(planned)
        job: Any = SimpleNamespace(path=root)
        search = milliseconds(lambda: look_for_leak(job, options, vocabulary, root / "cache"))
        found = {
            "first_plan": first, "changed_setting": statistics.median(changed), "fresh_process": fresh,
            "search_of_the_run": search,
        }  # fmt: skip
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
