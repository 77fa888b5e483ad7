"""Measure the exploring pages on a pair with vocabularies of 250,000 tokens: first open, and reruns once warm.

    python benchmarks/pages.py [--tokens 250000 --common 100000 --source-width 2048 --helper-width 768]

A source, a helper (one layer each, random weights) and a target are made in a temporary workspace, prepared as a job
would, and each page is run as the server runs it (streamlit's AppTest: the script and what it would send, without the
network and without the browser's drawing). Every rerun changes something: another token, another colour, another group,
another text; so nothing is measured that was kept from the run before. One explanation is timed alone too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def write_tokenizer(folder: Path, words: list[str]) -> None:
    """Write a SentencePiece-like tokenizer with these pieces."""
    pieces: list[list[Any]] = [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[word, -5.0 - 10 * i / len(words)] for i, word in enumerate(words)]
    special = [
        {"id": i, "content": pieces[i][0], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False} for i in range(3)
    ]  # fmt: skip
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0", "added_tokens": special, "normalizer": None, "pre_tokenizer": metaspace,
        "decoder": metaspace, "post_processor": None, "truncation": None, "padding": None,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    roles = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


def make_words(n: int, generator: np.random.Generator, taken: set[str]) -> list[str]:
    """Return new pieces of two to nine letters, half of them with a word start."""
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxzäöüß"))
    found: list[str] = list(letters) if not taken else []
    taken.update(found)
    while len(found) < n:
        word = "".join(generator.choice(letters, generator.integers(2, 10)))
        word = ("▁" if generator.random() < 0.5 else "") + word
        if word not in taken:
            taken.add(word)
            found.append(word)
    return found


def make_model(folder: Path, words: list[str], width: int, seed: int) -> None:
    """Write a model of one small layer with random weights and this vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words) + 3, hidden_size=width, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        torch_dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, words)


def make_workspace(root: Path, args: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    """Fill a workspace; return the seconds that preparing took, and words of the target language."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.transfer.options import TransferOptions
    from clp_core.transfer.pipeline import transfer
    from clp_core.workspace import Workspace

    space = Workspace(root)
    generator, taken = np.random.default_rng(0), set[str]()
    common = make_words(args.common, generator, taken)
    own = [make_words(args.tokens - args.common - 3, generator, taken) for _ in range(2)]
    names = ("source", "helper")
    for name, rest, width, seed in zip(names, own, (args.source_width, args.helper_width), (1, 2), strict=True):
        make_model(space.models / name, common + rest, width, seed)
    output = space.models / "target"
    folders = [str(space.models / name) for name in names]
    transfer(TransferOptions(*folders, str(output), method="clp", provenance="light", no_heldout=True))
    space.texts.mkdir(parents=True)
    words = own[1][:2_000] + common[:2_000]
    text = " ".join(word.strip("▁") for word in generator.permutation(words))
    (space.texts / "valid.txt").write_text(text)
    seconds = {}
    for name in (*names, "target"):
        started = time.perf_counter()
        prepare(space.models / name, space.cache)
        seconds[name] = round(time.perf_counter() - started, 1)
    return seconds, words


def timed(action: Callable[[], Any]) -> float:
    """Return the milliseconds that something takes."""
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def measure(name: str, query: dict[str, str], change: Callable[[Any, int], Any], repeats: int) -> dict[str, float]:
    """Open a page and run it again with changes; return first and median milliseconds."""
    from streamlit.runtime.pages_manager import PagesManager
    from streamlit.testing.v1 import AppTest

    begin = PagesManager.__init__

    def begin_with_navigation(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False  # as on a server that has run app.py once

    PagesManager.__init__ = begin_with_navigation  # type: ignore[method-assign]
    app = AppTest.from_file(ROOT / "app.py", default_timeout=300)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    first = timed(lambda: app.switch_page(f"pages/{name}.py").run())
    change(app, 0)
    app.run()
    times = []
    for i in range(1, repeats + 1):
        change(app, i)
        times.append(timed(app.run))
        if app.exception or app.error:
            raise SystemExit(f"{name}: {[found.value for found in (*app.exception, *app.error)]}")
    return {"first_ms": round(first), "median_ms": round(statistics.median(times)), "largest_ms": round(max(times))}


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--common", type=int, default=100_000)
    parser.add_argument("--source-width", type=int, default=2_048)
    parser.add_argument("--helper-width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("CLP_BENCHMARK_DIR")) as folder:
        root = Path(folder)
        os.environ["CLP_WORKSPACE"] = str(root)
        prepare_s, words = make_workspace(root, args)
        result: dict[str, Any] = {key: value for key, value in vars(args).items() if key != "repeats"}
        result["prepare_s"] = prepare_s
        result["explain"] = measure_explanation(root, args.repeats)
        pair = {"source": "source", "helper": "helper"}
        groups = ("script", "length", "word start", "rank", "category")
        colours = ("category", "script", "rank", "norm", "status")
        pages = {
            "overlap: another group": ("overlap", {}, lambda a, i: a.segmented_control[1].set_value(groups[i % 5])),
            "overlap: another search": ("overlap", {}, lambda a, i: a.text_input[0].set_value(words[i][:3])),
            "overlap: another text": ("overlap", {"view": "On a text"},
                                      lambda a, i: a.text_area[0].set_value(" ".join(words[20 * i : 20 * i + 20]))),
            "tokens: another token": ("tokens", {"target": "target"}, lambda a, i: a.text_input[0].set_value(words[i])),
            "tokens: another order of health": ("tokens", {"target": "target", "view": "Health of all rows"},
                                                lambda a, i: a.selectbox(key="worst_by").set_value(
                                                    a.selectbox(key="worst_by").options[i % 4])),
            "projection: another colour": ("projection", {"shown": "target"},
                                           lambda a, i: a.selectbox(key="widget_colour").set_value(colours[i % 5])),
            "projection: another token": ("projection", {"shown": "target"},
                                          lambda a, i: a.text_input[0].set_value(words[i])),
        }  # fmt: skip
        for title, (page, query, change) in pages.items():
            result[title] = measure(page, pair | query, change, args.repeats)
            print(title, result[title], flush=True)
    print(json.dumps(result, indent=1))


def measure_explanation(root: Path, repeats: int) -> dict[str, float]:
    """Return how long one token's explanation takes."""
    from clp_core.files.hashing import fingerprint
    from clp_core.geometry.embedding_cache import EmbeddingCache
    from clp_core.transfer.explanation import Explainer
    from clp_core.workspace import Workspace

    space = Workspace(root)
    helper = EmbeddingCache.find(space.models / "helper", space.cache)
    assert helper is not None, fingerprint(space.models / "helper")
    explainer = Explainer.open(space.models / "target", helper.rows("input"), helper.meta["content"])
    missing = np.flatnonzero((explainer.table["status"] == "initialised").to_numpy())
    first = timed(lambda: explainer.explain(int(missing[0]), 20))
    times = [timed(lambda i=i: explainer.explain(int(missing[i]), 20)) for i in range(1, repeats + 1)]
    return {"first_ms": round(first), "median_ms": round(statistics.median(times), 1)}


if __name__ == "__main__":
    main()
