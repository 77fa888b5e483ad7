"""Measure a transfer of a large checkpoint: peak memory, and time against a plain copy of the same bytes.

    python benchmarks/transfer_scale.py [--gib 14] [--folder DIR] [--method clp]

A synthetic bf16 Llama checkpoint with a vocabulary of 250,880 x 4,096 (untied, shards of 2 GiB) and a helper of
50,257 x 768 are made once. Then, in processes of their own, the weights are copied (`shutil.copyfile` and fsync) and
the transfer is run (light provenance, no held-out score); both start with cold page caches for the source where the
system lets us drop them. Peak memory is VmHWM of the transfer's process. Time is that of the transfer less the time of
the check that reads everything back, which is printed beside it. A last transfer has the functional check too
(``--check logits``, the default of ``clp transfer``): what that takes is printed as ``logits_check``.

    python benchmarks/transfer_scale.py --case clp
    python benchmarks/transfer_scale.py --case auto [--tokenizers SOURCE HELPER]

is a transfer as users run it, with held-out scores and full provenance, of a model of one small layer: ``clp`` from
150,000 x 2,048 untied to 60,000, ``auto`` from 128,256 x 2,048 tied to 50,257. Wall and CPU seconds of the whole
process are printed beside those of the one product that full provenance cannot do without, missing tokens by anchors in
float32. With ``--tokenizers`` two folders give real tokens, without which ``two-view`` has no pieces to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil

from clp_core.checkpoints.safetensors_writer import write_header

VOCABULARY, WIDTH = 250_880, 4096
TARGET, HELPER_WIDTH = 50_257, 768
IN_COMMON = 20_000
SHARD_BYTES = 2 << 30
HEADS, INNER = 32, 11_008


def tokenizer_file(folder: Path, words: list[str]) -> None:
    """Write a word-level tokenizer with these words and an end-of-text token first."""
    vocabulary = {"<end>": 0} | {word: i + 1 for i, word in enumerate(words)}
    added = {"id": 0, "content": "<end>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [added], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "bos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one Llama layer."""
    name = f"model.layers.{layer}."
    square, wide, tall = (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER)
    attention = {f"{name}self_attn.{part}_proj.weight": square for part in "qkvo"}
    return attention | {
        f"{name}mlp.gate_proj.weight": wide,
        f"{name}mlp.up_proj.weight": wide,
        f"{name}mlp.down_proj.weight": tall,
        f"{name}input_layernorm.weight": (WIDTH,),
        f"{name}post_attention_layernorm.weight": (WIDTH,),
    }


def write_random(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a bf16 safetensors file; 64 MiB of random values are repeated, with a different start for each tensor."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    values = np.random.default_rng(0).standard_normal((32 << 20) + 7, dtype=np.float32) * 0.02
    noise = values.astype(ml_dtypes.bfloat16).tobytes()
    with open(file, "wb") as writer:
        write_header(writer, header)
        for name, shape in shapes.items():
            left, start = 2 * int(np.prod(shape)), 2 * (hash_of(name) % 1000)
            while left:
                part = noise[start : start + left]
                writer.write(part)
                left, start = left - len(part), 0


def hash_of(name: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(name.encode()[-6:], "big")


def make_source(folder: Path, gib: float) -> int:
    """Write the source and return the bytes of its weights."""
    folder.mkdir(parents=True)
    matrix = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    body: dict[str, tuple[int, ...]] = {"model.norm.weight": (WIDTH,)}
    layers, used = 0, 2 * 2 * VOCABULARY * WIDTH
    while used < gib * 2**30 or not layers:
        body |= layer_shapes(layers)
        layers += 1
        used = 2 * 2 * VOCABULARY * WIDTH + sum(2 * int(np.prod(shape)) for shape in body.values())
    shards: list[dict[str, tuple[int, ...]]] = [matrix]
    size = SHARD_BYTES
    for name, shape in (body | {"lm_head.weight": (VOCABULARY, WIDTH)}).items():
        if size + 2 * int(np.prod(shape)) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * int(np.prod(shape))
    weight_map = {}
    for i, shapes in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_random(folder / file, shapes)
        weight_map |= dict.fromkeys(shapes, file)
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "tie_word_embeddings": False, "dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": 0, "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_file(folder, [f"s{i}" for i in range(VOCABULARY - 1)])
    return total


def make_helper(folder: Path) -> None:
    """Write the helper: a GPT-2 of one layer whose first words are the source's."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder.mkdir(parents=True)
    config = GPT2Config(vocab_size=TARGET, n_embd=HELPER_WIDTH, n_layer=1, n_head=12, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = [f"s{7 * i}" if i < IN_COMMON else f"t{i}" for i in range(TARGET - 1)]
    tokenizer_file(folder, words)


def forget(folder: Path) -> bool:
    """Take the files of a folder out of the page cache; say whether the system does that."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def timed_copy(source: Path, target: Path) -> float:
    """Copy the weight files to the disk and return the seconds."""
    target.mkdir()
    started = time.perf_counter()
    for path in sorted(source.glob("*.safetensors")):
        shutil.copyfile(path, target / path.name)
        with open(target / path.name, "rb+") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def transfer(root: Path, method: str, check: str) -> dict[str, Any]:
    """Transfer in a process of its own and return the report."""
    command = [sys.executable, "-m", "clp_core", "transfer", "--json", "--method", method, "--check", check]
    command += ["--source", str(root / "source"), "--helper", str(root / "helper"), "--output", str(root / "t")]
    command += ["--provenance", "light", "--no-heldout", "--device", "cpu"]
    environment = os.environ | {"CLP_WORKSPACE": str(root / "workspace"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@dataclass(frozen=True)
class Case:
    """A pair of models as users have them.

    Attributes:
        method: ``--method``.
        source: rows of the source.
        target: rows of the helper.
        tied: whether the source's embeddings are tied.
        in_common: words in common where the tokenizers are made.
    """

    method: str
    source: int
    target: int
    tied: bool
    in_common: int


CASES = {
    "clp": Case("clp", 150_000, 60_000, tied=False, in_common=25_000),
    "auto": Case("auto", 128_256, TARGET, tied=True, in_common=IN_COMMON),
}
CASE_WIDTH, CASE_INNER = 2048, 512


def make_case(root: Path, case: Case, tokenizers: list[Path] | None) -> None:
    """Write the pair of a case; tokenizers are folders whose files are copied, source first."""
    from transformers import GPT2Config, GPT2LMHeadModel

    source, helper = root / "source", root / "helper"
    source.mkdir(parents=True)
    width, name = CASE_WIDTH, "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (case.source, width),
        "model.norm.weight": (width,),
    }
    shapes |= {f"{name}self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
    shapes |= {f"{name}mlp.{part}_proj.weight": (CASE_INNER, width) for part in ("gate", "up")}
    shapes |= {f"{name}mlp.down_proj.weight": (width, CASE_INNER), f"{name}input_layernorm.weight": (width,)}
    shapes |= {f"{name}post_attention_layernorm.weight": (width,)}
    shapes |= {} if case.tied else {"lm_head.weight": (case.source, width)}
    write_random(source / "model.safetensors", shapes)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": case.source, "hidden_size": width,
        "intermediate_size": CASE_INNER, "num_hidden_layers": 1, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "tie_word_embeddings": case.tied, "dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": 0, "max_position_embeddings": 2048,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    config = GPT2Config(
        vocab_size=case.target, n_embd=HELPER_WIDTH, n_layer=1, n_head=12, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(helper)
    if tokenizers:
        for folder, given in zip((source, helper), tokenizers, strict=True):
            for path in given.iterdir():
                if path.is_file() and path.name not in ("config.json", "generation_config.json"):
                    shutil.copyfile(path, folder / path.name)
        return
    tokenizer_file(source, [f"s{i}" for i in range(case.source - 1)])
    tokenizer_file(helper, [f"s{5 * i}" if i < case.in_common else f"t{i}" for i in range(case.target - 1)])


def product_seconds(missing: int, anchors: int) -> float:
    """Time the product of all missing tokens' helper rows with those of all anchors, in float32, in blocks."""
    generator = np.random.default_rng(0)
    points = generator.standard_normal((HELPER_WIDTH, anchors), dtype=np.float32)
    step = max(1, (64 << 20) // (4 * anchors))
    queries = generator.standard_normal((step, HELPER_WIDTH), dtype=np.float32)
    started = time.perf_counter()
    for _ in range(3):
        queries @ points
    return (time.perf_counter() - started) / 3 * missing / step


def run_case(root: Path, case: Case, repeats: int) -> dict[str, Any]:
    """Run a case in processes of its own; return its figures."""
    runs, wall, cpu = [], [], []
    command = [sys.executable, "-m", "clp_core", "transfer", "--json", "--method", case.method, "--device", "cpu"]
    command += ["--source", str(root / "source"), "--helper", str(root / "helper"), "--output", str(root / "t")]
    environment = os.environ | {"CLP_WORKSPACE": str(root / "workspace"), "HF_HUB_OFFLINE": "1"}
    for _ in range(repeats):
        before, started = psutil.Process().cpu_times(), time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        after = psutil.Process().cpu_times()
        wall.append(time.perf_counter() - started)
        children = [times.children_user + times.children_system for times in (before, after)]
        cpu.append(children[1] - children[0])
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        shutil.rmtree(root / "t")
        shutil.rmtree(root / "workspace", ignore_errors=True)
    least = product_seconds(runs[0]["missing"], runs[0]["overlap"])
    return {
        "method": runs[0]["method"],
        "source": [case.source, CASE_WIDTH],
        "tied": case.tied,
        "target": case.target,
        "overlap": runs[0]["overlap"],
        "missing": runs[0]["missing"],
        "wall_s": [round(value, 1) for value in wall],
        "cpu_s": [round(value, 1) for value in cpu],
        "product_s": round(least, 1),
        "wall_over_product": round(min(wall) / least, 1),
        "peak_memory_gib": round(max(run["peak_rss_bytes"] for run in runs) / 2**30, 2),
    }


def main() -> None:
    """Run the benchmark and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=14.0, help="size of the source's weights (at least 4.3)")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the models are made (default: a temporary one)"
    )
    parser.add_argument("--method", default="clp")
    parser.add_argument(
        "--repeats", type=int, default=3, help="copies and transfers, taken in turn; each ratio is of neighbours"
    )
    parser.add_argument("--case", choices=CASES, default=None, help="a transfer as users run it, of a small model")
    parser.add_argument("--tokenizers", type=Path, nargs=2, default=None, metavar=("SOURCE", "HELPER"))
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="transfer-scale-", dir=args.folder))
    try:
        if args.case:
            make_case(root, CASES[args.case], args.tokenizers)
            print(json.dumps(run_case(root, CASES[args.case], args.repeats), indent=1))
            return
        needed = int(2.3 * args.gib * 2**30)
        if shutil.disk_usage(root).free < needed:
            raise SystemExit(f"{needed / 1e9:.0f} GB of disk are needed; give a smaller --gib or another --folder")
        size = make_source(root / "source", args.gib)
        make_helper(root / "helper")
        copies, runs = [], []
        cold = False
        for _ in range(args.repeats):
            cold = forget(root / "source")
            copies.append(timed_copy(root / "source", root / "copy"))
            cold = forget(root / "source")
            runs.append(transfer(root, args.method, "files"))
            written = sum(path.stat().st_size for path in (root / "t").glob("*.safetensors"))
            shutil.rmtree(root / "t")
        forget(root / "source")
        checked = transfer(root, args.method, "logits")
        times = [run["seconds"] - run["check_seconds"] for run in runs]
        ratios = [seconds / copy for seconds, copy in zip(times, copies, strict=True)]
        result = {
            "source_bytes": size,
            "target_bytes": written,
            "source_vocabulary": [VOCABULARY, WIDTH],
            "target_vocabulary": [TARGET, HELPER_WIDTH],
            "overlap": runs[0]["overlap"],
            "method": args.method,
            "cold_cache": cold,
            "copy_s": [round(value, 1) for value in copies],
            "transfer_s": [round(value, 1) for value in times],
            "check_s": [round(run["check_seconds"], 1) for run in runs],
            "transfer_over_copy": [round(ratio, 2) for ratio in ratios],
            "transfer_over_copy_median": round(statistics.median(ratios), 2),
            "peak_memory_gib": round(max(run["peak_rss_bytes"] for run in runs) / 2**30, 2),
            "logits_check": checked["check"]
            | {
                "check_s": round(checked["check_seconds"], 1),
                "peak_memory_gib": round(checked["peak_rss_bytes"] / 2**30, 2),
            },
        }
        print(json.dumps(result, indent=1))
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
