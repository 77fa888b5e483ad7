"""Options of ``clp tokenizer``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from clp_core.data.text_sources import DEFAULT_FIELD
from clp_core.options import Options, help_of, option
from clp_core.training.options import TrainOptions

STYLES = ("auto", "byte-level", "sentencepiece")
NORMALIZATIONS = ("none", "nfc")
END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256
MOST_TOKENS = 1_000_000
VISIBLE = re.compile(r"\S+")
TOKEN_CURE = "give a token without blanks and control characters, such as <|pad|>"
TEXT_HELP = help_of(TrainOptions, "text").replace("training text", "text of the target language")


@dataclass(frozen=True)
class TokenizerOptions(Options):
    """How a tokenizer is trained, and where it is written."""

    COMMAND: ClassVar[tuple[str, ...]] = ("tokenizer",)

    text: tuple[str, ...] = option(help=TEXT_HELP)
    output: str = option(help="folder to write the tokenizer to")
    vocab_size: int = option(
        0,
        help="tokens in all; 0: by the text's size, 4,096 to 32,768",
        minimum=0,
        maximum=MOST_TOKENS,
        cure=f"give 0, or {2 * N_BYTES} to {MOST_TOKENS:,}",
    )
    source: str = option("", help="source model of the transfer to come: its overlap with the tokenizer is told")
    style: str = option(
        "auto", help="how tokens are written; auto: as the source does, byte-level without one", choices=STYLES
    )
    min_frequency: int = option(2, help="how often two pieces must stand together to become a token", minimum=1)
    split_digits: bool = option(False, help="every digit is a token of its own, which most sources have too")
    normalization: str = option(
        "none",
        help="none keeps every byte; nfc reads letters that are written in two ways alike",
        choices=NORMALIZATIONS,
    )
    end_of_text: str = option(
        "",
        help=f"token that ends a text; without it the source's, so that its row is copied, else {END_OF_TEXT}",
        pattern=VISIBLE,
        cure=TOKEN_CURE,
    )
    pad_token: str = option(
        "", help="a token for padding, such as <|pad|>; training here needs none", pattern=VISIBLE, cure=TOKEN_CURE
    )
    text_field: str = option(DEFAULT_FIELD, help=help_of(TrainOptions, "text_field"))
    overwrite: bool = option(False, help="replace an output folder that holds a tokenizer")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the vocabulary's size and the special tokens."""
        if 0 < self.vocab_size <= N_BYTES + 1:
            yield (
                "vocab_size",
                f"{self.vocab_size} has no room beyond {N_BYTES} single bytes and the end of text, so nothing would be "
                f"learned; give more than {2 * N_BYTES}",
            )
        for name, token in (("end_of_text", self.end_of_text), ("pad_token", self.pad_token)):
            if not token.isprintable():
                yield name, f"{token!r} is not valid; {TOKEN_CURE}"
        if self.pad_token and self.pad_token == (self.end_of_text or END_OF_TEXT):
            yield "pad_token", "it is the end-of-text token; choose another string, or leave it out"
