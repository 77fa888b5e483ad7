"""Loss, perplexity and bits per byte of a model on a text, and a sample of what it writes.

Bits per byte is the only figure that can be compared across tokenizers::

    bits_per_byte = (sum over all tokens of -ln p(token | what stands before it)) / (ln 2 * bytes)

* Tokens: every document of the text (one per line, see ``packing``), closed by the end-of-text token. All are scored,
  the first one too: it is predicted from the token that the tokenizer's template begins a text with (else the
  begin-of-text, classifier or end-of-text token). A tokenizer that has none of these leaves its first token unscored.
* Data type: float32, weights and products, on every device: a score depends neither on the type that a checkpoint is
  stored in nor on where it is computed. Log-probabilities are summed in float64.
* Window: the model's positions, at most 1,024 tokens. Stride: half a window. Each token is scored once, in the first
  window that reaches it, so from the second window on every token sees at least half a window before it. Where the
  tokenizer's own template begins every text with a token, each window begins with it (see ``text_reading``).
* Bytes: the UTF-8 bytes of the original text, one line end a document included, whatever the tokenizer makes of them.
  Strings that are read as control tokens are not counted.
* What makes the figure incomparable with other tokenizers' is reported by code and in words: ``not_comparable``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import NonFiniteError, scores_error
from clp_core.checkpoints.loading import forward, load_causal_model, refuse_non_causal, weights_type
from clp_core.checkpoints.memory_estimate import Shape
from clp_core.checkpoints.model_config import embedding_rows, max_positions
from clp_core.data.packing import TextCounts, token_stream
from clp_core.data.text_sources import DEFAULT_FIELD, Texts
from clp_core.embeddings.matmul_backend import backend_named
from clp_core.environment.memory_errors import SMALLER, check_memory, is_out_of_memory, memory_explained
from clp_core.errors import InputError, first_line
from clp_core.evaluation.obstacle import Obstacle
from clp_core.evaluation.options import EvaluateOptions
from clp_core.files.json_files import read_json
from clp_core.hub.resolve import locate
from clp_core.progress import report_progress
from clp_core.tokenization.text_reading import AUTO, EVERY, FIRST, TOKENS, end_token, resolved_begin, start_token
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_WINDOW = 1024
MAX_UNKNOWN_SHARE = 0.001
UNKNOWN_TOKENS, NON_FINITE = "unknown_tokens", "non_finite"
MAX_UNPREDICTED_SHARE = 0.001
"""Of the bytes that no token predicts, or that are not counted."""
MAX_LOSSY_SHARE = 0.01
"""Of the documents that were checked, and of their bytes."""
DIFFERS = "the tokenizer encodes text differently from the SentencePiece model beside it"
LARGEST_LOSS = 700.0
"""Nats per token; the perplexity of a larger loss is beyond a float."""
SCORED_IN = "float32"
"""Data type of weights and products of every score, on every device: that of a run's own evaluations."""
LOGITS_BYTES = 256 << 20
SAMPLE_TOKENS, SAMPLE_TEMPERATURE, SAMPLE_TOP_K = 60, 0.8, 50
"""Of the samples that a run writes; those of the playground by default."""


@dataclass(frozen=True)
class EvaluationResult:
    """How well a model predicts a text.

    Attributes:
        loss: mean over the tokens of the negative log likelihood, in nats.
        counts: sizes of the text.
        scored: number of tokens that were scored.
        begin: where the start token stood: ``every`` window or the ``first``.
        of_text: obstacles to a comparison that lie in the text and its tokenizer.
        other_begin: bits per byte with the start token the other way, where that was measured too.
        failure: why the loss is not finite; empty where it is.
        notes: what is to be known of the tokenizer.
        dtype: data type of the model's weights and products.
    """

    loss: float
    counts: TextCounts
    scored: int
    begin: str = FIRST
    of_text: tuple[Obstacle, ...] = ()
    other_begin: float | None = None
    failure: str = ""
    notes: tuple[str, ...] = ()
    dtype: str = SCORED_IN

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is beyond a float."""
        return math.exp(self.loss) if self.loss < LARGEST_LOSS else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits the model needs for a byte of the original text."""
        return self.loss * self.scored / (math.log(2) * self.counts.bytes)

    @property
    def not_comparable(self) -> tuple[Obstacle, ...]:
        """Why bits per byte cannot be compared with other tokenizers'; empty where it can."""
        if math.isfinite(self.loss) and math.isfinite(self.perplexity):
            return self.of_text
        problem = "perplexity is beyond the range of numbers" if math.isfinite(self.loss) else "loss is not finite"
        return (*self.of_text, Obstacle(NON_FINITE, self.failure or f"the {problem} ({self.loss:g} nats per token)"))

    @property
    def comparable(self) -> bool:
        """Whether nothing stands against comparing bits per byte across tokenizers."""
        return not self.not_comparable

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures should know."""
        return [*map(warning_of, self.not_comparable), *self.counts.warnings]

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line; what is not finite becomes ``None``."""
        figures = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "bytes_per_token": self.counts.bytes_per_token,
            "unknown_share": self.counts.unknown_share,
            "lossy_share": self.counts.lossy_share,
            "lossy_byte_share": self.counts.lossy_byte_share,
        }
        if self.other_begin is not None:
            figures[f"bits_per_byte_begin_{FIRST if self.begin == EVERY else EVERY}"] = self.other_begin
        finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
        return finite | {
            "tokens": self.scored,
            "bytes": self.counts.bytes,
            "dtype": self.dtype,
            "begin": self.begin,
            "control_strings": dict(self.counts.control),
            "replacement_characters": self.counts.replacements,
            "comparable": self.comparable,
            "not_comparable": [obstacle.to_json() for obstacle in self.not_comparable],
        }


def warning_of(obstacle: Obstacle) -> str:
    """Turn an obstacle into a warning."""
    return f"{obstacle.reason}: bits per byte is not comparable with other tokenizers'"


@dataclass(frozen=True)
class EvaluationText:
    """A tokenised text with the windows it is scored in.

    Attributes:
        ids: the stream, a start token first where there is one, ``[tokens + 1]``.
        counts: sizes of the text.
        window: tokens a window takes in.
        start: the token that each window begins with in place of its first; ``None`` where only the stream does.
        obstacles: why bits per byte on it cannot be compared across tokenizers.
        notes: what is to be known of the tokenizer.
    """

    ids: np.ndarray
    counts: TextCounts
    window: int
    start: int | None = None
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        texts: Texts,
        vocabulary: Vocabulary,
        positions: int | None,
        begin: str = AUTO,
        control_strings: str = TOKENS,
    ) -> EvaluationText:
        """Tokenise a text for a model with so many positions.

        Args:
            texts: the documents.
            vocabulary: the tokenizer.
            positions: of the model; ``None`` where it has no limit.
            begin: where the start token stands, see ``text_reading``.
            control_strings: what literal control strings are read as, see ``text_reading``.

        Raises:
            InputError: the text is missing or empty, or the tokenizer has no start token for every window.
        """
        resolved = resolved_begin(vocabulary, begin)
        stream, counts = token_stream(texts, vocabulary, control_strings, checks_round_trip=True)
        start = start_token(vocabulary)
        ids = stream if start is None else np.concatenate([[start], stream])
        if len(ids) < 2:
            raise InputError("the text has a single token; give a longer one")
        window = min(positions or MAX_WINDOW, MAX_WINDOW)
        obstacles = [
            *obstacles_of(counts, has_start=start is not None, has_end=end_token(vocabulary) is not None),
            *begin_obstacles(vocabulary, resolved, n_windows=math.ceil((len(ids) - 1) / window)),
        ]
        if vocabulary.differs:
            obstacles.append(Obstacle("tokenizer_differs", DIFFERS))
        begin_id = start if resolved == EVERY else None
        return cls(ids, counts, window, begin_id, tuple(obstacles), vocabulary.warnings)

    @property
    def begin(self) -> str:
        """Where the start token stands: ``every`` window or the ``first``."""
        return FIRST if self.start is None else EVERY

    @property
    def scored(self) -> int:
        """Number of tokens that are predicted."""
        return len(self.ids) - 1

    @property
    def warnings(self) -> list[str]:
        """What a reader of scores on this text should know."""
        return [*map(warning_of, self.obstacles), *self.counts.warnings]

    def to_json(self) -> dict[str, Any]:
        """Return how the text is scored: what the curves of two runs must share to be compared."""
        return {
            "begin": self.begin,
            "bytes": self.counts.bytes,
            "dtype": SCORED_IN,
            "not_comparable": [obstacle.to_json() for obstacle in self.obstacles],
        }

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Yield start and stop of the inputs of each window, and how many of its first predictions are not scored."""
        done, start = 0, 0
        stride = max(1, self.window // 2)
        while done < self.scored:
            stop = min(start + self.window, self.scored)
            yield start, stop, done - start
            done = stop
            start += stride

    def inputs(self, start: int, stop: int) -> np.ndarray:
        """Return the inputs of a window, ``[stop - start]``: the start token stands in place of the first."""
        ids = self.ids[start:stop]
        return ids if self.start is None else np.concatenate([[self.start], ids[1:]])


def obstacles_of(counts: TextCounts, *, has_start: bool, has_end: bool) -> Iterator[Obstacle]:
    """Yield why bits per byte on a text cannot be compared across tokenizers.

    Args:
        counts: sizes of the text.
        has_start: whether a start token predicts the first token.
        has_end: whether a token closes each document, which predicts its line end.
    """
    if counts.unknown_share > MAX_UNKNOWN_SHARE:
        yield Obstacle(
            UNKNOWN_TOKENS, f"{100 * counts.unknown_share:.2f} % of the text's tokens are unknown to the tokenizer"
        )
    if max(counts.lossy_share, counts.lossy_byte_share) > MAX_LOSSY_SHARE:
        yield Obstacle(
            "lossy_tokenizer",
            f"{100 * counts.lossy_share:.1f} % of the documents, with {100 * counts.lossy_byte_share:.1f} % of the "
            f"bytes, are changed by the tokenizer, which does not predict what it drops ({counts.lossy_example})",
        )
    if counts.control_bytes > MAX_UNPREDICTED_SHARE * counts.bytes:
        yield Obstacle(
            "control_strings",
            f"{counts.control_bytes:,} bytes of the text are strings of special tokens, which are not counted beside "
            f"{counts.bytes:,} that are",
        )
    if not has_start and counts.tokens * MAX_UNPREDICTED_SHARE < 1:
        yield Obstacle(
            "first_token_unscored",
            f"the tokenizer has no start token, so the first of only {counts.tokens:,} tokens is not scored",
        )
    if not has_end and counts.documents > MAX_UNPREDICTED_SHARE * counts.bytes:
        yield Obstacle(
            "line_ends_unpredicted",
            f"the tokenizer has no end-of-text token, so no token predicts the ends of {counts.documents:,} documents, "
            f"{100 * counts.documents / counts.bytes:.2f} % of the bytes",
        )


def begin_obstacles(vocabulary: Vocabulary, begin: str, n_windows: int) -> Iterator[Obstacle]:
    """Yield that windows begin otherwise than the tokenizer's own template has it.

    Args:
        vocabulary: the tokenizer.
        begin: ``every`` or ``first``.
        n_windows: number of windows; a single one is the same both ways.
    """
    before = vocabulary.template[0]
    if len(before) > 1:
        shown = " ".join(str(vocabulary.tokens[i]) for i in before)
        yield Obstacle(
            "begin_against_template",
            f"the tokenizer's template puts {len(before)} tokens ({shown}) before every text, and windows begin with "
            "the first of them alone",
        )
        return
    if n_windows < 2 or begin == resolved_begin(vocabulary):
        return
    reason = (
        "windows after the first do not begin with the token that the tokenizer's template puts before every text"
        if begin == FIRST
        else "every window begins with a token that the tokenizer's template does not put before a text"
    )
    yield Obstacle("begin_against_template", reason)


def evaluate(
    reference: str | Path,
    texts: Sequence[str | Path],
    field: str = DEFAULT_FIELD,
    begin: str = AUTO,
    control_strings: str = TOKENS,
    *,
    both: bool = False,
    device: str = AUTO,
) -> EvaluationResult:
    """Score a model on texts.

    Args:
        reference: a folder or a Hub id.
        texts: files or folders of documents, or datasets of the Hub, see ``data.text_sources``.
        field: field of JSON lines, or column of parquet, that holds the text.
        begin: where the start token stands, see ``text_reading``.
        control_strings: what literal control strings are read as, see ``text_reading``.
        both: also score with the start token the other way, where the tokenizer's template has one and that differs.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one; the score is that of float32 on either.

    Raises:
        InputError: the model cannot be opened, is incomplete or not causal, or the text is missing or empty.
        OutOfMemoryError: the model does not fit in memory.
    """
    EvaluateOptions(str(reference), tuple(map(str, texts)), field, begin, control_strings)  # refuses unknown words
    return ScoringModel.open(reference, device).evaluate(texts, field, begin, control_strings, both=both)


@dataclass(frozen=True)
class ScoringModel:
    """A model opened for scores and samples; its weights are loaded once, when they are first needed.

    Attributes:
        folder: the model.
        vocabulary: its tokenizer.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    """

    folder: Path
    vocabulary: Vocabulary
    device: str = AUTO

    @classmethod
    def open(cls, reference: str | Path, device: str = AUTO) -> ScoringModel:
        """Open a folder or a model of the Hub.

        Raises:
            InputError: it cannot be opened.
        """
        checkpoint = Checkpoint.open(locate(reference))
        return cls(checkpoint.folder, Vocabulary.open(checkpoint.folder, rows=embedding_rows(checkpoint)), device)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model in memory, see ``load_model``."""
        return load_model(self.folder, self.device)

    def evaluate(
        self,
        texts: Sequence[str | Path],
        field: str = DEFAULT_FIELD,
        begin: str = AUTO,
        control_strings: str = TOKENS,
        *,
        both: bool = False,
    ) -> EvaluationResult:
        """Score texts, which are read before the weights; see the function ``evaluate``."""
        vocabulary, name = self.vocabulary, self.folder.name
        positions = max_positions(read_json(self.folder / "config.json"))
        text = EvaluationText.read(Texts.open(texts, field), vocabulary, positions, begin, control_strings)
        model = self.model
        with memory_explained(f"scoring with {name}", model.device.type):
            check_tokenizer_fits(model, vocabulary)
            refuse_non_causal(model, name, positions)
            result = score(model, text)
            if not math.isfinite(result.loss):
                return replace(result, failure=str(scores_error(model, name, vocabulary)))
            if both and vocabulary.template_start is not None and text.scored > text.window:
                other = replace(text, start=None if text.begin == EVERY else start_token(vocabulary))
                result = replace(result, other_begin=score(model, other).bits_per_byte)
            return result

    def sample(self, prompt: str = "", seed: int = 42) -> str:
        """Continue a prompt with a sample; see ``generate``.

        Raises:
            InputError: the class cannot generate, or the prompt is too long.
            NonFiniteError: the scores of a token are not finite; it names the weights that cause it.
        """
        try:
            with memory_explained(f"generating with {self.folder.name}", self.model.device.type):
                return generate(self.model, self.vocabulary, prompt, seed)
        except NonFiniteError as error:
            raise scores_error(self.model, self.folder.name, self.vocabulary) from error


def load_model(folder: Path, device: str = AUTO) -> PreTrainedModel:
    """Load a model for scoring: in float32 on every device, as a run evaluates.

    Args:
        folder: the model.
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Raises:
        InputError: transformers cannot load it, it lacks weights of its class, or there is no GPU.
        OutOfMemoryError: it does not fit in memory.
    """
    import torch

    name = backend_named(device).name
    check_memory(scoring_bytes(folder), f"scoring with {folder.name} in {SCORED_IN}", name)
    return placed(folder, torch.float32, name)


def load_to_generate(folder: Path) -> PreTrainedModel:
    """Load a model to generate text with, on the GPU where there is one, in the type of ``loading.weights_type``.

    Raises:
        InputError: transformers cannot load it, or it lacks weights of its class.
        OutOfMemoryError: it does not fit in memory.
    """
    name = backend_named(AUTO).name
    return placed(folder, weights_type(name), name, SMALLER)


def placed(folder: Path, dtype: torch.dtype | str, device: str, cure: str = "") -> PreTrainedModel:
    """Load a model and move it to a device; ``cure`` is what a lack of memory is answered with."""
    with memory_explained(f"loading {folder.name}", device, cure):
        return load_causal_model(folder, dtype).to(device).eval()


def scoring_bytes(folder: Path) -> int:
    """Return the memory that scoring with a model takes: weights, and activations and logits of one batch."""
    checkpoint = Checkpoint.open(folder)
    window = min(max_positions(checkpoint.config) or MAX_WINDOW, MAX_WINDOW)
    return Shape.of_checkpoint(checkpoint, embedding_rows(checkpoint) or 0).scoring_bytes(window, LOGITS_BYTES)


def check_tokenizer_fits(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer with more ids than the model has rows.

    Raises:
        InputError: it has.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < vocabulary.n_ids:
        raise InputError(f"the model has {rows} embedding rows, its tokenizer ids up to {vocabulary.n_ids - 1}")


def score(model: PreTrainedModel, text: EvaluationText) -> EvaluationResult:
    """Score a loaded model on a tokenised text; the loss is summed in float64.

    Processes that train together share the windows. Each goes through the model equally often, as the parts of a
    sharded model come together only where all processes ask for them.
    """
    import torch

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    windows = list(text.windows())
    vocab = model.get_output_embeddings().weight.shape[0]
    batch_size = max(1, LOGITS_BYTES // (4 * text.window * vocab))
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
    total = torch.zeros((), dtype=torch.float64)
    # Tensors of inference mode cannot stay with a sharded model, which trains on.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for first in range(0, len(batches), processes):
            own = first + rank
            loss = batch_loss(model, text, batches[min(own, len(batches) - 1)], device)
            total += loss if own < len(batches) else 0.0
            report_progress("scoring the text", min(1.0, (first + processes) / len(batches)))
    if processes > 1:
        total = total.to(device)
        torch.distributed.all_reduce(total)
    model.train(was_training)
    loss = float(total) / text.scored
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return EvaluationResult(loss, text.counts, text.scored, text.begin, text.obstacles, notes=text.notes, dtype=dtype)


def batch_loss(
    model: PreTrainedModel, text: EvaluationText, windows: Sequence[tuple[int, int, int]], device: torch.device
) -> float:
    """Return the summed negative log likelihood, in nats, of the tokens that a batch of windows scores."""
    import torch

    longest = max(stop - start for start, stop, _ in windows)
    inputs = torch.zeros((len(windows), longest), dtype=torch.long)
    targets = torch.full((len(windows), longest), -100, dtype=torch.long)
    for row, (start, stop, skipped) in enumerate(windows):
        inputs[row, : stop - start] = torch.from_numpy(text.inputs(start, stop))
        targets[row, skipped : stop - start] = torch.from_numpy(text.ids[start + 1 + skipped : stop + 1])
    # Windows are filled up at their end, where causal attention lets nothing look.
    logits = forward(model, inputs.to(device), "the model")
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=-100, reduction="none"
    )
    return float(losses.double().sum())


def sample(folder: Path, prompt: str = "", seed: int = 42, device: str = AUTO) -> str:
    """Continue a prompt with a sample of the model in a folder; see ``generate``."""
    return ScoringModel.open(folder, device).sample(prompt, seed)


def generate(
    model: PreTrainedModel, vocabulary: Vocabulary, prompt: str = "", seed: int = 42, *, synced: bool = False
) -> str:
    """Continue a prompt with a sample of the model: 60 tokens, temperature 0.8, the 50 likeliest.

    There are fewer tokens where the text ends, or the model has no positions for more.

    The draws have a generator of their own, so that a run does not depend on its samples.

    Args:
        model: a loaded model.
        vocabulary: its tokenizer.
        prompt: text before the sample.
        seed: seed of the draws.
        synced: run the model equally often in all processes, whatever they draw, as a sharded one requires.

    Raises:
        InputError: there is nothing to begin with, or the prompt takes all positions, or the model's class fails.
        NonFiniteError: the scores of a token are not finite.
    """
    from clp_core.evaluation.decoding import Sampling, decode, end_tokens

    start = vocabulary.template_start
    if start is None:
        start = vocabulary.roles.get("bos", vocabulary.roles.get("eos"))
    ids = ([start] if start is not None else []) + vocabulary.encode(prompt)
    if not ids:
        raise InputError("the tokenizer has no begin-of-text token; give a prompt")
    positions = max_positions(model.config.to_dict())
    room = SAMPLE_TOKENS
    if positions is not None:
        room = min(room, positions - len(ids))
    if positions is not None and room < 1:
        raise InputError(
            f"the prompt has {len(ids):,} tokens, the model {positions:,} positions; give a prompt of at most "
            f"{positions - 1:,} tokens"
        )
    ends = end_tokens(model, vocabulary)
    sampling = Sampling(SAMPLE_TEMPERATURE, SAMPLE_TOP_K, seed=seed)
    was_training = model.training
    model.eval()
    try:
        new = [token.id for token in decode(model, ids, sampling, room, () if synced else ends)]
    except (NonFiniteError, MemoryError):
        raise
    except Exception as error:  # classes fail on their own caches in many ways
        if is_out_of_memory(error):
            raise
        raise InputError(f"{type(model).__name__} cannot generate text: {first_line(error)}") from error
    finally:
        model.train(was_training)
    length = next((i for i, token_id in enumerate(new) if token_id in ends), len(new))
    return str(vocabulary.tokenizer.decode(ids + new[:length], skip_special_tokens=True))
