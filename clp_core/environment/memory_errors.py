"""Memory that is not there: known before a model is loaded, or told by torch, in one line that says what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil

from clp_core.environment.free_memory import free_memory
from clp_core.errors import ClpError, first_line

TO_THE_CPU = "use --device cpu, which takes longer, or a smaller model"
SMALLER = "end what else takes memory, or use a smaller model"


class OutOfMemoryError(ClpError):
    """A model does not fit in the memory of a GPU or of the machine."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is that of memory that could not be had, on a GPU or a CPU."""
    text = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    spoken = ("can't allocate memory", "Cannot allocate", "CUBLAS_STATUS_ALLOC_FAILED")
    return named or "out of memory" in text.lower() or any(words in text for words in spoken)


def explanation(error: BaseException) -> str:
    """Word an error of memory that came from anywhere."""
    return f"out of memory: {first_line(error)}; {memory_there('cpu')}; {SMALLER}"


@contextlib.contextmanager
def memory_explained(doing: str, device: str, cure: str = "") -> Iterator[None]:
    """Turn what torch and the system raise for want of memory into one plain line.

    Args:
        doing: what needs the memory, as ``loading german``.
        device: ``cpu`` or ``cuda``.
        cure: what to do, where the command has no ``--device``.

    Raises:
        OutOfMemoryError: there was not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, ClpError) or not is_out_of_memory(error):
            raise
        cure = cure or (TO_THE_CPU if device == "cuda" else SMALLER)
        raise OutOfMemoryError(f"out of memory while {doing}: {memory_there(device)}; {cure}") from error


def memory_there(device: str) -> str:
    """Say how much memory a device has, and how much of it is free."""
    free, total = free_and_total(device)
    return f"{'the GPU' if device == 'cuda' else 'this machine'} has {gb(free)} of {gb(total)} free"


def free_and_total(device: str) -> tuple[int, int]:
    """Return the free bytes and all bytes of the GPU that torch uses, or of this machine's memory.

    On a CPU, free is what the control groups of a container or a Slurm job leave.
    """
    if device == "cuda":
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return free + reserved_bytes(torch), total
    return free_memory(), psutil.virtual_memory().total


def reserved_bytes(torch: Any) -> int:
    """Return what this process holds of a GPU without using it, which the driver counts as taken."""
    return int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def check_memory(needed: int, doing: str, device: str) -> None:
    """Refuse to begin what does not fit in memory.

    Args:
        needed: bytes.
        doing: what needs them, as ``scoring german in float32``.
        device: ``cpu`` or ``cuda``.

    Raises:
        OutOfMemoryError: fewer are free.
    """
    free, _ = free_and_total(device)
    if needed > free:
        cure = TO_THE_CPU if device == "cuda" else SMALLER
        raise OutOfMemoryError(f"{doing} takes {gb(needed)} of memory, {memory_there(device)}; {cure}")


def gb(n_bytes: int) -> str:
    """Return a number of bytes in GB."""
    return f"{n_bytes / 1e9:.1f} GB"
