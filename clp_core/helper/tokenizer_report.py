"""The report of a trained tokenizer, which lies beside it and which ``clp tokenizer --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clp_core.files.typed_json import typed


@dataclass(frozen=True)
class MatchFigures:
    """What a new tokenizer has in common with the source's under one match mode.

    Attributes:
        overlap: tokens in common.
        share_of_target: the same as a share of the new vocabulary.
        coverage: share of the running tokens of the text whose rows are copied.
    """

    overlap: int
    share_of_target: float | None
    coverage: float | None


@dataclass(frozen=True)
class SourceFigures:
    """The source's tokenizer on the text that the new one is measured on.

    Attributes:
        name: of the source.
        size: tokens of its vocabulary.
        bytes_per_token: of the text.
        fertility: tokens per word of the text.
        raw: tokens in common by their strings.
        canonical: tokens in common by their bytes.
    """

    name: str
    size: int
    bytes_per_token: float | None
    fertility: float | None
    raw: MatchFigures
    canonical: MatchFigures


@dataclass(frozen=True)
class TokenizerReport:
    """A new tokenizer, and how well it suits the text.

    Attributes:
        output: its folder.
        size: tokens of its vocabulary.
        bytes_per_token: of the text it is measured on; ``None`` where a text has no token.
        fertility: tokens per word of that text.
        measured_on: what that text is, in words.
        style: ``byte-level`` or ``sentencepiece``.
        end_of_text: the token that closes a text.
        documents: of the training text.
        bytes: of the training text.
        cuts: how often a run of it was cut for its length.
        source: the source's tokenizer on the same text, where a source was given.
        options: of the command.
        content: digest of the vocabulary.
        warnings: what a user should know.
        seconds: time of the whole training.
    """

    output: str
    size: int
    bytes_per_token: float | None
    fertility: float | None
    measured_on: str
    style: str
    end_of_text: str | None
    documents: int
    bytes: int
    cuts: int = 0
    source: SourceFigures | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``clp_tokenizer.json`` and ``clp tokenizer --json`` hold."""
        return asdict(self)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> TokenizerReport:
        """Read a report of any version.

        Raises:
            ValueError: an entry is missing or of another kind; the text is its name.
        """
        return typed(cls, content)
