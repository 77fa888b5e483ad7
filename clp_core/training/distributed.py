"""The processes that train together: which one this is, and what they agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch

from clp_core.errors import ClpError

COLLECTIVE_TIMEOUT_S = 6 * 3600
"""How long processes wait for the first one, which may read a large text meanwhile; one that died ends all at once."""


def is_first() -> bool:
    """Say whether this is the first of the processes that train together: the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def is_distributed() -> bool:
    """Say whether there is more than one process."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


class ControlGroup:
    """Collective operations over the CPU (gloo), so that no GPU waits; a single process gets its own values back.

    Every call raises ``ClpError`` where another process has ended, or does not come for ``COLLECTIVE_TIMEOUT_S``.
    """

    def __init__(self, timeout_s: float = COLLECTIVE_TIMEOUT_S) -> None:
        """Make the group; every process must, at the same place."""
        self._timeout = timedelta(seconds=timeout_s)
        self._group = None
        if is_distributed():
            self._group = torch.distributed.new_group(backend="gloo", timeout=self._timeout)

    def max(self, value: float) -> float:
        """Return the largest value that any process has."""
        if self._group is None:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        with self._explained():
            torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self._group)
        return float(tensor)

    def any(self, value: bool) -> bool:
        """Whether any process has a true value."""
        return bool(self.max(float(value)))

    def broadcast(self, value: float) -> float:
        """Return the value of the first process."""
        return self.max(value if is_first() else -torch.inf)

    def broadcast_text(self, text: str) -> str:
        """Return the text that the first process has; the others wait until it comes here."""
        if self._group is None:
            return text
        shared = [text]
        with self._explained():
            torch.distributed.broadcast_object_list(shared, src=0, group=self._group)
        return shared[0]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            is_late = "timed out" in str(error).lower()
            happened = f"did not answer for {self._timeout}" if is_late else "has ended"
            raise ClpError(f"another process of this run {happened}; its own lines in the log say why") from error

    def shutdown(self) -> None:
        """End the processes' connection once all have come here; one that merely ends may be aborted by its threads.

        Waits in this thread. Work that a thread of gloo has just done is freed there, which needs Python's lock; a
        process that took the groups apart meanwhile, with the lock in its hand, would wait for that thread for ever.
        """
        if self._group is not None:
            with self._explained():
                torch.distributed.monitored_barrier(self._group, timeout=self._timeout)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
