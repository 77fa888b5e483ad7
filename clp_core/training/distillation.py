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

from clp_core.checkpoints.loading import load_causal_model, refuse_non_causal, weights_type
from clp_core.checkpoints.model_config import max_positions
from clp_core.data.block_datasets import IGNORED_LABEL, padding_of
from clp_core.evaluation.bits_per_byte import check_tokenizer_fits
from clp_core.evaluation.losses import TextLoss
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.parameter_groups import refuse_non_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(kw_only=True)
class Distillation(TextLoss):
    """The loss of a run that follows a teacher; the Trainer calls it with the outputs of the run's model.

    Attributes:
        teacher: the teacher, frozen, on the run's device.
        n_ids: ids of the tokenizer that both share; rows of either model beyond them are padding.
        padding: id that stands where a block has no label.
        weight: the teacher's part of the mixture at this step, 0 to 1.
    """

    teacher: PreTrainedModel
    n_ids: int
    padding: int
    weight: float = 0.0

    @classmethod
    def open(cls, folder: Path, vocabulary: Vocabulary, device: torch.device, router: float = 0.0) -> Distillation:
        """Load a teacher, in the type that ``checkpoints.loading.weights_type`` chooses.

        Raises:
            InputError: it lacks weights of its class, has fewer rows than the tokenizer has ids or weights that are
                not finite, or is not causal.
        """
        teacher = load_causal_model(folder, weights_type(device.type))
        check_tokenizer_fits(teacher, vocabulary)
        refuse_non_finite(teacher, f"the teacher {folder.name}", vocabulary)
        teacher.requires_grad_(requires_grad=False)
        teacher.to(device).eval()
        refuse_non_causal(teacher, f"the teacher {folder.name}", max_positions(teacher.config.to_dict()))
        return cls(router=router, teacher=teacher, n_ids=vocabulary.n_ids, padding=padding_of(vocabulary))

    def sums(self, outputs: Any, labels: torch.Tensor, follows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the negative log likelihood of the text, and the cross-entropy to the mixture, over a micro-batch."""
        flat = follows[:, :-1].flatten()
        counted = flat != IGNORED_LABEL
        flat = flat.masked_fill(~counted, 0)
        scores = torch.log_softmax(outputs.logits[:, :-1].flatten(0, 1).float(), dim=-1)
        text = -scores.gather(1, flat[:, None]).squeeze(1)
        total = text
        if self.weight:
            expected = self._expectations(labels)
            followed = -(expected * scores[:, : self.n_ids]).sum(dim=-1)
            total = (1 - self.weight) * text + self.weight * followed
        return text[counted].sum(), total[counted].sum()

    @torch.no_grad()
    def _expectations(self, labels: torch.Tensor) -> torch.Tensor:
        """Compute the teacher's probabilities of what follows, ``[b * (L - 1), n_ids]``."""
        inputs = self.input_ids
        if inputs is None:
            inputs = labels.masked_fill(labels == IGNORED_LABEL, self.padding)
        logits = self.teacher(input_ids=inputs, use_cache=False).logits
        return torch.softmax(logits[:, :-1, : self.n_ids].flatten(0, 1).float(), dim=-1)
