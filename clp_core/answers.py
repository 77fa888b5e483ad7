"""A prompt with its settings, and what models answer to it."""

from __future__ import annotations

import json
import math
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.jobs.metrics import whole_lines
from clp_core.options import arguments_of, option

MAX_MODELS = 8
MAX_PROMPT = 100_000
END_OF_TEXT, LENGTH, STOPPED, REFUSED, FAILED = "end of text", "length", "stopped", "refused", "failed"
"""How an answer ended."""


@dataclass(frozen=True)
class GenerateOptions:
    """A prompt and how models go on with it."""

    models: tuple[str, ...] = option(help="models that answer: folders or Hub ids")
    prompt: str = option("", help="text to go on with; empty: the model begins a text")
    max_tokens: int = option(60, help="tokens to write at most", minimum=1)
    temperature: float = option(0.8, help="0 takes the likeliest token, 1 draws as the model says", minimum=0.0)
    top_k: int = option(50, help="draw among so many likeliest tokens; 0: among all", minimum=0)
    top_p: float = option(1.0, help="draw among the likeliest that make up this share; 1: among all", minimum=0.0)
    repetition_penalty: float = option(
        1.0, help="divides the scores of tokens that stand there already; 1: none", minimum=0.0
    )
    seed: int = option(42, help="of the draws: the same seed gives the same text", minimum=0)
    ignore_end: bool = option(False, help="go on after the end of text")

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if not self.models or not all(model.strip() for model in self.models):
            raise InputError("no model is named; give a folder or a Hub id such as org/name")
        if len(set(self.models)) < len(self.models):
            raise InputError("a model is named twice; name each once")
        if len(self.models) > MAX_MODELS:
            raise InputError(f"{len(self.models)} models are too many side by side; name at most {MAX_MODELS}")
        if len(self.prompt) > MAX_PROMPT:
            raise InputError(f"--prompt has {len(self.prompt)} characters; give at most {MAX_PROMPT}")
        try:
            self.prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError("--prompt is no valid text (UTF-8)") from error
        if self.max_tokens < 1:
            raise InputError("--max-tokens must be at least 1")
        if self.temperature != 0 and not 0.001 <= self.temperature <= 100:
            raise InputError("--temperature must be 0, or 0.001 to 100")
        if self.top_k < 0:
            raise InputError("--top-k must not be negative")
        if not 0 < self.top_p <= 1:
            raise InputError("--top-p must be above 0 and at most 1")
        if not 0 < self.repetition_penalty <= 100:
            raise InputError("--repetition-penalty must be above 0 and at most 100")
        if not 0 <= self.seed < 1 << 63:
            raise InputError("--seed must be at least 0 and below 2^63")

    @classmethod
    def of_json(cls, content: Any) -> GenerateOptions:
        """Return the options that a request's file holds.

        Raises:
            InputError: it holds others, or values of other kinds.
        """
        if not isinstance(content, dict):
            raise InputError("the request is no JSON object")
        kinds = {item.name: str(item.type) for item in fields(cls)}
        if unknown := sorted(set(content) - set(kinds)):
            raise InputError(f"the request holds {unknown[0]!r}, which is no setting")
        for name, value in content.items():
            if not is_of_kind(value, kinds[name]):
                raise InputError(f"the request's {name} has the wrong kind of value")
        return cls(**{**content, "models": tuple(content.get("models", ()))})


def is_of_kind(value: Any, kind: str) -> bool:
    """Say whether a value from JSON fits a field of ``GenerateOptions`` with this type."""
    if kind in ("int", "float"):
        is_number = isinstance(value, int) or (kind == "float" and isinstance(value, float))
        return is_number and not isinstance(value, bool)
    if kind in ("str", "bool"):
        return isinstance(value, str if kind == "str" else bool)
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


@dataclass(frozen=True)
class Answer:
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

    def after(self, event: Mapping[str, Any]) -> Answer:
        """Return the answer with one more event of this model: its begin, a token, or its end."""
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

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
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


class AnswersReader:
    """Reads the answers to one prompt, each time only what is new."""

    def __init__(self, path: Path, models: Sequence[str]) -> None:
        """Take the file and the models that answer, in the order of the request."""
        self._path = path
        self._offset = 0
        self._lock = threading.Lock()
        self._answers = [Answer(model) for model in models]

    def read(self) -> list[Answer]:
        """Return the answers as they stand; several threads may ask."""
        with self._lock:
            lines, self._offset = whole_lines(self._path, self._offset)
            for event in map(json.loads, lines):
                told = event["model"]
                for number in range(len(self._answers)) if told is None else [told]:
                    if not self._answers[number].stopped:
                        self._answers[number] = self._answers[number].after(event)
            return list(self._answers)


def generate_command_of(options: GenerateOptions) -> str:
    """Return the command that asks the same on the command line."""
    arguments = arguments_of(options)
    return shlex.join(["clp", "generate", *options.models, *arguments[2 * len(options.models) :]])
