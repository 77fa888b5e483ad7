"""The processes that train together: which one this is, and what they agree on."""

from __future__ import annotations

import os
from datetime import timedelta

import torch


def is_first() -> bool:
    """Say whether this is the first of the processes that train together: the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def is_distributed() -> bool:
    """Say whether there is more than one process."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


class Council:
    """Lets all processes decide alike; over the CPU, so that no GPU waits. One process decides by itself."""

    def __init__(self) -> None:
        """Make the group; every process must, at the same place."""
        self._group = torch.distributed.new_group(backend="gloo") if is_distributed() else None

    def most(self, value: float) -> float:
        """Return the largest value that any process has."""
        if self._group is None:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return float(tensor)

    def any(self, said: bool) -> bool:
        """Say whether any process says so."""
        return bool(self.most(float(said)))

    def of_first(self, value: float) -> float:
        """Return the value of the first process."""
        return self.most(value if is_first() else -torch.inf)

    def part(self, timeout_s: float) -> None:
        """End the processes' connection once all have come here; one that merely ends may be aborted by its threads.

        Waits in this thread. Work that a thread of gloo has just done is freed there, which needs Python's lock; a
        process that took the groups apart meanwhile, with the lock in its hand, would wait for that thread for ever.
        """
        if self._group is not None:
            torch.distributed.monitored_barrier(self._group, timeout=timedelta(seconds=timeout_s))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
