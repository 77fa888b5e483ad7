"""Loss, perplexity and bits per byte of a model on a text, and a sample of what it writes.

Bits per byte is the only figure that can be compared across tokenizers::

    bits_per_byte = (sum over all tokens of -ln p(token | what stands before it)) / (ln 2 * bytes)

* Tokens: every document of the text (one a line, see ``corpus``), closed by the end-of-text token. All are scored, the
  first one too: it is predicted from the begin-of-text token (or the end-of-text token, where there is no other). A
  tokenizer that has neither leaves its first token unscored.
* Window: the model's positions, at most 1,024 tokens. Stride: half a window. Each token is scored once, in the first
  window that reaches it, so from the second window on every token sees at least half a window before it.
* Bytes: the UTF-8 bytes of the original text, one line end a document included, whatever the tokenizer makes of them.
* A tokenizer that maps text to its unknown token does not predict that text. The share of unknown tokens is reported,
  and above 0.1 % the figure is marked not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clp_core.checkpoint import Checkpoint
from clp_core.corpus import TextCounts, token_stream
from clp_core.documents import DEFAULT_FIELD, Texts
from clp_core.errors import InputError
from clp_core.locate import locate, read_json
from clp_core.prepared import max_positions
from clp_core.progress import report_progress
from clp_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_WINDOW = 1024
MAX_UNKNOWN_SHARE = 0.001
LOGITS_BYTES = 256 << 20
SAMPLE_TOKENS = 60


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes:
        loss: mean over the tokens of the negative log likelihood, in nats.
        counts: sizes of the text.
        scored: number of tokens that were scored.
    """

    loss: float
    counts: TextCounts
    scored: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is beyond a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits the model needs for a byte of the original text."""
        return self.loss * self.scored / (math.log(2) * self.counts.bytes)

    @property
    def comparable(self) -> bool:
        """Whether so little of the text is unknown that bits per byte can be compared across tokenizers."""
        return self.counts.unknown_share <= MAX_UNKNOWN_SHARE

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures should know."""
        if self.comparable:
            return []
        return [
            f"{100 * self.counts.unknown_share:.2f} % of the text's tokens are unknown to the tokenizer: "
            "bits per byte is not comparable with other tokenizers'"
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line; what is not finite becomes ``None``."""
        figures = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "bytes_per_token": self.counts.bytes_per_token,
            "unknown_share": self.counts.unknown_share,
        }
        finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
        return finite | {"tokens": self.scored, "bytes": self.counts.bytes, "comparable": self.comparable}


@dataclass(frozen=True)
class EvaluationText:
    """A tokenised text with the windows it is scored in.

    Attributes:
        ids: the stream, a start token first where there is one, ``[tokens + 1]``.
        counts: sizes of the text.
        window: tokens a window takes in.
    """

    ids: np.ndarray
    counts: TextCounts
    window: int

    @classmethod
    def read(cls, texts: Texts, vocabulary: Vocabulary, positions: int | None) -> EvaluationText:
        """Tokenise a text for a model with so many positions.

        Raises:
            InputError: the text is missing or empty.
        """
        stream, counts = token_stream(texts, vocabulary)
        start = start_token(vocabulary)
        ids = stream if start is None else np.concatenate([[start], stream])
        if len(ids) < 2:
            raise InputError("the text has a single token; give a longer one")
        return cls(ids, counts, min(positions or MAX_WINDOW, MAX_WINDOW))

    @property
    def scored(self) -> int:
        """Number of tokens that are predicted."""
        return len(self.ids) - 1

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Yield start and stop of the inputs of each window, and how many of its first predictions are not scored."""
        done, start = 0, 0
        stride = max(1, self.window // 2)
        while done < self.scored:
            stop = min(start + self.window, self.scored)
            yield start, stop, done - start
            done = stop
            start += stride


def start_token(vocabulary: Vocabulary) -> int | None:
    """Return the token before a text, from which its first token is predicted; ``None`` where there is none."""
    return vocabulary.roles.get("bos", vocabulary.roles.get("cls", vocabulary.roles.get("eos")))


def evaluate(reference: str | Path, texts: Sequence[str | Path], field: str = DEFAULT_FIELD) -> Evaluation:
    """Score a model on texts.

    Args:
        reference: a folder or a Hub id.
        texts: files or folders of documents, or datasets of the Hub, see ``documents``.
        field: field of JSON lines, or column of parquet, that holds the text.

    Raises:
        InputError: the model cannot be opened, or the text is missing or empty.
    """
    folder = Checkpoint.open(locate(reference)).folder
    vocabulary = Vocabulary.open(folder)
    text = EvaluationText.read(Texts.open(texts, field), vocabulary, max_positions(read_json(folder / "config.json")))
    model = load_model(folder)
    check_tokenizer_fits(model, vocabulary)
    return score(model, text)


def load_model(folder: Path) -> PreTrainedModel:
    """Load a model for scoring, on the GPU where there is one; on a CPU in float32.

    Raises:
        InputError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    has_gpu = torch.cuda.is_available()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto" if has_gpu else torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{folder} cannot be loaded: {first_line}") from error
    model.to("cuda" if has_gpu else "cpu")
    return model.eval()


def check_tokenizer_fits(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer with more ids than the model has rows.

    Raises:
        InputError: it has.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < vocabulary.n_ids:
        raise InputError(f"the model has {rows} embedding rows, its tokenizer ids up to {vocabulary.n_ids - 1}")


def score(model: PreTrainedModel, text: EvaluationText) -> Evaluation:
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
    with torch.no_grad():  # tensors of inference mode cannot stay with a sharded model, which trains on
        for first in range(0, len(batches), processes):
            own = first + rank
            loss = batch_loss(model, text, batches[min(own, len(batches) - 1)], device)
            total += loss if own < len(batches) else 0.0
            report_progress("scoring the text", min(1.0, (first + processes) / len(batches)))
    if processes > 1:
        total = total.to(device)
        torch.distributed.all_reduce(total)
    model.train(was_training)
    return Evaluation(float(total) / text.scored, text.counts, text.scored)


def batch_loss(
    model: PreTrainedModel, text: EvaluationText, windows: Sequence[tuple[int, int, int]], device: torch.device
) -> float:
    """Return the summed negative log likelihood, in nats, of the tokens that a batch of windows scores."""
    import torch

    longest = max(stop - start for start, stop, _ in windows)
    inputs = torch.zeros((len(windows), longest), dtype=torch.long)
    targets = torch.full((len(windows), longest), -100, dtype=torch.long)
    for row, (start, stop, skipped) in enumerate(windows):
        inputs[row, : stop - start] = torch.from_numpy(text.ids[start:stop])
        targets[row, skipped : stop - start] = torch.from_numpy(text.ids[start + 1 + skipped : stop + 1])
    # Windows are filled up at their end, where causal attention lets nothing look.
    logits = model(input_ids=inputs.to(device), use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=-100, reduction="none"
    )
    return float(losses.double().sum())


def sample(folder: Path, prompt: str = "", seed: int = 42) -> str:
    """Return the text that the model in a folder goes on with after a prompt; see ``generate``."""
    return generate(load_model(folder), Vocabulary.open(folder), prompt, seed)


def generate(
    model: PreTrainedModel, vocabulary: Vocabulary, prompt: str = "", seed: int = 42, *, synced: bool = False
) -> str:
    """Return the text that a model goes on with after a prompt: 60 tokens, temperature 0.8, the 50 likeliest.

    The generators of random numbers are left as they were, so that a run does not depend on its samples.

    Args:
        model: a loaded model.
        vocabulary: its tokenizer.
        prompt: what it goes on from.
        seed: of the draws.
        synced: go through the model equally often in all processes, as a sharded one needs it.

    Raises:
        InputError: there is nothing to begin with.
    """
    import torch

    start = vocabulary.roles.get("bos", vocabulary.roles.get("eos"))
    ids = ([start] if start is not None else []) + vocabulary.encode(prompt)
    if not ids:
        raise InputError("the tokenizer has no begin-of-text token; give a prompt")
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.eval()
    gpus = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.no_grad():
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=True,
            temperature=0.8,
            top_k=50,
            synced_gpus=synced,
            pad_token_id=vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0)),
        )
    model.train(was_training)
    return str(vocabulary.tokenizer.decode(output[0].tolist(), skip_special_tokens=True))
