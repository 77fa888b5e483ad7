"""Samples of a run: what its model writes after each prompt, at every evaluation."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clp_core.checkpoints.finite import NonFiniteError
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import generate
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.distributed import is_first
from clp_core.training.divergence import DivergenceGuard
from clp_core.training.telemetry import RunTelemetry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

SAMPLES_FILE = "samples.jsonl"


class SampleWriter:
    """Appends samples to samples.jsonl."""

    def __init__(
        self, telemetry: RunTelemetry, vocabulary: Vocabulary, prompts: Sequence[str], guard: DivergenceGuard
    ) -> None:
        """Write samples of a run.

        Args:
            telemetry: the run.
            vocabulary: its tokenizer.
            prompts: texts to continue; none for a sample without a prompt.
            guard: words the error where scores are not finite.
        """
        self._telemetry, self._vocabulary, self._guard = telemetry, vocabulary, guard
        self._prompts = tuple(prompts) or ("",)

    def write(self, model: PreTrainedModel, step: int, *, sharded: bool) -> None:
        """Continue each prompt and write the texts; all processes call this where the model is sharded.

        A model whose class cannot generate gets no samples, and the log says so once.

        Raises:
            DivergedError: the scores of the model are not finite.
        """
        try:
            texts = [generate(model, self._vocabulary, prompt, synced=sharded) for prompt in self._prompts]
        except NonFiniteError as error:
            raise self._guard.error(f"the scores of the model are not finite at step {step}") from error
        except InputError as error:  # a class that cannot generate fails in all processes alike
            log.warning("the run has no samples: %s", error)
            self._prompts = ()
            return
        if not is_first():
            return
        run = self._telemetry
        common = {"step": step, "tokens": step * run.plan.step_tokens, "attempt": run.attempt}
        with open(run.job.path / SAMPLES_FILE, "a", encoding="utf-8") as file:
            for prompt, text in zip(self._prompts, texts, strict=True):
                file.write(json.dumps(common | {"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
