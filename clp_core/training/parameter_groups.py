"""Parameter groups with rates of their own, frozen groups, and stages in which only rows of missing tokens train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LambdaLR

from clp_core.checkpoints.finite import CURE, NonFiniteError, non_finite_weight
from clp_core.errors import ClpError
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.schedule import MISSING_ROWS, Schedule, Stage

BODY, EMBEDDINGS = "body", "embeddings"


def embedding_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return what has a row a token: the input embedding, the output layer where it is not tied, and its bias."""
    output = model.get_output_embeddings()
    found = [model.get_input_embeddings().weight, output.weight, getattr(output, "bias", None)]
    kept: list[torch.nn.Parameter] = []
    for parameter in found:
        if parameter is not None and not any(parameter is other for other in kept):
            kept.append(parameter)
    return kept


def refuse_untied(model: torch.nn.Module) -> None:
    """Refuse a model whose embeddings should be one matrix and are two, as loading or sharding may leave them.

    Raises:
        ClpError: they are.
    """
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    if tied and model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        raise ClpError("the tied embeddings of the model came untied; the run would train two matrices for one")


def refuse_non_finite(model: torch.nn.Module, name: str, vocabulary: Vocabulary) -> None:
    """Refuse a model whose weights hold NaN or infinity, before anything is trained on them.

    Args:
        model: a loaded model.
        name: what the message calls it.
        vocabulary: names the tokens of the rows.

    Raises:
        NonFiniteError: they do; the first parameter is named, in the embeddings by row and token.
    """
    where = non_finite_weight(model, vocabulary)
    if where is not None:
        raise NonFiniteError(f"the weights of {name} hold NaN or infinity in {where}: {CURE}")


def refuse_unsharded(model: torch.nn.Module) -> None:
    """Refuse a model that should be shared by the processes and is held whole by each.

    Raises:
        ClpError: it is.
    """
    whole = [name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)]
    if whole:
        raise ClpError(f"the model was to be sharded and is not: each process holds all of {whole[0]}")


class Groups:
    """The parameter groups of a run: body and embeddings, each with and without weight decay."""

    def __init__(self, model: torch.nn.Module, decaying: set[str], weight_decay: float, schedule: Schedule) -> None:
        """Sort the parameters of a model.

        Args:
            model: before it is wrapped.
            decaying: names of the parameters that decay (no norms, no biases).
            weight_decay: what AdamW takes of them.
            schedule: where only missing rows train in some stage, embeddings do not decay: the others must stay.
        """
        embeddings = {id(parameter) for parameter in embedding_parameters(model)}
        sorted_in: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            kind = EMBEDDINGS if id(parameter) in embeddings else BODY
            decays = name in decaying and not (kind == EMBEDDINGS and schedule.trains_missing_rows_alone)
            sorted_in.setdefault((kind, decays), []).append(parameter)
        ordered = sorted(sorted_in.items(), key=lambda item: (item[0][0] != BODY, not item[0][1]))
        self.kinds = [kind for (kind, _), _ in ordered]
        self.for_optimiser: list[dict[str, Any]] = [
            {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
            for (_, decays), parameters in ordered
        ]

    def scheduler(self, optimiser: torch.optim.Optimizer, rates: Callable[[int], tuple[float, float]]) -> LambdaLR:
        """Return what sets the rate of each group; ``rates`` gives those of body and embeddings by step."""

        def rate_of(kind: str) -> Callable[[int], float]:
            return lambda step: rates(step)[kind == EMBEDDINGS]

        return LambdaLR(optimiser, [rate_of(kind) for kind in self.kinds])


class Freezing:
    """Keeps what is frozen in a stage bit for bit as it is: whole parameters, and embedding rows that are not new.

    It rests on hooks of torch alone: a gradient is taken away as soon as it has been accumulated, so that neither the
    exchange between processes nor the norm to clip by sees it; and once more before the optimiser's step, which then
    passes over a frozen parameter: no decay, no state. Momentum that a row has from an earlier stage would move it on,
    so it is set to zero where a stage with frozen rows begins.

    Attributes:
        steps: optimiser steps that the hook has seen.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        kinds: Sequence[str],
        stage: Callable[[], Stage],
        trained_rows: np.ndarray | None = None,
    ) -> None:
        """Register the hooks.

        Args:
            optimiser: holds the parameters as they train, sharded where they are; or accelerate's wrapper of it.
            kinds: ``body`` or ``embeddings`` for each of its groups.
            stage: returns the stage of the present step.
            trained_rows: which rows train where a stage trains only missing rows, ``[n_rows]`` of bool.
        """
        self.steps = 0
        self._kinds, self._stage = list(kinds), stage
        self._masks: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._without_momentum: Stage | None = None
        for group, kind in zip(optimiser.param_groups, self._kinds, strict=True):
            for parameter in group["params"]:
                if kind == EMBEDDINGS and trained_rows is not None:
                    self._masks[parameter] = row_mask(parameter, trained_rows)
                parameter.register_post_accumulate_grad_hook(partial(self._after_gradient, kind))
        inner = getattr(optimiser, "optimizer", optimiser)
        inner.register_step_pre_hook(self._before_step)

    def _after_gradient(self, kind: str, parameter: torch.Tensor) -> None:
        if parameter.grad is None:
            return
        stage = self._stage()
        if is_frozen(kind, stage):
            parameter.grad = None
        elif stage.rows == MISSING_ROWS and parameter in self._masks:
            parameter.grad.mul_(self._masks[parameter])

    def _before_step(self, optimiser: torch.optim.Optimizer, *_: Any) -> None:
        stage = self._stage()
        for group, kind in zip(optimiser.param_groups, self._kinds, strict=True):
            for parameter in group["params"]:
                self._after_gradient(kind, parameter)
        if stage.rows == MISSING_ROWS and stage != self._without_momentum:
            for parameter, mask in self._masks.items():
                for value in optimiser.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        value.mul_(mask)
        self._without_momentum = stage
        self.steps += 1


def is_frozen(kind: str, stage: Stage) -> bool:
    """Say whether a kind of parameters does not train at all in a stage."""
    return (stage.embedding_rate if kind == EMBEDDINGS else stage.body_rate) == 0


def row_mask(parameter: torch.nn.Parameter, trained: np.ndarray) -> torch.Tensor:
    """Build the factor of a parameter's gradient that leaves only the rows that train, sharded as the parameter is.

    Args:
        parameter: an embedding or its bias, one row per token.
        trained: which rows train, ``[n_rows]`` of bool; rows beyond do not.
    """
    rows = torch.zeros(parameter.shape[0], dtype=parameter.dtype, device=parameter.device)
    n_known = min(len(rows), len(trained))
    rows[:n_known] = torch.from_numpy(trained[:n_known]).to(rows)
    mask = rows.reshape(-1, *[1] * (parameter.dim() - 1))
    if isinstance(parameter, DTensor):
        return distribute_tensor(mask, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return mask
