"""Chooses the device of a run: what is there, how much memory it has left, and how fast it could be at best."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from clp_core.environment import gpus as driver
from clp_core.environment.gpus import Gpu
from clp_core.errors import InputError
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.training.options import TrainOptions
from clp_core.training.peaks import peak_flops

AMD_DRIVER = Path("/dev/kfd")
NUMBERS = "numbers are those of nvidia-smi"


@dataclass(frozen=True)
class TrainingDevice:
    """A place to train.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        name: what it is.
        names: what a run holds: ``cpu``, or the GPUs as ``cuda:0``, by their numbers in the driver's list.
        free_bytes: memory a run can have on it (on the fullest of several): what is free; where a run of this queue
            is on it, all of it, as that will be over. 0 where it is not known.
        nodes: machines.
        processes: on a cluster, the processes to start there.
        models: the driver's name of each GPU; empty where they are not known.
        has_bf16: whether all GPUs multiply in bfloat16; those of a cluster are not known, and taken for such.
    """

    kind: str
    name: str
    names: tuple[str, ...]
    free_bytes: int
    nodes: int = 1
    processes: int = 0
    models: tuple[str, ...] = ()
    has_bf16: bool = True

    @property
    def count(self) -> int:
        """Processes to start: one a GPU, one on the CPU; on a cluster as many as were asked for."""
        return self.processes or len(self.names)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's."""
        return not self.processes


def place_of(options: TrainOptions) -> TrainingDevice:
    """Return where a run will train: on this machine's device, or on the machines it asks Slurm for.

    Raises:
        InputError: a GPU of this machine is wanted and there is none, or none of that number.
    """
    return place_on_cluster(options) if options.launcher == "slurm" else find_device(options.device)


def place_on_cluster(options: TrainOptions) -> TrainingDevice:
    """Return the machines that a run asks Slurm for; what this one has does not matter."""
    each = options.gpus_per_node or options.processes_per_node
    unit = ("GPU" if each == 1 else "GPUs") if options.gpus_per_node else ("process" if each == 1 else "processes")
    machines = "1 machine" if options.nodes == 1 else f"{options.nodes} machines"
    name = f"{machines} with {each} {unit}{' each' if options.nodes > 1 else ''}, through Slurm"
    kind = "cuda" if options.gpus_per_node else "cpu"
    return TrainingDevice(kind, name, (), int(options.memory_gb * 1e9), options.nodes, options.nodes * each)


def processes_of(options: TrainOptions, device: TrainingDevice) -> int:
    """Return how many processes train together, on all machines.

    Raises:
        InputError: another number than one a GPU is asked for.
    """
    if not device.is_here or device.kind == "cpu":
        return device.processes or options.processes_per_node
    if options.processes_per_node != 1:
        raise InputError(
            "--processes-per-node is for CPUs: on GPUs there is one process each; choose with --device cuda:0,2"
        )
    return device.count


def find_device(wanted: str = "auto") -> TrainingDevice:
    """Find the device to train on through the driver, without torch.

    Args:
        wanted: ``auto``, ``cpu``, ``cuda`` for all GPUs, or some by their numbers in the driver's list (``cuda:2,0``),
            in whose order the processes get them. Slices of a card (MIG) cannot train together: one is chosen, not in
            use if possible.

    Raises:
        InputError: a GPU is wanted and there is none, or none of that number.
    """
    if wanted == "cpu":
        return find_cpu()
    gpus = driver.list_gpus()
    if ":" in wanted:
        gpus = numbered(gpus, wanted)
    if not gpus:
        if wanted != "auto":
            raise InputError(f"{reason_for_no_gpu()}; use --device cpu")
        return find_cpu()
    queue = DeviceQueue.of_this_machine()
    if any(gpu.is_slice for gpu in gpus):
        whole = [gpu for gpu in gpus if not gpu.is_slice]
        gpus = whole or [min(gpus, key=lambda gpu: (bool(queue.ahead([gpu.device])), -gpu.free_bytes))]
    names = tuple(gpu.device for gpu in gpus)
    is_held = bool(queue.ahead(names))
    models = tuple(gpu.name for gpu in gpus)
    return TrainingDevice(
        "cuda",
        " and ".join(dict.fromkeys(models)),
        names,
        min(gpu.total_bytes if is_held else gpu.free_bytes for gpu in gpus),
        models=models,
        has_bf16=all(gpu.has_bf16 for gpu in gpus),
    )


def find_cpu() -> TrainingDevice:
    """Describe the CPU, with the memory that a run can have."""
    memory = psutil.virtual_memory()
    free = memory.total if DeviceQueue.of_this_machine().ahead(["cpu"]) else memory.available
    return TrainingDevice("cpu", f"CPU, {psutil.cpu_count(logical=False) or 1} cores", ("cpu",), free)


def numbered(gpus: Sequence[Gpu], wanted: str) -> list[Gpu]:
    """Choose GPUs by number, in the order of the numbers.

    Args:
        gpus: the visible ones.
        wanted: such as ``cuda:0,2``.

    Raises:
        InputError: one is not among the visible ones.
    """
    numbers = list(dict.fromkeys(int(number) for number in wanted.partition(":")[2].split(",")))
    absent = set(numbers) - {gpu.index for gpu in gpus}
    if not absent:
        return [gpu for number in numbers for gpu in gpus if gpu.index == number]
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = ", ".join(dict.fromkeys(f"cuda:{gpu.index}" for gpu in gpus))
    there = f"CUDA_VISIBLE_DEVICES={variable} leaves" if variable is not None else "there are"
    raise InputError(
        f"--device {wanted}: there is no GPU {min(absent)} here; {there} {shown or 'no GPUs'} ({NUMBERS}); use one of "
        "them, or --device auto"
    )


def reason_for_no_gpu() -> str:
    """Say why there is no GPU to train on."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return f"no GPU is visible: CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} leaves none"
    if AMD_DRIVER.exists():
        return "no NVIDIA GPU is found, and runs cannot use AMD GPUs (ROCm)"
    return "no NVIDIA GPU is found"


def has_fast_bf16(device: TrainingDevice) -> bool:
    """Say whether bfloat16 products are faster than float32 ones: on GPUs that have them, and on CPUs with AMX."""
    if device.kind == "cuda":
        return device.has_bf16
    cpu = Path("/proc/cpuinfo")
    return device.is_here and cpu.is_file() and "amx_bf16" in cpu.read_text()


def mean_peak(device: TrainingDevice, *, bf16: bool) -> float | None:
    """Average the peak rates of a device's GPUs, in operations per second; ``None`` where one is not known.

    Args:
        device: where a run trains.
        bf16: whether products are in bfloat16 rather than float32.
    """
    peaks = [peak_flops(name, bf16=bf16) for name in device.models or (device.name,)]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) / len(known) if len(known) == len(peaks) else None
