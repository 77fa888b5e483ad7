"""How a run fits into the memory of the device it trains on: sequences at once, accumulation, sharding."""

from __future__ import annotations

from typing import Any

from clp_core.checkpoints.memory_estimate import COPIES_OF_LOGITS, Shape
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import LOGITS_BYTES
from clp_core.training.device_choice import TrainingDevice
from clp_core.training.options import TrainOptions

FSDP = "fsdp"
SHARE_OF_MEMORY = {"cpu": 0.15, "cuda": 0.85}
"""What blocks at once may take of what is left beside the weights; small ones are as fast on a CPU."""
USABLE_SHARE = 0.95
MOST_TOKENS_AT_ONCE = 65_536
UNKNOWN_MEMORY_BYTES = 16_000_000_000
"""What is taken for the memory of a cluster's GPUs where nobody said it."""


def fit(
    options: TrainOptions,
    shape: Shape,
    device: TrainingDevice,
    processes: int,
    block_length: int,
    own_blocks: int,
    teacher: Shape | None = None,
    *,
    bf16: bool,
) -> dict[str, Any]:
    """Choose sharding, checkpointing of activations and blocks at once, so that the memory of the device holds them.

    Args:
        options: what is asked for.
        shape: the model's.
        device: where it trains; where its memory is not known, the one that fits best is taken without a check.
        processes: how many train together.
        block_length: tokens a block.
        own_blocks: blocks a step of one process.
        teacher: the shape of the model whose expectations the run follows, which each process holds whole.
        bf16: whether products are in bfloat16.

    Raises:
        InputError: it does not, whatever is chosen.
    """
    if options.sharding == "none" and processes > 1:
        raise InputError(f"--sharding none is for one process, {processes} are planned; use ddp or fsdp")
    if options.sharding in ("ddp", FSDP) and processes == 1:
        raise InputError(f"--sharding {options.sharding} is for several processes, and one is planned; leave it out")
    shardings = ["ddp", "fsdp"] if options.sharding == "auto" else [options.sharding]
    switches = {"auto": [False, True], "on": [True], "off": [False]}[options.gradient_checkpointing]
    wanted = options.micro_blocks or 1
    is_shared = device.kind == "cpu" and device.is_here  # the processes share one memory
    free = (device.free_bytes or UNKNOWN_MEMORY_BYTES) // (processes if is_shared else 1)
    scoring = COPIES_OF_LOGITS * max(LOGITS_BYTES, 4 * block_length * shape.vocabulary)
    found: dict[str, Any] = {}
    for sharding in shardings if processes > 1 else ["none"]:
        for checkpointing in switches:
            state = shape.state_bytes(sharding, processes, bf16=bf16)
            block = shape.block_bytes(block_length, bf16=bf16, checkpointing=checkpointing)
            if teacher is not None:
                state += teacher.teaching_bytes
                block += teacher.teaching_block_bytes(block_length)
            room = SHARE_OF_MEMORY[device.kind] * max(0, free - state)
            most = options.micro_blocks or min(room // block, MOST_TOKENS_AT_ONCE // block_length)
            micro = largest_divisor(own_blocks, int(max(1, most)))
            memory = state + max(micro * block, scoring)
            found = {"sharding": sharding, "checkpointing": checkpointing}
            found |= {"micro_blocks": micro, "memory_bytes": memory}
            if state + max(wanted * block, scoring) <= USABLE_SHARE * free:
                return found
    if not device.is_here and not device.free_bytes:
        return found
    shared = f" for each of {processes} processes" if is_shared and processes > 1 else ""
    cure = (
        "start fewer" if shared else "end what else runs there, choose shorter blocks, more devices or a smaller model"
    )
    needs = f"training needs about {found['memory_bytes'] / 1e9:.1f} GB on {device.name}"
    raise InputError(f"{needs}, {free / 1e9:.1f} GB free{shared}; {cure}")


def largest_divisor(number: int, bound: int) -> int:
    """Return the largest divisor of a number that is not above a bound."""
    return next(size for size in range(min(number, bound), 0, -1) if number % size == 0)
