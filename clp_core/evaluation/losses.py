"""The loss of a run, the same for all classes of models: how the Trainer's parts of a step add up to one mean.

The loss of a step is the negative log likelihood, summed over all predicted positions of all its micro-batches on all
processes, divided by their number. The classes of transformers do not agree on this: where a class's own loss is not
``ForCausalLMLoss`` (GPT-2's is not), the Trainer counts the first label of every block, which nothing predicts, and the
loss and its gradient come out too small by ``(block - 1) / block``. So the sum is taken here and the first label is no
label (``data.block_datasets.training_row``), after which the Trainer's count is right for every class.

Mixtures of experts may add a loss that balances their router, where their configuration says so
(``output_router_logits``). It is added here with the class's own coefficient, as the mean over the step, each
micro-batch weighted by its share of the predicted positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clp_core.data.block_datasets import IGNORED_LABEL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUTER_COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
TOLERATED_GAP = 1e-3
CHECKED_TOKENS = 16


def router_coefficient(model: PreTrainedModel) -> float:
    """Find the factor by which a class adds the loss of its router; 0 where it has none."""
    config = model.config.get_text_config()
    for holder in (model, config, getattr(config, "ffn_config", None)):
        for name in (*ROUTER_COEFFICIENTS, "moe_loss_weight"):
            value = getattr(holder, name, None)
            if isinstance(value, int | float):
                return float(value)
    return 0.0


@dataclass
class TextLoss:
    """Mean negative log likelihood of a step; the Trainer calls it with the outputs of the model.

    Attributes:
        router: factor of the router's loss, see ``router_coefficient``.
        input_ids: the inputs whose outputs come next, ``[b, L]``.
        text_share: the share of the loss on the text alone in the loss last returned.
    """

    router: float = 0.0
    input_ids: torch.Tensor | None = None
    text_share: torch.Tensor | float = 1.0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the part of a micro-batch in the loss of its step, in nats per predicted token.

        Args:
            outputs: of the run's model, with ``logits`` ``[b, L, V]``.
            labels: the blocks, ``[b, L]``; ``IGNORED_LABEL`` where nothing is predicted.
            num_items_in_batch: predicted positions of the whole step, by which the sum is divided; by default those of
                ``labels``.
        """
        follows = following(labels)
        counted = (follows != IGNORED_LABEL).sum()
        divisor = torch.as_tensor(counted if num_items_in_batch is None else num_items_in_batch, device=labels.device)
        divisor = divisor.clamp(min=1)
        text, total = self.sums(outputs, labels, follows)
        loss, is_text = total / divisor, total is text
        auxiliary = getattr(outputs, "aux_loss", None)
        if self.router and isinstance(auxiliary, torch.Tensor):
            loss, is_text = loss + self.router * auxiliary.to(loss.device) * (counted / divisor), False
        self.text_share = 1.0 if is_text else share_of(text.detach() / divisor, loss.detach())
        return loss

    def sums(
        self,
        outputs: Any,
        labels: torch.Tensor,  # noqa: ARG002
        follows: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the negative log likelihood of the text, and what the run minimises, over a micro-batch.

        Args:
            outputs: of the run's model.
            labels: the blocks, ``[b, L]``.
            follows: the label that each position predicts, ``[b, L]``.
        """
        logits = outputs.logits.float()
        text = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), follows.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )
        return text, text


def following(labels: torch.Tensor) -> torch.Tensor:
    """Shift labels to the positions that predict them, ``[b, L]``; the last one predicts nothing."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)


def share_of(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Divide, with 1 where the whole is 0, as in a block of one token."""
    return torch.where(whole == 0, torch.ones_like(whole), part / whole)


@torch.no_grad()
def left_out(model: PreTrainedModel, loss: TextLoss, input_ids: torch.Tensor) -> str:
    """Compare a class's own loss on a few tokens with the one that is minimised here.

    Args:
        model: the model, which is left in its mode.
        loss: what is minimised.
        input_ids: a block, ``[L]``.

    Returns:
        A warning where the class adds what is not minimised here; empty where both agree, or the class has no loss.
    """
    ids = input_ids[None, :CHECKED_TOKENS].to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        outputs = model(input_ids=ids, labels=ids.clone(), use_cache=False)
    except (TypeError, NotImplementedError):  # a class without a loss of its own
        return ""
    finally:
        model.train(was_training)
    theirs = getattr(outputs, "loss", None)
    if theirs is None or not torch.isfinite(theirs):
        return ""
    ours = float(TextLoss(loss.router)(outputs, ids))
    gap = float(theirs) - ours
    if abs(gap) <= TOLERATED_GAP * max(1.0, abs(ours)):
        return ""
    return (
        f"{type(model).__name__} defines a loss of its own, {float(theirs):.4f} nats per token on the first tokens of "
        f"the text where the negative log likelihood (with the router's loss, if any) is {ours:.4f}; the run minimises "
        "the latter"
    )
