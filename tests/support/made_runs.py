"""Runs as a trainer would leave them, without training."""

import json
import shutil
from dataclasses import asdict

from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore
from clp_core.jobs.training_checkpoints import seal
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan
from clp_core.training.schedule import plain
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from support.tiny_models import make_model

PLAN = TrainPlan(
    parameters=1000,
    device="cpu",
    device_name="CPU, 2 cores",
    devices=("cpu",),
    nodes=1,
    processes=1,
    sharding="none",
    bf16=False,
    checkpointing=False,
    compiled=False,
    block_length=32,
    step_blocks=4,
    micro_blocks=4,
    steps=400,
    minutes=0.0,
    stages=tuple(plain(400, 1e-3, 1e-3, 0.025, 0.0).to_json()),
    learning_rate=1e-3,
    warmup_steps=10,
    eval_every=50,
    save_every=50,
    loss_every=1,
    text_tokens=10_000,
    tokenizer="t" * 64,
    flops_per_token=1e4,
    peak_flops=None,
    memory_bytes=1,
    disk_bytes=1,
)


def lines_of(n, *, speed=1.0, start=4.0, end=1.0, eval_every=50, first=0):
    """Metrics lines of a run whose loss falls from ``start`` to ``end``, the sooner the greater its speed."""
    lines = []
    for step in range(first, n + 1):
        line = {
            "step": step,
            "tokens": 128 * step,
            "bytes": 500 * step,
            "seconds": step / 5,
            "time": step,
            "attempt": 1,
        }
        loss = end + (start - end) * 2.718 ** (-speed * step / 100)
        if step:
            figures = {"loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 640.0, "memory": 1e9, "busy": 0.5}
            lines.append(line | figures)
        if step % eval_every == 0:
            lines.append(line | {"eval_loss": loss, "bits_per_byte": loss / 2, "unknown_share": 0.0})
    return lines


def make_run(workspace, name, lines, *, state="finished", text="a" * 64, model="/models/none", **plan):
    """Make the directory of a run of that name that has these metrics."""
    options = TrainOptions(model, ("/texts/train.txt",), "/texts/valid.txt", name=name, max_steps=len(lines))
    job, _ = JobStore(workspace.jobs).create(
        "train",
        asdict(options),
        ["-c", "pass"],
        "clp train",
        name=name,
        plan=asdict(PLAN) | plan,
        fingerprints={"eval_text": text},
        devices=["cpu"],
    )
    job.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job.write_status(state)
    return job


def damage_plan(job, *absent, **values):
    """Take fields out of the plan in a job's spec, and give others a value."""
    file = job.path / "spec.json"
    spec = json.loads(file.read_text())
    spec["plan"] = {name: value for name, value in (spec["plan"] | values).items() if name not in absent}
    file.write_text(json.dumps(spec))


def add_checkpoint(job, model, step, *, bits=None, change=None):
    """Leave a checkpoint as a run would: the model in float32, with optimiser and run state."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = job.path / "checkpoints" / f"checkpoint-{step}"
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter += step / 1000
        if change:
            change(loaded)
    loaded.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "clp_transfer.json", "clp_provenance.parquet"):
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"state")
    write_json(folder / "clp_run.json", {"step": step})
    seal(folder, {"bits_per_byte": bits} if bits is not None else {})
    return folder


def made_target(folder, tokenizers, **model):
    source = make_model(folder / "source", tokenizers["byte-level", "en"], "llama", seed=1, **model)
    helper = make_model(folder / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe source.\n")
    transfer(TransferOptions(str(source), str(helper), str(folder / "german"), method="linear"))
    return folder / "german"
