"""Autoregressive decoding: one text, token by token, over the model's cache of keys and values.

The tokens are those of transformers' ``generate``, greedy and sampled, with the processors of its logits in the same
order: repetition penalty, temperature, top-k, top-p. Each text has a random generator of its own, so that its tokens
depend neither on what else the process draws nor on texts that are decoded in between.

Classes without the interface ``cache`` (OpenAI's first GPT, RWKV, XLM) and those whose own cache cannot be used
(``loading.WITHOUT_CACHE``) run over the whole text for every token.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from clp_core.checkpoints.finite import NonFiniteError
from clp_core.checkpoints.loading import has_cache
from clp_core.checkpoints.positions import COUNTED_FROM_PADDING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clp_core.tokenization.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its logits.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: number of likeliest tokens to draw among; 0: all.
        top_p: draw among the likeliest tokens that make up this probability; 1: all.
        repetition_penalty: divides positive logits of tokens that stand in the text, and multiplies negative ones.
        seed: seed of the draws.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 42

    def processors(self) -> LogitsProcessorList:
        """Processors of the logits, in the order of ``generate``."""
        processors = LogitsProcessorList()
        if self.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.temperature not in (0, 1):
            processors.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.temperature > 0 and self.top_k > 0:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.temperature > 0 and self.top_p < 1:
            processors.append(TopPLogitsWarper(float(self.top_p)))
        return processors


@dataclass(frozen=True)
class DecodedToken:
    """One token of a decoded text.

    Attributes:
        id: the token.
        log_p: natural logarithm of the probability the model gave it, before penalty, temperature and cuts; in nats.
    """

    id: int
    log_p: float


class TextState:
    """A growing text and the model's cache of it."""

    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        """Begin with the tokens of a prompt; nothing is computed yet.

        Args:
            model: a loaded causal model in evaluation mode.
            ids: at least one token.
        """
        self._model = model
        self.ids = torch.tensor([list(ids)], device=model.device)
        self._parameters = inspect.signature(model.forward).parameters
        self._uses_cache = has_cache(model) and model.can_generate() and "cache" in self._parameters
        self._cache: object | None = None

    @torch.no_grad()  # tensors of inference mode cannot stay with a sharded model, which goes on training
    def next_logits(self) -> torch.Tensor:
        """Compute the logits of the next token, ``[1, vocabulary]``, in float32."""
        output = self._model(**(self._new_inputs() if self._uses_cache else self._all_inputs()), return_dict=True)
        if self._uses_cache:
            self._cache = output.get("cache")
            self._uses_cache = self._cache is not None
        logits: torch.Tensor = output.logits[:, -1].to(copy=True, dtype=torch.float32, device=self.ids.device)
        return logits

    def append(self, token: torch.Tensor) -> None:
        """Add a token, ``[1]``."""
        self.ids = torch.cat([self.ids, token[:, None]], dim=1)

    def _new_inputs(self) -> dict[str, object]:
        """Arguments of the model for the tokens that its cache does not hold."""
        given = {"attention_mask": torch.ones_like(self.ids)}
        # Some hybrid classes count positions wrongly by their cache; RoBERTa's family counts from its padding index.
        if "position_ids" in self._parameters and self._model.config.model_type not in COUNTED_FROM_PADDING:
            given["position_ids"] = torch.arange(self.ids.shape[1], device=self.ids.device)[None]
        is_first = self._cache is None
        inputs: dict[str, object] = self._model.prepare_inputs_for_generation(
            self.ids,
            next_sequence_length=None if is_first else 1,
            cache=self._cache,
            is_first_iteration=is_first,
            use_cache=True,
            **given,
            **self._last_only(),
        )
        return inputs

    def _all_inputs(self) -> dict[str, object]:
        """Arguments of the model for the whole text."""
        return {"input_ids": self.ids, "use_cache": False, **self._last_only()}

    def _last_only(self) -> dict[str, int]:
        """Spare a class that can the logits of every token but the last."""
        return {"logits_to_keep": 1} if "logits_to_keep" in self._parameters else {}


def end_tokens(model: PreTrainedModel, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Tokens that end a text: those of the model's generation config and the end-of-text token of its tokenizer."""
    config = model.generation_config if model.can_generate() else None
    named = getattr(config, "eos_token_id", None)
    candidates = [*(named if isinstance(named, list) else [named]), vocabulary.roles.get("eos")]
    return tuple(sorted({i for i in candidates if isinstance(i, int) and 0 <= i < vocabulary.n_ids}))


def decode(
    model: PreTrainedModel,
    ids: Sequence[int],
    sampling: Sampling,
    max_tokens: int,
    ends: Collection[int] = (),
) -> Iterator[DecodedToken]:
    """Continue a prompt; each token is computed when it is asked for, so that a caller can stop between two.

    Args:
        model: a loaded causal model in evaluation mode.
        ids: tokens of the prompt, at least one.
        sampling: how tokens are chosen.
        max_tokens: number of tokens at most.
        ends: tokens that end the text; the one that does is yielded.

    Raises:
        NonFiniteError: the logits give no distribution. One of minus infinity excludes its token and is allowed.
    """
    state, processors = TextState(model, ids), sampling.processors()
    generator = torch.Generator(device=state.ids.device).manual_seed(sampling.seed)
    for _ in range(max_tokens):
        logits = state.next_logits()
        if not logits.logsumexp(dim=-1).isfinite().all():
            raise NonFiniteError(
                "the scores of the model are not finite: its training has diverged; use another checkpoint"
            )
        scores = processors(state.ids, logits)
        if sampling.temperature > 0:
            token = torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[:, 0]
        else:
            token = scores.argmax(dim=-1)
        state.append(token)
        token_id = int(token)
        yield DecodedToken(token_id, float(logits[0].log_softmax(dim=-1)[token_id]))
        if token_id in ends:
            return
