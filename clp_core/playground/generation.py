"""Text from loaded models, token by token, by transformers' ``generate``.

Several models take turns, a token each: their texts grow side by side, each draws its random numbers as if it were
alone, and the pace told of each is that of its own work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from clp_core.checkpoints.finite import NonFiniteError, scores_error
from clp_core.checkpoints.loading import has_cache
from clp_core.checkpoints.model_config import max_positions
from clp_core.environment.memory_errors import SMALLER, OutOfMemoryError, memory_explained
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import load_speaker
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
"""What happened to one answer; see ``answers.Answer``."""


class StoppedError(Exception):
    """Ends ``generate`` between two tokens."""


@dataclass(frozen=True)
class Reader:
    """What is known of a model before its weights are loaded.

    Attributes:
        name: as the user named it.
        folder: where it lies.
        vocabulary: its own tokenizer.
        positions: its longest text in tokens, or ``None`` where it states none.
    """

    name: str
    folder: Path
    vocabulary: Vocabulary
    positions: int | None

    @classmethod
    def open(cls, reference: str) -> Reader:
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

    def prompt_ids(self, options: GenerateOptions) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt under this model's tokenizer, and those of what goes before it.

        Raises:
            InputError: there is nothing to begin with, or no room for the answer.
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

    def load(self) -> Speaker:
        """Load the weights, on the GPU that torch sees, else on the CPU in float32.

        Raises:
            InputError: transformers cannot load them, or they are too few for the tokenizer.
        """
        model = load_speaker(self.folder)
        vocabulary = self.vocabulary.within(model.get_input_embeddings().weight.shape[0])
        named = model.generation_config.eos_token_id
        ends = {i for i in (named if isinstance(named, list) else [named]) if i in range(vocabulary.n_ids)}
        ends |= {vocabulary.roles["eos"]} if "eos" in vocabulary.roles else set()
        # What a checkpoint wants of sampling would mix with what is asked for here.
        model.generation_config = GenerationConfig()
        return Speaker(replace(self, vocabulary=vocabulary), model, tuple(sorted(ends)))


@dataclass(frozen=True)
class Speaker:
    """A loaded model.

    Attributes:
        reader: its tokenizer and limits.
        model: the model, in evaluation mode.
        ends: ids that end a text.
    """

    reader: Reader
    model: PreTrainedModel
    ends: tuple[int, ...]


class Turns:
    """Lets several threads run one at a time, in a circle."""

    def __init__(self, n: int) -> None:
        """Begin with the first of ``n``."""
        self._condition = threading.Condition()
        self._order = deque(range(n))

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one left."""
        return len(self._order) > 1

    def wait(self, who: int) -> None:
        """Wait until it is this one's turn."""
        with self._condition:
            self._condition.wait_for(lambda: self._order[0] == who)

    def pass_on(self) -> None:
        """Let the next one run."""
        with self._condition:
            self._order.rotate(-1)
            self._condition.notify_all()

    def leave(self) -> None:
        """Let the next one run, and come no more."""
        with self._condition:
            self._order.popleft()
            self._condition.notify_all()


class Witness:
    """Sees the scores of the next token as the model gives them, before penalty, temperature and cuts."""

    def __init__(self, speaker: Speaker) -> None:
        """Begin without scores of this model."""
        self._speaker = speaker
        self._scores: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Keep the scores, ``[1, vocabulary]``; return them as they are.

        Raises:
            NonFiniteError: they give no distribution. A score of minus infinity excludes its token and is allowed.
        """
        if not torch.isfinite(torch.logsumexp(scores.float(), dim=-1)).all():
            reader = self._speaker.reader
            raise scores_error(self._speaker.model, reader.name, reader.vocabulary)
        self._scores = scores
        return scores

    def log_p(self, token_id: int) -> float:
        """Return the natural log-probability of a token."""
        assert self._scores is not None
        return float(torch.log_softmax(self._scores[0], dim=-1)[token_id])


class Answering:
    """One model that answers one prompt; ``generate`` hands it each token."""

    def __init__(
        self,
        number: int,
        speaker: Speaker,
        options: GenerateOptions,
        tell: Callable[[Event], None],
        is_stopped: Callable[[], bool],
        turns: Turns,
    ) -> None:
        """Take what ``answer`` is given, and the model's number."""
        self._number, self._speaker, self._options = number, speaker, options
        self._tell, self._is_stopped, self._turns = tell, is_stopped, turns
        self._witness = Witness(speaker)
        self._is_prompt = True
        self._n_tokens, self._last_id = 0, -1
        self._seconds, self._since = 0.0, 0.0
        self._stream = TextStream(speaker.reader.vocabulary)

    def run(self) -> None:
        """Answer, and tell how it ended; no error leaves this thread."""
        self._turns.wait(self._number)
        self._since = time.perf_counter()
        end: Event = {}
        try:
            speaker = self._speaker
            with memory_explained(f"answering with {speaker.reader.folder.name}", speaker.model.device.type, SMALLER):
                end = {"stopped": self._generate()}
        except StoppedError:
            end = {"stopped": STOPPED}
        except (NonFiniteError, OutOfMemoryError) as error:  # some text may have been written before
            end = {"stopped": FAILED, "error": str(error)}
        except InputError as error:
            end = {"stopped": REFUSED, "error": str(error)}
        except Exception as error:
            log.exception("%s could not answer", self._speaker.reader.name)
            end = {"stopped": FAILED, "error": reason_of(error).text}
        finally:
            try:
                self._tell({"model": self._number, "text": self._stream.rest(), "seconds": self._own_time()} | end)
            finally:
                self._turns.leave()

    def _generate(self) -> str:
        options, vocabulary = self._options, self._speaker.reader.vocabulary
        ids, before = self._speaker.reader.prompt_ids(options)
        self._stream = TextStream(vocabulary, ids)
        self._tell({"model": self._number, "prompt_tokens": len(ids)})
        if self._is_stopped():
            raise StoppedError
        torch.manual_seed(options.seed)
        processors: list[Any] = [self._witness]
        if options.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        sampling: dict[str, Any] = {"do_sample": False}
        if options.temperature > 0:
            sampling = {"do_sample": True, "temperature": float(options.temperature)}
            sampling |= {"top_k": options.top_k, "top_p": float(options.top_p)}
        config = GenerationConfig(
            max_new_tokens=options.max_tokens,
            eos_token_id=None if options.ignore_end else list(self._speaker.ends) or None,
            pad_token_id=vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0)),
            use_cache=has_cache(self._speaker.model),
            **sampling,
        )
        inputs = torch.tensor([before + ids], device=self._speaker.model.device)
        with torch.inference_mode():
            self._speaker.model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=config,
                logits_processor=LogitsProcessorList(processors),
                streamer=self,
            )
        return END_OF_TEXT if self._last_id in self._speaker.ends and not options.ignore_end else LENGTH

    def put(self, tokens: torch.Tensor) -> None:
        """Take the prompt, then each token; the next one is computed after this returns."""
        if self._is_prompt:
            self._is_prompt = False
            return
        vocabulary = self._speaker.reader.vocabulary
        self._last_id = token_id = int(tokens[0])
        self._n_tokens += 1
        is_known = token_id < vocabulary.n_ids and token_id not in vocabulary.special_ids
        self._tell(
            {
                "model": self._number,
                "id": token_id,
                "text": self._stream.add(token_id),
                "bytes": len(vocabulary.bytes_of(token_id)) if is_known else 0,
                "log_p": self._witness.log_p(token_id),
                "seconds": self._own_time(),
            }
        )
        if self._turns.is_shared:
            self._let_others_run()
        if self._is_stopped() and self._n_tokens < self._options.max_tokens:
            raise StoppedError

    def end(self) -> None:
        """Be told that ``generate`` is done; how it ended is told by ``run``."""

    def _own_time(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    def _let_others_run(self) -> None:
        """Stand aside for a token of each other model, and find the random numbers as they were left."""
        self._seconds = self._own_time()
        on_gpu = self._speaker.model.device.type == "cuda"
        state = torch.get_rng_state()
        gpu_state = torch.cuda.get_rng_state(self._speaker.model.device) if on_gpu else None
        self._turns.pass_on()
        self._turns.wait(self._number)
        torch.set_rng_state(state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, self._speaker.model.device)
        self._since = time.perf_counter()


def answer(
    speakers: Sequence[Speaker],
    options: GenerateOptions,
    tell: Callable[[Event], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Let models go on with a prompt, side by side. The generators of random numbers are left as they were.

    Args:
        speakers: the models, in the order of ``options.models``.
        options: the prompt and its settings.
        tell: is told each event, one at a time; its ``model`` is the place in ``speakers``.
        is_stopped: is asked before each token whether to end.
    """
    turns = Turns(len(speakers))
    runs = [Answering(i, speaker, options, tell, is_stopped, turns).run for i, speaker in enumerate(speakers)]
    gpus = sorted({speaker.model.device.index for speaker in speakers if speaker.model.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        if len(runs) == 1:
            runs[0]()  # in this thread, where Ctrl+C ends it at once
            return
        threads = [threading.Thread(target=run, daemon=True) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
