"""Learning from the helper besides the text: knowledge distillation (Hinton et al. 2015) in a run.

A helper knows the target language long before the target model does, and has its tokenizer. At every place a of the
text the run follows the mixture of what stands there and of what the teacher expects there:

    loss = - sum_v m_v ln p_v,    m = (1 - weight) onehot(a) + weight * p_teacher

with the weight falling linearly from ``teacher_weight`` at the first step to 0 after ``teacher_share`` of the steps, so
that a run ends on the text alone and its teacher is no ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clp_core.blocks import IGNORED_LABEL, padding_of
from clp_core.evaluation import check_tokenizer_fits
from clp_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Distillation:
    """The loss of a run that follows a teacher; the Trainer calls it with the outputs of the run's model.

    Attributes:
        teacher: the teacher, frozen, on the run's device.
        n_ids: ids of the tokenizer that both share; rows of either model beyond them are padding.
        padding: id that stands where a block has no label.
        weight: the teacher's part of the mixture at this step, 0 to 1.
        text_share: what the loss on the text alone is of the loss last returned.
    """

    teacher: PreTrainedModel
    n_ids: int
    padding: int
    weight: float = 0.0
    text_share: torch.Tensor | float = 1.0

    @classmethod
    def open(cls, folder: Path, vocabulary: Vocabulary, device: torch.device) -> Distillation:
        """Load a teacher: on a GPU in its own data type, on a CPU in float32.

        Raises:
            InputError: it has fewer rows than the tokenizer has ids.
        """
        from transformers import AutoModelForCausalLM

        dtype: Any = "auto" if device.type == "cuda" else torch.float32
        teacher = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, trust_remote_code=False)
        check_tokenizer_fits(teacher, vocabulary)
        teacher.requires_grad_(requires_grad=False)
        return cls(teacher.to(device).eval(), vocabulary.n_ids, padding_of(vocabulary))

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the loss in nats a token.

        Args:
            outputs: of the run's model, with ``logits`` ``[b, L, V]``.
            labels: the blocks, ``[b, L]``; ``IGNORED_LABEL`` where one is filled up, always at its end.
            num_items_in_batch: labels of the whole step, by which the sum is divided; by default those of ``labels``.
        """
        follows = labels[:, 1:].flatten()
        counted = follows != IGNORED_LABEL
        follows = follows.masked_fill(~counted, 0)
        scores = torch.log_softmax(outputs.logits[:, :-1].flatten(0, 1).float(), dim=-1)
        text = -scores.gather(1, follows[:, None]).squeeze(1)
        total = text
        if self.weight:
            expected = self._expectations(labels)
            followed = -(expected * scores[:, : self.n_ids]).sum(dim=-1)
            total = (1 - self.weight) * text + self.weight * followed
        divisor = counted.sum() if num_items_in_batch is None else num_items_in_batch
        text_sum, total_sum = text.detach()[counted].sum(), total[counted].sum()
        self.text_share = text_sum / total_sum.detach()
        return total_sum / divisor

    @torch.no_grad()
    def _expectations(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the teacher's probabilities of what follows, ``[b * (L - 1), n_ids]``."""
        inputs = labels.masked_fill(labels == IGNORED_LABEL, self.padding)
        logits = self.teacher(input_ids=inputs, use_cache=False).logits
        return torch.softmax(logits[:, :-1, : self.n_ids].flatten(0, 1).float(), dim=-1)
