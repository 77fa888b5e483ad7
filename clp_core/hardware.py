"""The device of a run: what is there, how much memory it has left, and how fast it could be at best."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from clp_core.errors import InputError
from clp_core.jobs.queue import DeviceQueue

PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250, 80),
    "GH200": (989, 67),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "A100": (312, 19.5),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10G": (70, 31.5),
    "A10": (125, 31.2),
    "RTX 6000 Ada": (364, 91.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71, 35.6),
}
"""Dense products in bfloat16 with float32 sums, and in float32 without TF32, 10^12 operations a second, by the makers'
data sheets; the first name that stands in the driver's name of the GPU counts."""


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


def peak_flops(name: str, *, bf16: bool) -> float | None:
    """Return the most operations a second a GPU of this name can do, or ``None`` where it is not known.

    Args:
        name: as the driver tells it, such as ``NVIDIA H100 80GB HBM3``.
        bf16: whether products are in bfloat16 rather than float32.
    """
    for known, (half, single) in PEAK_TFLOPS.items():
        if all(f" {word} " in f" {name.replace('-', ' ')} " for word in known.split()):
            return 1e12 * (half if bf16 else single)
    return None
