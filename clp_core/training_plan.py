"""What a training run is asked to do, and the plan that follows: steps, tokens, memory. Needs no torch."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from clp_core.checkpoint import Checkpoint
from clp_core.cluster import LAUNCHERS, check_cluster_options
from clp_core.corpus import check_texts, estimate_tokens
from clp_core.errors import InputError
from clp_core.jobs.queue import DeviceQueue
from clp_core.options import option
from clp_core.prepared import max_positions
from clp_core.vocabulary import Vocabulary

MAX_BLOCK = 1024
EPOCHS_OF_SMALL_TEXT = 4
PRECISIONS = ("auto", "float32", "bf16")
SMALL_TEXT_TOKENS = 10_000_000
LOSS_EVERY = 10
EVALUATIONS = 12
MIN_STEPS_BETWEEN_EVALUATIONS = 10
ADAM_BYTES_PER_PARAMETER = 16
CHECKPOINT_BYTES_PER_PARAMETER = 12
WEIGHT_BYTES_PER_PARAMETER = 4
LOGITS_SHARE_OF_MEMORY = 0.15
UNKNOWN_MEMORY_BYTES = 16_000_000_000
"""How much is put through the model at once where nobody said what memory a cluster's GPUs have."""
DEVICE = re.compile(r"auto|cpu|cuda(:\d+(,\d+)*)?")


@dataclass(frozen=True)
class TrainOptions:
    """What a training run is asked to do; 0 means: choose what suits the model and the device."""

    model: str = option(help="model to go on with: a folder or a Hub id")
    text: tuple[str, ...] = option(help="training text, one document a line; may be given more than once")
    eval_text: str = option(help="held-out text for loss and bits per byte")
    name: str = option("", help="name of the run, shown in lists and charts")
    max_tokens: int = option(0, help="train on this many tokens (rounded up to whole steps)", minimum=0)
    max_steps: int = option(
        0, help="train for this many steps; without either, four passes over a small text, one over a large", minimum=0
    )
    block_length: int = option(0, help="tokens a block; 0: the model's positions, at most 1,024", minimum=0)
    batch_tokens: int = option(0, help="tokens a step; 0: by the model's size", minimum=0)
    learning_rate: float = option(0.0, help="peak of the cosine schedule; 0: by the model's size", minimum=0.0)
    warmup_share: float = option(0.1, help="share of the steps in which the rate rises to its peak", minimum=0.0)
    weight_decay: float = option(0.1, help="AdamW weight decay", minimum=0.0)
    eval_every: int = option(
        0, help="steps between evaluations; 0: twelve in the run, at least 10 steps apart", minimum=0
    )
    save_every: int = option(0, help="steps between checkpoints; 0: at every evaluation", minimum=0)
    keep_last: int = option(2, help="checkpoints to keep, the newest ones", minimum=1)
    only_last: bool = option(False, help="keep no checkpoint for having the least bits per byte")
    prompt: str = option("", help="what a sample at every evaluation goes on from")
    seed: int = option(42, help="seed of the order of the data", minimum=0)
    device: str = option("auto", help="where to train: auto, cpu, cuda (all GPUs) or some of them, such as cuda:0,2")
    precision: str = option(
        "auto", help="of the products; auto: bf16 on GPUs and on CPUs with matrix units for it", choices=PRECISIONS
    )
    launcher: str = option("local", help="who starts the run: this machine, or Slurm on others", choices=LAUNCHERS)
    nodes: int = option(1, help="with Slurm: machines", minimum=1)
    gpus_per_node: int = option(
        1, help="with Slurm: GPUs on each machine, one process each; 0: train on CPUs", minimum=0
    )
    processes_per_node: int = option(1, help="with Slurm, on CPUs: processes on each machine", minimum=1)
    cpus_per_process: int = option(2, help="with Slurm: cores for each process", minimum=1)
    memory_gb: float = option(
        0.0,
        help="with Slurm: memory of one GPU in GB (on CPUs: for one process), checked before the start; 0: not known",
        minimum=0.0,
    )
    time_limit: str = option("", help="with Slurm: minutes, 12:00:00 or 2-00:00:00; empty: the partition's own limit")
    partition: str = option("", help="with Slurm: partition; empty: the default one")
    account: str = option("", help="with Slurm: account that pays")
    sbatch: tuple[str, ...] = option(
        (), help="with Slurm: another option of sbatch, as in --sbatch=--mem=64G; may be given more than once"
    )
    script: str = option("", help="with Slurm: file of an edited script, used as it is; --show-script prints one")
    signal_before_s: int = option(
        300, help="with Slurm: seconds before the time limit at which the run saves and goes back to the queue"
    )

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if not self.model.strip():
            raise InputError("--model is empty; name a folder or a Hub id")
        if not self.text:
            raise InputError("--text is missing; name the training text")
        if not self.eval_text:
            raise InputError("--eval-text is missing; name a held-out text")
        if self.max_tokens and self.max_steps:
            raise InputError("--max-tokens and --max-steps exclude each other; give one of them")
        for name in ("max_tokens", "max_steps", "block_length", "batch_tokens", "eval_every", "save_every", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name.replace('_', '-')} must not be negative")
        if not 0 <= self.warmup_share < 1:
            raise InputError("--warmup-share must be at least 0 and below 1")
        if not 0 <= self.learning_rate < 1:
            raise InputError("--learning-rate must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise InputError("--weight-decay must not be negative")
        if self.keep_last < 1:
            raise InputError("--keep-last must be at least 1: a run goes on from its newest checkpoint")
        self._check_place()
        self._check_launcher()

    def _check_launcher(self) -> None:
        changed = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        check_cluster_options(self, changed)

    def _check_place(self) -> None:
        if not DEVICE.fullmatch(self.device):
            raise InputError(f"--device {self.device!r} is unknown; use auto, cpu, cuda or cuda:0,2")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision {self.precision!r} is unknown; use one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class TrainPlan:
    """All settings of a run, chosen.

    Attributes:
        parameters: number of the model's parameters.
        device: ``cpu`` or ``cuda``.
        devices: what the run holds while it trains: ``cpu``, or GPUs as ``cuda:0``; one process each. None where
            Slurm gives it its machines.
        bf16: whether products are computed in bfloat16; weights and sums stay float32.
        block_length: tokens a block.
        step_blocks: blocks an optimiser step.
        micro_blocks: blocks that go through the model at once.
        steps: optimiser steps.
        learning_rate: peak rate.
        warmup_steps: steps until the peak.
        eval_every: steps between evaluations.
        save_every: steps between checkpoints.
        loss_every: steps between lines of loss.
        text_tokens: tokens of the training text (an estimate for large texts).
        tokenizer: a name for the tokenizer's content.
        memory_bytes: memory the run is expected to need on its device.
        disk_bytes: disk the checkpoints are expected to need, the one being written included.
        nodes: machines.
        processes: training processes on all of them.
    """

    parameters: int
    device: str
    devices: tuple[str, ...]
    bf16: bool
    block_length: int
    step_blocks: int
    micro_blocks: int
    steps: int
    learning_rate: float
    warmup_steps: int
    eval_every: int
    save_every: int
    loss_every: int
    text_tokens: int
    tokenizer: str
    memory_bytes: int
    disk_bytes: int
    nodes: int = 1
    processes: int = 1

    @property
    def step_tokens(self) -> int:
        """Tokens a step."""
        return self.block_length * self.step_blocks

    @property
    def tokens(self) -> int:
        """Tokens the run will see."""
        return self.steps * self.step_tokens

    @property
    def epochs(self) -> float:
        """Passes over the training text."""
        return self.tokens / max(self.text_tokens, 1)

    @classmethod
    def of_spec(cls, plan: Mapping[str, Any]) -> TrainPlan:
        """Return the plan that a job's spec holds."""
        return cls(**{**plan, "devices": tuple(plan["devices"])})

    def as_json(self) -> dict[str, Any]:
        """Return the plan for the job's spec."""
        return asdict(self)


@dataclass(frozen=True)
class Device:
    """A place to train.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: what it is.
        names: what a run holds: ``cpu``, or the GPUs as ``cuda:0``.
        free_bytes: memory a run can have on it (on the fullest of several): what is free; where a run of this queue
            is on it, all of it, as that will be over. 0 where it is not known.
        nodes: machines.
        processes: on a cluster, the processes to start there.
    """

    kind: str
    name: str
    names: tuple[str, ...]
    free_bytes: int
    nodes: int = 1
    processes: int = 0

    @property
    def count(self) -> int:
        """Processes to start: one a GPU, one on the CPU; on a cluster as many as were asked for."""
        return self.processes or len(self.names)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's."""
        return not self.processes


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver knows it; bytes of memory."""

    index: int
    name: str
    free_bytes: int
    total_bytes: int


def place_of(options: TrainOptions) -> Device:
    """Return where a run will train: on this machine's device, or on the machines it asks Slurm for.

    Raises:
        InputError: a GPU of this machine is wanted and there is none, or none of that number.
    """
    return place_on_cluster(options) if options.launcher == "slurm" else find_device(options.device)


def place_on_cluster(options: TrainOptions) -> Device:
    """Return the machines that a run asks Slurm for; what this one has does not matter."""
    each = options.gpus_per_node or options.processes_per_node
    unit = ("GPU" if each == 1 else "GPUs") if options.gpus_per_node else ("process" if each == 1 else "processes")
    machines = "1 machine" if options.nodes == 1 else f"{options.nodes} machines"
    name = f"{machines} with {each} {unit}{' each' if options.nodes > 1 else ''}, through Slurm"
    kind = "cuda" if options.gpus_per_node else "cpu"
    return Device(kind, name, (), int(options.memory_gb * 1e9), options.nodes, options.nodes * each)


def find_device(wanted: str = "auto") -> Device:
    """Return the device to train on, asking the driver rather than torch.

    Raises:
        InputError: a GPU is wanted and there is none, or none of that number.
    """
    gpus = [] if wanted == "cpu" else list_gpus()
    if ":" in wanted:
        numbers = {int(number) for number in wanted.partition(":")[2].split(",")}
        absent = numbers - {gpu.index for gpu in gpus}
        if absent:
            raise InputError(f"there is no GPU {min(absent)} here; use --device auto")
        gpus = [gpu for gpu in gpus if gpu.index in numbers]
    if gpus:
        names = tuple(f"cuda:{gpu.index}" for gpu in gpus)
        is_held = bool(DeviceQueue.of_this_machine().ahead(names))
        free = min(gpu.total_bytes if is_held else gpu.free_bytes for gpu in gpus)
        return Device("cuda", gpus[0].name, names, free)
    if wanted == "cuda":
        raise InputError("no GPU is found; use --device cpu")
    memory = psutil.virtual_memory()
    free = memory.total if DeviceQueue.of_this_machine().ahead(["cpu"]) else memory.available
    return Device("cpu", f"CPU, {psutil.cpu_count(logical=False) or 1} cores", ("cpu",), free)


def list_gpus() -> list[Gpu]:
    """Return every NVIDIA GPU that ``CUDA_VISIBLE_DEVICES`` leaves; an empty list where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            if visible is None or {str(index), str(pynvml.nvmlDeviceGetUUID(handle))} & set(visible.split(",")):
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                found.append(Gpu(index, str(pynvml.nvmlDeviceGetName(handle)), int(memory.free), int(memory.total)))
        return found
    finally:
        pynvml.nvmlShutdown()


def has_fast_bf16(device: Device) -> bool:
    """Say whether bfloat16 products are faster than float32 ones on a device: on GPUs, and on CPUs with AMX."""
    cpu = Path("/proc/cpuinfo")
    return device.kind == "cuda" or (device.is_here and cpu.is_file() and "amx_bf16" in cpu.read_text())


def by_size(parameters: int, table: Sequence[tuple[float, float]]) -> float:
    """Return the value of the first row whose bound the number of parameters does not reach."""
    return next(value for bound, value in table if parameters < bound)


LEARNING_RATES = ((50e6, 1e-3), (1e9, 3e-4), (7e9, 1e-4), (math.inf, 5e-5))
BATCH_TOKENS = ((10e6, 4096), (200e6, 32768), (math.inf, 262144))


def plan(options: TrainOptions, folder: Path) -> TrainPlan:
    """Choose what the options leave open, by the model in a folder and the device found.

    Raises:
        InputError: a text is missing, the block is longer than the model's positions, or memory does not suffice.
    """
    check_texts([Path(options.eval_text)])
    checkpoint = Checkpoint.open(folder)
    vocabulary = Vocabulary.open(folder)
    text_tokens = estimate_tokens([Path(text) for text in options.text], vocabulary)
    positions = max_positions(checkpoint.config) or MAX_BLOCK
    if options.block_length > positions:
        raise InputError(f"--block-length {options.block_length} is longer than the model's {positions} positions")
    block_length = options.block_length or min(positions, MAX_BLOCK)
    parameters = checkpoint.n_parameters
    device = place_of(options)
    batch_tokens = options.batch_tokens or int(by_size(parameters, BATCH_TOKENS))
    step_blocks = max(1, round(batch_tokens / block_length / device.count)) * device.count
    if options.max_steps:
        steps = options.max_steps
    else:
        epochs = EPOCHS_OF_SMALL_TEXT if text_tokens < SMALL_TEXT_TOKENS else 1
        steps = math.ceil((options.max_tokens or epochs * text_tokens) / (block_length * step_blocks))
    logits = 4 * 3 * block_length * vocabulary.n_ids
    own_blocks = step_blocks // device.count
    micro = max(1, min(own_blocks, int(LOGITS_SHARE_OF_MEMORY * (device.free_bytes or UNKNOWN_MEMORY_BYTES) / logits)))
    micro = next(size for size in range(micro, 0, -1) if own_blocks % size == 0)
    bytes_kept = CHECKPOINT_BYTES_PER_PARAMETER * (options.keep_last + 1)
    bytes_kept += 0 if options.only_last else WEIGHT_BYTES_PER_PARAMETER
    eval_every = options.eval_every or max(MIN_STEPS_BETWEEN_EVALUATIONS, math.ceil(steps / EVALUATIONS))
    memory = ADAM_BYTES_PER_PARAMETER * parameters + 2 * micro * logits
    if memory > device.free_bytes and (device.is_here or device.free_bytes):
        raise InputError(
            f"training needs about {memory / 1e9:.1f} GB on {device.name}, {device.free_bytes / 1e9:.1f} GB free; "
            "end what else runs there or choose a smaller model"
        )
    return TrainPlan(
        parameters=parameters,
        device=device.kind,
        devices=device.names,
        bf16=has_fast_bf16(device) if options.precision == "auto" else options.precision == "bf16",
        block_length=block_length,
        step_blocks=step_blocks,
        micro_blocks=micro,
        steps=steps,
        learning_rate=options.learning_rate or by_size(parameters, LEARNING_RATES),
        warmup_steps=math.ceil(options.warmup_share * steps),
        eval_every=eval_every,
        save_every=options.save_every or eval_every,
        loss_every=max(1, min(LOSS_EVERY, steps // 60)),
        text_tokens=text_tokens,
        tokenizer=vocabulary.content,
        memory_bytes=memory,
        disk_bytes=parameters * bytes_kept,
        nodes=device.nodes,
        processes=device.count,
    )
