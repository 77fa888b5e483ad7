"""Training losses between two lines of metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clp_core.training.distributed import is_distributed


class StepLosses:
    """Losses of the steps since the last line, in nats per token; they stay on their device until a line is due."""

    def __init__(self) -> None:
        """Begin without losses."""
        self._micro_batches: list[torch.Tensor] = []
        self._steps: list[torch.Tensor] = []

    def __len__(self) -> int:
        """Count the steps since the last line."""
        return len(self._steps)

    def add(self, loss: torch.Tensor) -> None:
        """Add the loss of a micro-batch, a scalar, divided already by the micro-batches of its step."""
        self._micro_batches.append(loss.detach())

    def end_step(self) -> None:
        """Sum the losses of the micro-batches of the step that is over."""
        self._steps.append(torch.stack(self._micro_batches).sum())
        self._micro_batches = []

    def means(self) -> list[float]:
        """Loss of each step since the last line, the mean over all processes, each of which must call this."""
        losses = torch.stack(self._steps).float()
        if is_distributed():
            torch.distributed.all_reduce(losses)
            losses /= torch.distributed.get_world_size()
        return [float(value) for value in losses.cpu()]

    def clear(self) -> None:
        """Forget the steps, whose line is written."""
        self._steps = []

    def restore(self, losses: Sequence[float], device: torch.device) -> None:
        """Continue from a checkpoint: the steps before it whose line was not due yet."""
        self._steps = [torch.tensor(value, device=device) for value in losses]
