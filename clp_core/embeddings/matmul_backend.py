"""Where large matrix products are done: numpy on the CPU, torch on a GPU. Everything else stays numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from clp_core.embeddings.threads import for_each
from clp_core.environment.devices import DEVICES
from clp_core.environment.memory_errors import memory_explained
from clp_core.errors import InputError


class MatmulBackend:
    """The CPU."""

    name = "cpu"
    is_gpu = False

    def hold(self, array: np.ndarray) -> Any:
        """Return an array in the form in which ``product`` takes it again and again."""
        return array

    def product(self, left: np.ndarray, right: Any) -> np.ndarray:
        """Return ``left @ right`` in the arrays' precision, for a right side that ``hold`` gave."""
        return np.asarray(left @ right)

    def for_each(self, work: Callable[[slice], None], blocks: Iterable[slice]) -> None:
        """Do work with products on every block: on all cores here, one after the other on a GPU."""
        for_each(work, blocks)


class TorchBackend(MatmulBackend):
    """A device of torch's; products are float32 or float64 as their inputs are, never TF32."""

    def __init__(self, name: str) -> None:
        """Take the device of this name."""
        import torch

        self._torch = torch
        self.name = name
        self.is_gpu = name.startswith("cuda")
        if self.is_gpu:
            torch.backends.cuda.matmul.allow_tf32 = False

    def hold(self, array: np.ndarray) -> Any:
        """Move an array to the device."""
        with memory_explained("moving rows to the device", self.name):
            return self._torch.from_numpy(np.ascontiguousarray(array)).to(self.name)

    def product(self, left: np.ndarray, right: Any) -> np.ndarray:
        """Return ``left @ right``, computed on the device."""
        with memory_explained("multiplying rows", self.name):
            return np.asarray((self.hold(left) @ right).cpu().numpy())

    def for_each(self, work: Callable[[slice], None], blocks: Iterable[slice]) -> None:
        """Do work with products on every block, one after the other."""
        for part in blocks:
            work(part)


def backend_named(name: str) -> MatmulBackend:
    """Return a device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name not in DEVICES:
        raise InputError(f"--device {name!r} is unknown; use one of {', '.join(DEVICES)}")
    if name == "cpu":
        return MatmulBackend()
    import torch

    if torch.cuda.is_available():
        return TorchBackend("cuda")
    if name == "cuda":
        raise InputError("there is no GPU that torch can use; use --device cpu")
    return MatmulBackend()
