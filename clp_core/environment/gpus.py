"""The GPUs of this machine, as NVIDIA's driver lists them and ``CUDA_VISIBLE_DEVICES`` leaves them. Needs no torch.

A GPU is known by its number in the driver's list, which nvidia-smi shows and which CUDA uses where
``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set; a run's processes get that setting. Left to itself, CUDA puts the fastest card
first, so that the same number may mean another card.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

BF16_CAPABILITY = (8, 0)
"""The compute capability from which GPUs multiply in bfloat16 (Ampere); older ones (T4, V100, RTX 20) emulate it."""
ORDINAL = re.compile(r"\+?([0-9]{1,9})")
"""CUDA reads the number that an entry begins with."""
GPU_ID, SLICE_ID = "GPU-", "MIG-"


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a slice of one (MIG), as the driver knows it.

    Attributes:
        index: number of the card in the driver's list.
        name: its name.
        free_bytes: memory that is free.
        total_bytes: memory it has.
        uuid: its identity, ``GPU-...`` or ``MIG-...``.
        capability: its compute capability, ``None`` where it is not known.
    """

    index: int
    name: str
    free_bytes: int
    total_bytes: int
    uuid: str = ""
    capability: tuple[int, int] | None = None

    @property
    def is_slice(self) -> bool:
        """Whether it is a slice of a card."""
        return self.uuid.startswith(SLICE_ID)

    @property
    def device(self) -> str:
        """What a run holds: ``cuda:0``, of a slice ``cuda:MIG-...``."""
        return f"cuda:{self.uuid if self.is_slice else self.index}"

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies in bfloat16, as far as is known."""
        return self.capability is None or self.capability >= BF16_CAPABILITY


@dataclass(frozen=True)
class GpuCard:
    """A card in the driver's list.

    Attributes:
        uuid: its identity.
        gpus: the card itself; in MIG mode its slices.
    """

    uuid: str
    gpus: tuple[Gpu, ...]


def cuda_environment(devices: Iterable[str]) -> dict[str, str]:
    """Make the variables by which CUDA shows a process these GPUs alone, the first of them as its first.

    Args:
        devices: names as ``Gpu.device`` gives them; ``cpu`` hides all GPUs.
    """
    shown = ",".join(device.partition(":")[2] for device in devices)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}


def list_gpus() -> list[Gpu]:
    """List the NVIDIA GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        cards = [card_at(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    return visible_gpus(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))


def card_at(nvml: Any, index: int) -> GpuCard:
    """Read one card of the driver's list; one that fails has no GPUs and keeps its number."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        card = gpu_of(nvml, handle, index, tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)))
        slices = slices_of(nvml, handle, card) if is_in_slices(nvml, handle) else (card,)
        return GpuCard(card.uuid, slices)
    except nvml.NVMLError:  # such as one that has fallen off the bus
        return GpuCard("", ())


def gpu_of(nvml: Any, handle: Any, index: int, capability: tuple[int, int] | None) -> Gpu:
    """Read a card or a slice."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        free, total = int(memory.free), int(memory.total)
    except nvml.NVMLError_NotSupported:  # it has no memory of its own, as on GB10 and Jetson
        free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
    return Gpu(index, name, free, total, uuid, capability)


def is_in_slices(nvml: Any, handle: Any) -> bool:
    """Say whether a card is in MIG mode."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError_NotSupported:
        return False


def slices_of(nvml: Any, handle: Any, card: Gpu) -> tuple[Gpu, ...]:
    """Read the slices of a card in MIG mode; it may have none, and then cannot be used."""
    slices = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except nvml.NVMLError_NotFound:
            continue
        slices.append(gpu_of(nvml, part, card.index, card.capability))
    return tuple(slices)


def visible_gpus(cards: Sequence[GpuCard], variable: str | None) -> list[Gpu]:
    """Choose the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order, as CUDA reads it.

    Entries are numbers, beginnings of a card's UUID (``GPU-8932f937``) or of a slice's (``MIG-...``), of one kind. The
    first entry that names nothing, or not one thing, ends the list; one that stands twice empties it; the empty string
    and ``-1`` leave nothing. Of a card in MIG mode all slices are listed, though CUDA shows a process only one.

    Args:
        cards: all of the driver's list.
        variable: the value of the variable, ``None`` where it is not set: nothing is hidden.
    """
    groups = [card.gpus for card in cards]
    if variable is None:
        return [gpu for group in groups for gpu in group]
    kind = next((kind for kind in (GPU_ID, SLICE_ID) if variable.startswith(kind)), "")
    names = [card.uuid for card in cards]
    if kind == SLICE_ID:
        slices = [gpu for group in groups for gpu in group if gpu.is_slice]
        groups, names = [(gpu,) for gpu in slices], [gpu.uuid for gpu in slices]
    places: list[int] = []
    for entry in variable.split(","):
        place = place_of_id(entry, kind, names) if kind else place_of_number(entry, len(groups))
        if place is None:
            break
        if place in places:
            return []
        places.append(place)
    return [gpu for place in places for gpu in groups[place]]


def place_of_number(entry: str, count: int) -> int | None:
    """Read an entry that is a number; ``None`` where it is none of the ``count`` there are."""
    match = ORDINAL.match(entry.strip())
    return int(match[1]) if match and int(match[1]) < count else None


def place_of_id(entry: str, kind: str, names: Sequence[str]) -> int | None:
    """Find the one UUID that an entry is the beginning of; ``None`` where there is none, or more than one."""
    places = [place for place, name in enumerate(names) if name.startswith(entry)] if entry.startswith(kind) else []
    return places[0] if len(places) == 1 else None
