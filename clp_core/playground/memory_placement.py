"""Where a playground's models go: a GPU that no run of the queue holds or waits for, else the CPU.

A run may hold a device for days, and has been promised its memory. So a playground never waits for a device, leaves
alone what a run has, and counts as taken what a run on the CPU has not yet filled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import Timeout

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.environment import gpus as driver
from clp_core.environment.gpus import Gpu, cuda_environment
from clp_core.errors import InputError
from clp_core.files.json_files import read_state
from clp_core.jobs.device_queue import DeviceQueue, Held, Ticket
from clp_core.jobs.job import Job

LIBRARIES_BYTES = 1 << 29
"""What torch itself, its context on a device and the keys and values of a text take, beside the weights."""
CPU_BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Needs:
    """Memory that models need.

    Attributes:
        names: the models.
        gpu_bytes: on a GPU that multiplies in bfloat16, where weights keep the checkpoint's own type.
        cpu_bytes: on a CPU or another GPU, where they are float32.
    """

    names: tuple[str, ...]
    gpu_bytes: int
    cpu_bytes: int

    @classmethod
    def of(cls, models: Iterable[str | Path]) -> Needs:
        """Return what these models need together.

        Raises:
            InputError: one of them cannot be opened.
        """
        found = [Checkpoint.open(model) for model in models]
        return cls(
            tuple(checkpoint.folder.name for checkpoint in found),
            LIBRARIES_BYTES + sum(checkpoint.n_bytes for checkpoint in found),
            LIBRARIES_BYTES + sum(CPU_BYTES_PER_PARAMETER * checkpoint.n_parameters for checkpoint in found),
        )

    def bytes_on(self, gpu: Gpu) -> int:
        """Choose the bytes that the models need on a GPU."""
        return self.gpu_bytes if gpu.has_bf16 else self.cpu_bytes


@dataclass(frozen=True)
class Place:
    """A device that was taken.

    Attributes:
        device: ``cpu``, or a GPU as ``cuda:0``.
        name: what it is.
        why: why it is not a GPU where there is one; else empty.
        held: the lock on a GPU, which ends with the process at the latest.
        ticket: the place in the queue under which a job holds it.
    """

    device: str
    name: str
    why: str = ""
    held: Held = field(default_factory=Held)
    ticket: Ticket | None = None

    def waiting(self, queue: DeviceQueue) -> list[Ticket]:
        """Return the jobs that wait for this device; nobody waits for a playground's CPU."""
        if self.device == "cpu":
            return []
        own = self.ticket.number if self.ticket else None
        return [ticket for ticket in queue.ahead([self.device]) if ticket.number != own]

    def release(self, queue: DeviceQueue) -> None:
        """Give the device back."""
        self.held.release()
        if self.ticket is not None:
            queue.leave(self.ticket)

    def hide_others(self) -> None:
        """Let torch see this device alone; before torch looks for GPUs."""
        os.environ.update(cuda_environment([self.device]))


def check_room(needs: Needs) -> None:
    """Refuse models that fit nowhere now.

    Raises:
        InputError: they do not.
    """
    queue = DeviceQueue.of_this_machine()
    gpus, why = free_gpus(queue, needs)
    if not gpus:
        check_cpu(queue, needs, why)


def take_place(needs: Needs, job: Path | None = None) -> Place:
    """Take a GPU for models if one is free and has room, else the CPU.

    Args:
        needs: the models' memory.
        job: the directory of the job that takes it; a GPU is then held under a ticket, so that others see by whom.

    Raises:
        InputError: they fit nowhere.
    """
    queue = DeviceQueue.of_this_machine()
    gpus, why = free_gpus(queue, needs)
    for gpu in gpus:
        device = gpu.device
        try:
            place = hold(queue, device, gpu.name, job)
        except Timeout:  # somebody else looks into the queue for long
            continue
        if place is not None:
            return place
        why = f"{device} was taken this moment"
    check_cpu(queue, needs, why)
    return Place("cpu", f"CPU, {psutil.cpu_count(logical=False) or 1} cores", why)


def hold(queue: DeviceQueue, device: str, name: str, job: Path | None) -> Place | None:
    """Hold a device if that is possible at once."""
    if job is None:
        held = queue.borrow(device)
        return None if held is None else Place(device, name, held=held)
    ticket = queue.enter(job, [device])
    held = queue.try_to_hold(ticket)
    if held is None:
        queue.leave(ticket)
        return None
    return Place(device, name, held=held, ticket=ticket)


def free_gpus(queue: DeviceQueue, needs: Needs) -> tuple[list[Gpu], str]:
    """Return the GPUs that no job wants and that have room, the emptiest first; and why another is none of them."""
    free, why = [], ""
    for gpu in sorted(driver.list_gpus(), key=lambda gpu: -gpu.free_bytes):
        device = gpu.device
        if wanted := queue.ahead([device]):
            why = f"{device} belongs to {Job(wanted[0].job).name}"
        elif gpu.free_bytes < needs.bytes_on(gpu):
            why = f"{device} has {gb(gpu.free_bytes)} free"
        else:
            free.append(gpu)
    return free, why


def check_cpu(queue: DeviceQueue, needs: Needs, why: str) -> None:
    """Refuse models that do not fit in the machine's memory beside what its runs were promised.

    Raises:
        InputError: they do not.
    """
    promised = promised_on_cpu(queue)
    free = max(0, psutil.virtual_memory().available - promised)
    if needs.cpu_bytes <= free:
        return
    message = f"{' and '.join(needs.names)} need {gb(needs.cpu_bytes)} of memory on the CPU, {gb(free)} can be had"
    message += f" ({gb(promised)} more are promised to a run)" if promised else ""
    message += f"; {why}, {gb(needs.gpu_bytes)} are needed there" if why else ""
    raise InputError(f"{message}; choose fewer or smaller models, or end what else holds memory")


def promised_on_cpu(queue: DeviceQueue) -> int:
    """Return the bytes that runs on the CPU were planned with and have not taken yet."""
    total = 0
    for ticket in queue.tickets():
        if ticket.holds and "cpu" in ticket.devices:
            job = Job(ticket.job)
            planned = int(job.spec.get("plan", {}).get("memory_bytes", 0))
            total += max(0, planned - resident_bytes(read_state(job.path / "process.json").get("pid")))
    return total


def resident_bytes(pid: int | None) -> int:
    """Return the memory of a process and all its descendants."""
    try:
        first = psutil.Process(pid) if pid else None
        family = [first, *first.children(recursive=True)] if first else []
        return sum(process.memory_info().rss for process in family)
    except psutil.Error:
        return 0


def gb(n_bytes: int) -> str:
    """Return a number of bytes in GB."""
    return f"{n_bytes / 1e9:.1f} GB"
