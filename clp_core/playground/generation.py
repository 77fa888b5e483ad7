"""Completions of a prompt by loaded models, token by token.

Several models take turns, a token each: their texts grow side by side, each draws with a random generator of its own,
and the speed reported for each is that of its own work.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clp_core.checkpoints.finite import NonFiniteError, scores_error
from clp_core.checkpoints.model_config import max_positions
from clp_core.environment.memory_errors import SMALLER, OutOfMemoryError, memory_explained
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import load_to_generate
from clp_core.evaluation.decoding import DecodedToken, Sampling, decode, end_tokens
from clp_core.files.json_files import read_json
from clp_core.hub.resolve import locate
from clp_core.jobs.failure_reason import reason_of
from clp_core.playground.answers import END_OF_TEXT, FAILED, LENGTH, REFUSED, STOPPED, GenerateOptions
from clp_core.tokenization.text_stream import TextStream
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

Event = dict[str, Any]
"""Progress of one completion; see ``answers.Completion``."""


@dataclass(frozen=True)
class PromptEncoder:
    """Tokenizer and limits of a model, known before its weights are loaded.

    Attributes:
        name: the model as the user named it.
        folder: its folder.
        vocabulary: its own tokenizer.
        positions: its longest text in tokens, or ``None`` where it states none.
    """

    name: str
    folder: Path
    vocabulary: Vocabulary
    positions: int | None

    @classmethod
    def open(cls, reference: str) -> PromptEncoder:
        """Open a folder or a Hub id.

        Raises:
            InputError: there is no such model, or it has no tokenizer.
        """
        folder = locate(reference)
        positions = max_positions(read_json(folder / "config.json"))
        vocabulary = Vocabulary.open(folder)
        for warning in vocabulary.warnings:
            log.warning("%s", warning)
        return cls(reference, folder, vocabulary, positions)

    def encode(self, options: GenerateOptions) -> tuple[list[int], list[int]]:
        """Tokenise a prompt.

        Returns:
            The ids of the prompt, and those that stand before it.

        Raises:
            InputError: there is no token to begin with, or no room for the completion.
        """
        before = list(self.vocabulary.template[0])
        start = self.vocabulary.roles.get("bos", self.vocabulary.roles.get("eos"))
        if not before and start is not None:
            before = [start]
        ids = self.vocabulary.encode(options.prompt)
        if not before + ids:
            raise InputError(f"the tokenizer of {self.folder.name} has no begin-of-text token; give a prompt")
        room = None if self.positions is None else self.positions - options.max_tokens
        if room is not None and len(before + ids) > room:
            raise InputError(
                f"{self.folder.name} takes {self.positions} tokens in all: the prompt has {len(ids)}, and "
                f"{options.max_tokens} are to be written; shorten the prompt or ask for fewer tokens"
            )
        return ids, before


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        encoder: its tokenizer and limits.
        model: the model, in evaluation mode.
        ends: ids that end a text.
    """

    encoder: PromptEncoder
    model: PreTrainedModel
    ends: tuple[int, ...]

    @classmethod
    def load(cls, encoder: PromptEncoder) -> LoadedModel:
        """Load the weights, on the GPU that torch sees, else on the CPU in float32.

        Raises:
            InputError: transformers cannot load them, or they are too few for the tokenizer.
            OutOfMemoryError: they do not fit in memory.
        """
        model = load_to_generate(encoder.folder)
        vocabulary = encoder.vocabulary.within(model.get_input_embeddings().weight.shape[0])
        return cls(replace(encoder, vocabulary=vocabulary), model, end_tokens(model, vocabulary))


def sampling_of(options: GenerateOptions) -> Sampling:
    """Map a request to settings of the decoder; those of the checkpoint's generation config are not mixed in."""
    return Sampling(options.temperature, options.top_k, options.top_p, options.repetition_penalty, options.seed)


class Generation:
    """One model's completion of one prompt, advanced a token at a time."""

    def __init__(
        self,
        number: int,
        loaded: LoadedModel,
        options: GenerateOptions,
        emit: Callable[[Event], None],
        is_stopped: Callable[[], bool],
    ) -> None:
        """Prepare a completion; nothing is computed yet.

        Args:
            number: ``model`` of its events.
            loaded: the model.
            options: the prompt and its settings.
            emit: receives each event.
            is_stopped: whether to end, checked before each token.
        """
        self._number, self._loaded, self._options = number, loaded, options
        self._emit, self._is_stopped = emit, is_stopped
        self._stream = TextStream(loaded.encoder.vocabulary)
        self._tokens: Iterator[DecodedToken] | None = None
        self._n_tokens = 0
        self._seconds, self._since = 0.0, 0.0

    def advance(self) -> bool:
        """Write one more token, and how the completion ended where it does; return whether it goes on."""
        self._since = time.perf_counter()
        end: Event | None = {"stopped": STOPPED}  # where the process is interrupted
        try:
            end = self._end_after_step()
        except (NonFiniteError, OutOfMemoryError) as error:  # there may be some text already
            end = {"stopped": FAILED, "error": str(error)}
        except InputError as error:
            end = {"stopped": REFUSED, "error": str(error)}
        except Exception as error:
            log.exception("%s could not complete the prompt", self._loaded.encoder.name)
            end = {"stopped": FAILED, "error": reason_of(error).text}
        finally:
            self._seconds = self._own_time()
            if end:
                self._emit({"model": self._number, "text": self._stream.rest(), "seconds": self._seconds} | end)
        return end is None

    def _end_after_step(self) -> Event | None:
        """Write one more token; return how the completion ended, if it did."""
        if self._tokens is None:
            self._tokens = self._begin()
        if self._is_stopped():
            return {"stopped": STOPPED}
        token = self._next(self._tokens)
        vocabulary, options = self._loaded.encoder.vocabulary, self._options
        self._n_tokens += 1
        is_text = token.id < vocabulary.n_ids and token.id not in vocabulary.special_ids
        self._emit(
            {
                "model": self._number,
                "id": token.id,
                "text": self._stream.add(token.id),
                "bytes": len(vocabulary.bytes_of(token.id)) if is_text else 0,
                "log_p": token.log_p,
                "seconds": self._own_time(),
            }
        )
        if token.id in self._loaded.ends and not options.ignore_end:
            return {"stopped": END_OF_TEXT}
        return {"stopped": LENGTH} if self._n_tokens == options.max_tokens else None

    def _begin(self) -> Iterator[DecodedToken]:
        loaded, options = self._loaded, self._options
        ids, before = loaded.encoder.encode(options)
        self._stream = TextStream(loaded.encoder.vocabulary, ids)
        self._emit({"model": self._number, "prompt_tokens": len(ids)})
        return decode(loaded.model, before + ids, sampling_of(options), options.max_tokens)

    def _next(self, tokens: Iterator[DecodedToken]) -> DecodedToken:
        encoder, model = self._loaded.encoder, self._loaded.model
        try:
            with memory_explained(f"answering with {encoder.folder.name}", model.device.type, SMALLER):
                return next(tokens)
        except NonFiniteError as error:
            raise scores_error(model, encoder.name, encoder.vocabulary) from error

    def _own_time(self) -> float:
        return self._seconds + time.perf_counter() - self._since


def complete(
    models: Sequence[LoadedModel],
    options: GenerateOptions,
    emit: Callable[[Event], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Let models complete a prompt side by side, a token each in turn. Failures of one leave the others alone.

    Args:
        models: the models, in the order of ``options.models``.
        options: the prompt and its settings.
        emit: receives each event; its ``model`` is the place in ``models``.
        is_stopped: whether to end, checked before each token.
    """
    running = deque(Generation(i, loaded, options, emit, is_stopped) for i, loaded in enumerate(models))
    while running:
        generation = running.popleft()
        if generation.advance():
            running.append(generation)
