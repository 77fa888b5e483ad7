"""Measure training as a run does it against a bare PyTorch loop with the same model, batch and data type.

    python benchmarks/training.py [--shape demo|small|gpt2-xl] [--steps 40] [--repeats 3] [--options --compile on]

Runs and bare loops take turns, each in processes of its own, on the device that a run would choose. A run is what
``clp train`` starts: supervisor, torchrun, the Trainer with this project's schedule, metrics and heartbeat. The bare
loop takes ready-made random blocks from memory and does nothing but forward, backward, clip and a fused AdamW step.
Speeds are those of the same steps, the first ones left out; evaluations and checkpoints stand outside of them. Each
side counts with its fastest repeat, as what else runs on the machine only slows down. Printed beside it: the memory
that was planned and the one that was measured, and on a known GPU the share of its peak (MFU).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHAPES: dict[str, dict[str, Any]] = {
    "demo": {"vocab_size": 6144, "n_positions": 256, "n_embd": 256, "n_layer": 3, "n_head": 4},
    "small": {"vocab_size": 32_000, "n_positions": 512, "n_embd": 512, "n_layer": 8, "n_head": 8},
    "gpt2-xl": {"vocab_size": 50_257, "n_positions": 1024, "n_embd": 1600, "n_layer": 48, "n_head": 25},
}
LEFT_OUT = 5
"""Steps at the start that include what happens only once."""


def make_model(folder: Path, shape: dict[str, Any]) -> None:
    """Write a random GPT-2 of a shape, with a tokenizer that has as many tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>").save_pretrained(folder)


def write_text(path: Path, n_words: int, vocab: int) -> None:
    """Write lines of random words."""
    ids = np.random.default_rng(0).integers(1, vocab, size=(n_words // 100 + 1, 100))
    path.write_text("".join(" ".join(f"w{i}" for i in line) + "\n" for line in ids))


def run(folder: Path, steps: int, name: str, more: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train as a run does; return its plan and what was measured."""
    from clp_core.jobs import Job

    command = [sys.executable, "-m", "clp_core", "train", "--model", str(folder / "model")]
    command += ["--text", str(folder / "train.txt"), "--eval-text", str(folder / "valid.txt"), "--name", name]
    command += ["--max-steps", str(steps), "--eval-every", str(steps), "--json", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    job = Job(Path(json.loads(done.stdout.splitlines()[-1])["job"]))
    lines = [line for line in job.metrics() if "loss" in line]
    first = next(line for line in lines if line["step"] >= LEFT_OUT)
    last = lines[-1]
    speed = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
    return job.plan, {"speed": speed, "memory": max(line["memory"] for line in lines), "mfu": last.get("mfu")}


def bare(folder: Path, plan: dict[str, Any]) -> float:
    """Train in the barest loop; return its tokens/s."""
    import torch
    from transformers import AutoModelForCausalLM

    device = torch.device(plan["device"])
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).to(device).train()
    if plan["checkpointing"]:
        model.gradient_checkpointing_enable()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model) if plan["compiled"] else model
    size = (plan["micro_blocks"], plan["block_length"])
    parts = plan["step_blocks"] // plan["micro_blocks"]
    blocks = torch.randint(1, model.config.vocab_size, (8, *size), device=device)
    began = 0.0
    for step in range(plan["steps"]):
        if step == LEFT_OUT:
            wait_for(device)
            began = time.perf_counter()
        for part in range(parts):
            ids = blocks[(step * parts + part) % len(blocks)]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=plan["bf16"]):
                loss = compiled(input_ids=ids, labels=ids).loss / parts
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    wait_for(device)
    tokens = (plan["steps"] - LEFT_OUT) * plan["step_blocks"] * plan["block_length"]
    return tokens / (time.perf_counter() - began)


def wait_for(device: Any) -> None:
    """Wait until a GPU has done all it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def bare_in_its_own_process(folder: Path, plan: dict[str, Any]) -> float:
    """Run the bare loop under the allocator settings that a run has."""
    from clp_core.jobs.allocator import ALLOCATOR

    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, __file__, "--bare", str(folder)]
    threads = {"OMP_NUM_THREADS": "1"} if plan["processes"] > 1 else {}
    done = subprocess.run(command, cwd=ROOT, env=ALLOCATOR | os.environ | threads, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--options", default="", help="more options of clp train, in one string")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.bare:
        print(bare(args.bare, json.loads((args.bare / "plan.json").read_text())))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ |= {"CLP_WORKSPACE": str(folder / "workspace"), "HF_HUB_OFFLINE": "1"}
        shape = SHAPES[args.shape]
        make_model(folder / "model", shape)
        write_text(folder / "train.txt", 400_000, shape["vocab_size"])
        write_text(folder / "valid.txt", 500, shape["vocab_size"])
        runs, loops, figures, plan = [], [], {}, {}
        for repeat in range(args.repeats):
            plan, figures = run(folder, args.steps, f"run {repeat}", shlex.split(args.options))
            runs.append(figures["speed"])
            loops.append(bare_in_its_own_process(folder, plan))
            print(f"  run {runs[-1]:,.0f} tokens/s, bare loop {loops[-1]:,.0f}", flush=True)
    told = "bfloat16" if plan["bf16"] else "float32"
    print(
        f"{args.shape}: {plan['parameters'] / 1e6:.1f} million parameters on {plan['device_name']}, {told} products, "
        f"{plan['step_blocks']} blocks of {plan['block_length']} a step, {plan['micro_blocks']} at once"
        f"{', compiled' if plan['compiled'] else ''}"
    )
    print(f"run {max(runs):,.0f} tokens/s, bare loop {max(loops):,.0f}: {max(runs) / max(loops):.1%} of it")
    print(f"memory: {plan['memory_bytes'] / 1e9:.2f} GB planned, {figures['memory'] / 1e9:.2f} GB measured")
    if figures["mfu"]:
        print(f"share of the device's peak: {figures['mfu']:.1%}")


if __name__ == "__main__":
    main()
