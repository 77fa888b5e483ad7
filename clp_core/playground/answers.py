"""A prompt with its settings, and its completions by models."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from clp_core.jobs.metrics import whole_lines
from clp_core.options import Options, option

MAX_MODELS = 8
MAX_PROMPT = 100_000
LEAST_TEMPERATURE = 0.001
END_OF_TEXT, LENGTH, STOPPED, REFUSED, FAILED = "end of text", "length", "stopped", "refused", "failed"
"""How a completion ended."""


@dataclass(frozen=True)
class GenerateOptions(Options):
    """A prompt and how models complete it."""

    COMMAND: ClassVar[tuple[str, ...]] = ("generate",)
    PLACED: ClassVar[tuple[str, ...]] = ("models",)

    models: tuple[str, ...] = option(help="models that complete the prompt: folders or Hub ids")
    prompt: str = option("", help="text to continue; empty: the model begins a text")
    max_tokens: int = option(60, help="maximum number of new tokens", minimum=1)
    temperature: float = option(
        0.8, help="0 takes the likeliest token, 1 samples from the model's distribution", minimum=0.0, maximum=100.0
    )
    top_k: int = option(50, help="sample among this many likeliest tokens; 0: among all", minimum=0)
    top_p: float = option(
        1.0,
        help="sample among the likeliest tokens that make up this probability; 1: among all",
        above=0.0,
        maximum=1.0,
    )
    repetition_penalty: float = option(
        1.0, help="divides the scores of tokens already in the text; 1: none", minimum=0.01, maximum=100.0
    )
    seed: int = option(42, help="seed of the samples: the same seed gives the same text", minimum=0)
    ignore_end: bool = option(False, help="continue after the end-of-text token")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems of the models, the prompt and the temperature."""
        yield from models_problems(self.models)
        if len(self.prompt) > MAX_PROMPT:
            yield "prompt", f"it has {len(self.prompt)} characters; give at most {MAX_PROMPT}"
        if any(0xD800 <= ord(character) < 0xE000 for character in self.prompt):
            yield "prompt", "it is not valid text (UTF-8); give one that is"
        if 0 < self.temperature < LEAST_TEMPERATURE:
            yield "temperature", f"{self.temperature:g} is too small; give 0, or {LEAST_TEMPERATURE} or more"


def models_problems(models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield why models cannot complete a prompt side by side."""
    if any(not model.strip() for model in models):
        yield "models", "the name of a model is empty; give a folder or a Hub id such as org/name"
    if len(set(models)) < len(models):
        yield "models", "a model is named twice; name each once"
    if len(models) > MAX_MODELS:
        yield "models", f"{len(models)} models are too many side by side; name at most {MAX_MODELS}"


@dataclass(frozen=True)
class Completion:
    """What one model wrote, so far or to its end.

    Attributes:
        model: its folder or Hub id, as it was named.
        text: the text, without the prompt.
        tokens: tokens written; the end of text is one.
        prompt_tokens: tokens of the prompt under its tokenizer; ``None`` before they are known.
        seconds: of its own work, that on the prompt included.
        log_p: sum over the tokens of the natural log-probability the model gave them, before temperature and cuts.
        n_bytes: bytes of text that the tokens stand for.
        stopped: how it ended; empty while it goes on.
        error: why it was refused, stopped or failed.
    """

    model: str
    text: str = ""
    tokens: int = 0
    prompt_tokens: int | None = None
    seconds: float = 0.0
    log_p: float = 0.0
    n_bytes: int = 0
    stopped: str = ""
    error: str = ""

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of its own work; ``None`` before the first."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None

    @property
    def mean_log_p(self) -> float | None:
        """Mean log-probability of a token, in nats; not comparable across tokenizers."""
        return self.log_p / self.tokens if self.tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits a byte of its own text had under the model: how sure it was of it, whatever the tokenizer."""
        return -self.log_p / (math.log(2) * self.n_bytes) if self.n_bytes else None

    def after(self, event: Mapping[str, Any]) -> Completion:
        """Add one more event of this model: its begin, a token, or its end."""
        is_token = "id" in event
        return replace(
            self,
            text=self.text + event.get("text", ""),
            tokens=self.tokens + is_token,
            prompt_tokens=event.get("prompt_tokens", self.prompt_tokens),
            seconds=event.get("seconds", self.seconds),
            log_p=self.log_p + (event["log_p"] if is_token else 0.0),
            n_bytes=self.n_bytes + event.get("bytes", 0),
            stopped=event.get("stopped", self.stopped),
            error=event.get("error", self.error),
        )

    def to_json(self) -> dict[str, Any]:
        """Figures of the command line."""
        return {
            "model": self.model,
            "text": self.text,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "prompt_tokens": self.prompt_tokens,
            "mean_log_p": self.mean_log_p,
            "bits_per_byte": self.bits_per_byte,
            "stopped": self.stopped,
            "error": self.error or None,
        }


class CompletionsReader:
    """Reads the completions of one prompt, each time only what is new."""

    def __init__(self, path: Path, models: Sequence[str]) -> None:
        """Open a file of completions; ``models`` stand in the order of the request."""
        self._path = path
        self._offset = 0
        self._lock = threading.Lock()
        self._completions = [Completion(model) for model in models]

    def read(self) -> list[Completion]:
        """Read the completions as they stand; threads may share a reader."""
        with self._lock:
            lines, self._offset = whole_lines(self._path, self._offset)
            for event in map(json.loads, lines):
                model = event["model"]
                for number in range(len(self._completions)) if model is None else [model]:
                    if not self._completions[number].stopped:
                        self._completions[number] = self._completions[number].after(event)
            return list(self._completions)
