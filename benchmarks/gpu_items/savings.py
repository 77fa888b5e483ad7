"""Bare loops on one shape: what compilation, fused losses and small optimiser states save, and cost in loss."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_items import made
from gpu_items.contain import run_contained
from gpu_items.findings import NEEDS_GPU, Findings, read_json, write_json
from gpu_items.setting import Setting, environment_of, note
from gpu_items.texts import copy_demo

if TYPE_CHECKING:
    import torch

LEFT_OUT = 3
"""Steps at the start that include what happens only once, compilation for one."""
VARIANT_S = 120.0
PLAIN = "plain"
LINEAR_CROSS_ENTROPY = "linear_cross_entropy"
"""Function of ``torch.nn.functional`` from torch 2.13 on."""
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        about: what differs from a float32 master copy under autocast with fused AdamW.
        needs: package that must be installed, or function of ``torch.nn.functional``; empty for none.
        gpu_only: whether it makes no sense, or takes a minute to compile, on a CPU.
        flags: what the loop does otherwise.
    """

    about: str
    needs: str = ""
    gpu_only: bool = False
    flags: frozenset[str] = field(default_factory=frozenset)


VARIANTS = {
    PLAIN: Variant("float32 weights, bfloat16 products, fused AdamW"),
    "compile": Variant("torch.compile", gpu_only=True, flags=frozenset({"compile"})),
    "liger": Variant("Liger kernels for the model and its loss", "liger_kernel", True, frozenset({"liger"})),
    "linear-cross-entropy": Variant(
        "logits and loss in one function, in chunks", LINEAR_CROSS_ENTROPY, flags=frozenset({"fused-loss"})
    ),
    "8-bit states": Variant("torchao's AdamW8bit", "torchao", True, frozenset({"8bit"})),
    "bf16 weights, 8-bit states": Variant(
        "bfloat16 weights, AdamW8bit with stochastic rounding", "torchao", True, frozenset({"8bit", "bf16-weights"})
    ),
    "all together": Variant(
        "compiled, Liger, bfloat16 weights, 8-bit states", "torchao", True,
        frozenset({"compile", "liger", "8bit", "bf16-weights"}),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """Size of the loops.

    Attributes:
        config: of the model.
        blocks: blocks per step.
        block_length: tokens per block.
        steps: optimiser steps, the same for every variant.
    """

    config: dict[str, Any]
    blocks: int
    block_length: int
    steps: int


FULL = Loop(made.llama_config(49_152, 576, 30, 9, 3, 1536, 2048, tied=True), 16, 1024, 40)
MINIATURE = Loop(made.llama_config(6_144, 32, 1, 1, 1, 64, 128, tied=True), 2, 64, 5)


def run(setting: Setting, findings: Findings) -> None:
    """Measure every variant, each on a GPU in a process of its own."""
    loop = MINIATURE if setting.smoke else FULL
    made.write_model(setting.work / "model", loop.config)
    write_blocks(setting.work, loop)
    found: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        if reason := reason_to_skip(setting, variant):
            findings.skip(name, reason)
            continue
        found[name] = figures = in_a_process(setting, name) if setting.on_gpu else train(setting.work, name, "cpu")
        note(f"{name}: {figures}")
        findings.figure("variants", found)
        judge(findings, name, figures, found[PLAIN])


def reason_to_skip(setting: Setting, variant: Variant) -> str:
    """Why a variant is not measured here; empty where it is."""
    if setting.left_s < 20:
        return "no time left"
    if variant.gpu_only and not setting.on_gpu:
        return NEEDS_GPU
    if "liger" in variant.flags and not is_there("liger_kernel"):
        return "liger_kernel is not installed"
    if is_there(variant.needs):
        return ""
    is_function = variant.needs == LINEAR_CROSS_ENTROPY
    return f"torch {version('torch')} has no {variant.needs}" if is_function else f"{variant.needs} is not installed"


def is_there(needed: str) -> bool:
    """Whether a package, or a function of ``torch.nn.functional``, is installed."""
    if needed == LINEAR_CROSS_ENTROPY:
        from torch.nn import functional

        return hasattr(functional, needed)
    return not needed or importlib.util.find_spec(needed) is not None


def write_blocks(work: Path, loop: Loop) -> None:
    """Write the blocks that every variant trains on: the demo's German text in the demo helper's tokens."""
    from tokenizers import Tokenizer

    copy_demo(work / "demo")
    tokenizer = Tokenizer.from_file(str(work / "demo" / "helper" / "tokenizer.json"))
    text = (work / "demo" / "train.txt").read_text(encoding="utf-8")
    wanted = loop.steps * loop.blocks * loop.block_length
    ids = np.array(tokenizer.encode(text[: 6 * wanted]).ids, dtype=np.int64)
    blocks = np.resize(ids, wanted).reshape(loop.steps, loop.blocks, loop.block_length)
    np.save(work / "blocks.npy", blocks)


def in_a_process(setting: Setting, name: str) -> dict[str, Any]:
    """Measure a variant in a process of its own, so that an error of the device ends it alone."""
    file = setting.work / "variant.json"
    file.unlink(missing_ok=True)
    code = f"from gpu_items.savings import main; main({str(setting.work)!r}, {name!r}, {setting.device!r})"
    limit = min(VARIANT_S, setting.left_s)
    outcome = run_contained([sys.executable, "-c", code], limit, setting.work / "log.txt", environment_of(setting))
    told = f"killed after {limit:.0f} s" if outcome.timed_out else f"exit code {outcome.code}"
    return read_json(file) or {"error": told}


def main(work: str, name: str, device: str) -> None:
    """Measure a variant and leave its figures, or its error, for the process that started this one."""
    try:
        figures = train(Path(work), name, device)
    except Exception as error:
        figures = {"error": f"{type(error).__name__}: {error}"[:300]}
    write_json(Path(work) / "variant.json", figures)


def train(work: Path, name: str, device: str) -> dict[str, Any]:
    """Train a variant; return tokens per second, peak bytes and losses in nats per token."""
    import torch

    flags = VARIANTS[name].flags
    torch.manual_seed(0)
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    model = open_model(work, device, flags)
    optimiser = open_optimiser(model, flags, on_gpu=on_gpu)
    step_loss = loss_function(model, flags)
    blocks = torch.from_numpy(np.load(work / "blocks.npy")).to(device)
    kept, began = [], 0.0
    for step, ids in enumerate(blocks):
        if step == LEFT_OUT:
            wait(on_gpu)
            began = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu or "bf16-weights" in flags):
            loss = step_loss(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        kept.append(loss.detach())
    wait(on_gpu)
    seconds = time.perf_counter() - began
    losses = [float(value) for value in kept]
    return {
        "tokens_per_s": (len(blocks) - LEFT_OUT) * blocks[0].numel() / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "first_loss": losses[0],
        "last_loss": float(np.mean(losses[-3:])),
        "losses": losses,
    }


def open_model(work: Path, device: str, flags: frozenset[str]) -> torch.nn.Module:
    """Load the model of all variants, with the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    if "liger" in flags:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    dtype = torch.bfloat16 if "bf16-weights" in flags else torch.float32
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(work / "model", dtype=dtype).to(device).train()
    return model


def open_optimiser(model: torch.nn.Module, flags: frozenset[str], *, on_gpu: bool) -> torch.optim.Optimizer:
    """AdamW with the settings of a run, its states in float32 or in 8 bits."""
    import torch

    settings: dict[str, Any] = {"lr": LEARNING_RATE, "betas": (0.9, 0.95), "weight_decay": 0.1}
    if "8bit" in flags:
        from torchao.optim import AdamW8bit

        made_by: torch.optim.Optimizer = AdamW8bit(
            model.parameters(), bf16_stochastic_round="bf16-weights" in flags, **settings
        )
        return made_by
    return torch.optim.AdamW(model.parameters(), fused=on_gpu, **settings)


def loss_function(model: torch.nn.Module, flags: frozenset[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what computes the loss of ids ``[blocks, length]``, in nats per token."""
    import torch

    body = torch.compile(model) if "compile" in flags else model

    def fused(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        options = torch.nn.LinearCrossEntropyOptions()
        flat = hidden.reshape(-1, hidden.shape[-1])
        weight = model.lm_head.weight.to(flat.dtype)
        return torch.nn.functional.linear_cross_entropy(flat, weight, ids[:, 1:].reshape(-1), options=options)

    def plain(ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = body(input_ids=ids, labels=ids).loss
        return loss

    return fused if "fused-loss" in flags else plain


def wait(on_gpu: bool) -> None:
    """Wait until a GPU has done all it was given."""
    if on_gpu:
        import torch

        torch.cuda.synchronize()


def judge(findings: Findings, name: str, figures: dict[str, Any], plain: dict[str, Any]) -> None:
    """Report a variant against the plain loop; there is no target but that its losses are numbers."""
    if "error" in figures:
        if name == PLAIN:
            raise RuntimeError(f"the plain loop failed: {figures['error']}")
        findings.missed(name, figures["error"])
        return
    detail = f"{figures['tokens_per_s']:,.0f} tokens/s"
    if figures["peak_bytes"]:
        detail += f", {figures['peak_bytes'] / 1e9:.2f} GB"
    if name != PLAIN:
        detail += f"; {figures['tokens_per_s'] / plain['tokens_per_s']:.2f} x the speed"
        if figures["peak_bytes"]:
            detail += f", {figures['peak_bytes'] / plain['peak_bytes']:.2f} x the memory"
        detail += f", loss {figures['last_loss'] - plain['last_loss']:+.4f}"
    findings.check(name, bool(np.isfinite(figures["losses"]).all()), f"{detail}; {VARIANTS[name].about}")
