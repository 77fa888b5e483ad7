"""Parameter groups with rates of their own, frozen groups, and a gradient mask that lets missing rows alone train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LambdaLR

from clp_core.errors import ClpError
from clp_core.finite import CURE, NonFiniteError, non_finite_weight
from clp_core.schedule import MISSING_ROWS, Schedule, Stage
from clp_core.vocabulary import Vocabulary

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


class RowMask:
    """Takes the gradient of all rows but some, of a whole parameter or of a shard of it."""

    def __init__(self, trained: np.ndarray) -> None:
        """Take which rows train, ``[n_rows]`` of bool."""
        self._trained = trained
        self._masks: dict[int, torch.Tensor] = {}

    def apply(self, parameter: torch.nn.Parameter) -> None:
        """Set the gradient of the rows that do not train to zero."""
        if parameter.grad is None:
            return
        if id(parameter) not in self._masks:
            self._masks[id(parameter)] = self._mask_for(parameter)
        parameter.grad.mul_(self._masks[id(parameter)])

    def _mask_for(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        rows = torch.zeros(parameter.shape[0], dtype=parameter.grad.dtype, device=parameter.grad.device)
        n_known = min(len(rows), len(self._trained))
        rows[:n_known] = torch.from_numpy(self._trained[:n_known]).to(rows)
        mask = rows.reshape(-1, *[1] * (parameter.dim() - 1))
        if isinstance(parameter.grad, DTensor):
            return distribute_tensor(mask, parameter.grad.device_mesh, parameter.grad.placements)
        return mask


def prepare_gradients(optimiser: torch.optim.Optimizer, kinds: list[str], stage: Stage, mask: RowMask | None) -> None:
    """Leave gradients only to what trains in a stage, before they are clipped: the norm is that of what trains.

    A frozen parameter has no gradient, so the optimiser passes it over: no decay, no state, not a bit changed.
    """
    for group, kind in zip(optimiser.param_groups, kinds, strict=True):
        is_frozen = (stage.embedding_rate if kind == EMBEDDINGS else stage.body_rate) == 0
        for parameter in group["params"]:
            if is_frozen:
                parameter.grad = None
            elif kind == EMBEDDINGS and stage.rows == MISSING_ROWS and mask is not None:
                mask.apply(parameter)
