"""Runs against a bare loop: tokens per second, memory planned and measured, share of the device's peak (MFU)."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import training

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.memory_estimate import Shape
from clp_core.training.peaks import peak_flops
from gpu_items import made
from gpu_items.findings import NEEDS_GPU, Findings
from gpu_items.setting import Setting, note

LEAST_SHARE, LEAST_MFU = 0.95, 0.5
MOST_OF_PLAN = 1.05
"""Share of the planned memory that a run may take before the plan counts as wrong."""
KEEP_LITTLE = ("--keep-last", "1", "--only-last")
"""A checkpoint of 1.5 billion parameters takes 18 GB."""
PLANNED_BYTES = re.compile(r"needs about ([\d.]+) GB")


@dataclass(frozen=True)
class Trial:
    """One shape with some options.

    Attributes:
        name: what figures are filed under.
        config: of the model.
        options: of ``clp train``.
        steps: optimiser steps.
        seconds: what run and bare loop take together on one H100, a guess that decides whether it is begun.
        mfu: whether the target for MFU is set for it.
    """

    name: str
    config: Mapping[str, Any]
    options: str
    steps: int
    seconds: float
    mfu: bool = False


TINY = made.llama_config(300, 64, 2, 1, 1, 128, 64, tied=True)
DEMO = made.gpt2_config(6144, 256, 3, 4, 256)
SMOLLM2 = made.llama_config(49_152, 576, 30, 9, 3, 1536, 2048, tied=True)
GPT2_XL = made.gpt2_config(50_257, 1600, 48, 25, 1024)
LLAMA_8B = made.llama_config(128_256, 4096, 32, 32, 8, 14_336, 8192, tied=False)
FULL = (
    Trial("demo", DEMO, "--batch-tokens 65536", 60, 50),
    Trial("135M", SMOLLM2, "--batch-tokens 131072", 30, 70),
    Trial("1.5B compiled", GPT2_XL, "--batch-tokens 98304 --compile on", 20, 200, mfu=True),
    Trial("8B", LLAMA_8B, "--batch-tokens 32768 --gradient-checkpointing on --micro-blocks 1", 12, 150),
    Trial("135M compiled", SMOLLM2, "--batch-tokens 131072 --compile on", 30, 100),
    Trial("1.5B", GPT2_XL, "--batch-tokens 98304", 20, 180, mfu=True),
)
MINIATURE = (
    Trial("tiny", TINY, "--batch-tokens 256 --device cpu", 8, 30),
    Trial("8B", LLAMA_8B, "--batch-tokens 32768 --gradient-checkpointing on --micro-blocks 1 --device cpu", 12, 30),
)


def run(setting: Setting, findings: Findings) -> None:
    """Measure every shape that the time allows, the most telling ones first."""
    found: dict[str, dict[str, Any]] = {}
    for trial in MINIATURE if setting.smoke else FULL:
        if trial.seconds > setting.left_s:
            findings.skip(trial.name, f"{max(0.0, setting.left_s):.0f} s left, it takes about {trial.seconds:.0f}")
            continue
        folder = setting.work / "shape"
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        try:
            found[trial.name] = measured(setting, trial, folder)
        except (SystemExit, Exception) as error:  # what fails ends its own shape only
            findings.check(trial.name, False, last_line(str(error)))
            continue
        found[trial.name]["seconds"] = round(time.monotonic() - began, 1)
        findings.figure("shapes", found)
        judge(setting, findings, trial, found[trial.name])
        shutil.rmtree(setting.work / "workspace" / "jobs", ignore_errors=True)  # checkpoints of 12 bytes per parameter
    shutil.rmtree(setting.work / "shape", ignore_errors=True)


def measured(setting: Setting, trial: Trial, folder: Path) -> dict[str, Any]:
    """Train as a run does and in a bare loop; or say with how many bytes the plan refuses the shape."""
    rows = trial.config["vocab_size"]
    parameters = made.write_model(folder / "model", trial.config, hollow=True)
    training.write_text(folder / "valid.txt", 500, rows)
    training.write_text(folder / "train.txt", 20_000 if setting.smoke else 2_000_000, rows)
    refusal = refused(trial, folder)
    if refusal or (setting.smoke and trial.config is LLAMA_8B):
        return (refusal or {"skipped": f"{NEEDS_GPU}: the plan accepts it here"}) | {"parameters": parameters}
    made.write_model(folder / "model", trial.config)
    plan, figures = training.run(
        folder, trial.steps, f"throughput {trial.name}", [*KEEP_LITTLE, *shlex.split(trial.options)]
    )
    bare, bare_error = bare_speed(setting, folder, plan)
    peak = peak_flops(plan["device_name"], bf16=plan["bf16"])
    names = ("bf16", "compiled", "checkpointing", "block_length", "micro_blocks", "step_blocks", "device_name")
    return {
        "parameters": parameters,
        "tokens_per_s": figures["speed"],
        "bare_tokens_per_s": bare,
        "bare_error": bare_error,
        "share": figures["speed"] / bare if bare else None,
        "planned_bytes": plan["memory_bytes"],
        "measured_bytes": figures["memory"],
        "mfu": figures["speed"] * plan["flops_per_token"] / peak if peak else None,
        "bare_mfu": bare * plan["flops_per_token"] / peak if peak and bare else None,
        **{name: plan[name] for name in names},
    }


def bare_speed(setting: Setting, folder: Path, plan: dict[str, Any]) -> tuple[float | None, str]:
    """Tokens per second of the bare loop; ``None`` and the reason where it fails, out of memory for one."""
    if setting.smoke:
        return training.bare(folder, plan), ""
    try:
        return training.bare_in_its_own_process(folder, plan), ""
    except SystemExit as error:
        return None, last_line(str(error))


def last_line(text: str) -> str:
    """Last line of an output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def refused(trial: Trial, folder: Path) -> dict[str, Any]:
    """Reason and bytes with which the plan refuses a shape; empty where it accepts it. Reads no weights."""
    from clp_core.errors import InputError
    from clp_core.training.options import TrainOptions
    from clp_core.training.plan import plan

    options = TrainOptions(
        model=str(folder / "model"), text=(str(folder / "train.txt"),), eval_text=str(folder / "valid.txt"),
        max_steps=trial.steps, keep_last=1, only_last=True, **fields_of(trial),
    )  # fmt: skip
    try:
        plan(options.resolved(), folder / "model")
    except InputError as error:
        note(f"{trial.name}: {error}")
        told = PLANNED_BYTES.search(str(error))
        if told is None:
            raise
        shape = Shape.of_checkpoint(Checkpoint.open(folder / "model"), trial.config["vocab_size"])
        return {
            "refused": str(error),
            "planned_bytes": float(told[1]) * 1e9,
            "state_bytes_per_parameter": shape.state_bytes(bf16=True) / shape.parameters,
        }
    return {}


def fields_of(trial: Trial) -> dict[str, Any]:
    """Return the options of a trial as fields of ``TrainOptions``."""
    given = zip(*[iter(shlex.split(trial.options))] * 2, strict=True)
    return {name.removeprefix("--").replace("-", "_"): int(v) if v.isdigit() else v for name, v in given}


def judge(setting: Setting, findings: Findings, trial: Trial, figures: Mapping[str, Any]) -> None:
    """Add the verdicts on a shape."""
    if "refused" in figures:
        findings.figure(f"{trial.name} is refused", figures["refused"])
        findings.skip(trial.name, f"the plan refuses it, as documented: {figures['refused']}")
        return
    if "skipped" in figures:
        findings.skip(trial.name, figures["skipped"])
        return
    memory = f"{figures['planned_bytes'] / 1e9:.2f} GB planned, {figures['measured_bytes'] / 1e9:.2f} GB measured"
    speed = f"{figures['tokens_per_s']:,.0f} tokens/s"
    speed += f", bare loop {figures['bare_tokens_per_s']:,.0f}" if figures["bare_tokens_per_s"] else ""
    fits = not setting.on_gpu or figures["measured_bytes"] <= MOST_OF_PLAN * figures["planned_bytes"]
    findings.check(f"{trial.name}: memory is planned", fits, f"{memory}; {speed}")
    if figures["share"] is None:
        findings.skip(f"{trial.name}: share of the bare loop", f"the bare loop failed: {figures['bare_error']}")
    else:
        findings.target(f"{trial.name}: share of the bare loop", figures["share"], LEAST_SHARE, judged=setting.on_gpu)
    if figures["mfu"] is not None:
        findings.target(f"{trial.name}: MFU", figures["mfu"], LEAST_MFU if trial.mfu else 0.0, judged=True)
    elif trial.mfu or setting.smoke:
        findings.skip(f"{trial.name}: MFU", f"{NEEDS_GPU} whose peak is known")
