"""Options of ``clp tokenizer``."""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.documents import DEFAULT_FIELD
from clp_core.errors import InputError
from clp_core.options import help_of, option
from clp_core.train_options import TrainOptions

STYLES = ("auto", "byte-level", "sentencepiece")
NORMALIZATIONS = ("none", "nfc")
END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256
MOST_TOKENS = 1_000_000
TEXT_HELP = help_of(TrainOptions, "text").replace("training text", "text of the target language")


@dataclass(frozen=True)
class TokenizerOptions:
    """What the training of a tokenizer is asked to do."""

    text: tuple[str, ...] = option(help=TEXT_HELP)
    output: str = option(help="folder to write the tokenizer to")
    vocab_size: int = option(0, help="tokens in all; 0: by the text's size, 4,096 to 32,768", minimum=0)
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
        "", help=f"token that ends a text; without it the source's, so that its row is copied, else {END_OF_TEXT}"
    )
    pad_token: str = option("", help="a token for padding, such as <|pad|>; training here needs none")
    text_field: str = option(DEFAULT_FIELD, help=help_of(TrainOptions, "text_field"))
    overwrite: bool = option(False, help="replace an output folder that holds a tokenizer")

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if not self.text:
            raise InputError("--text is missing; name text of the target language")
        if not self.output.strip():
            raise InputError("--output is empty; name a folder")
        for name, choices in (("style", STYLES), ("normalization", NORMALIZATIONS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} {getattr(self, name)!r} is unknown; use one of {', '.join(choices)}")
        if self.vocab_size < 0 or self.min_frequency < 1:
            name, least = ("vocab-size", 0) if self.vocab_size < 0 else ("min-frequency", 1)
            raise InputError(f"--{name} must be {least} or more")
        if self.vocab_size > MOST_TOKENS:
            raise InputError(
                f"--vocab-size {self.vocab_size:,} is beyond {MOST_TOKENS:,}; no model's tokenizer is so large"
            )
        if 0 < self.vocab_size <= N_BYTES + 1:
            raise InputError(
                f"--vocab-size {self.vocab_size} has no room beyond {N_BYTES} single bytes and the end of text, so "
                f"nothing would be learned; give more than {2 * N_BYTES}"
            )
        for name in ("end_of_text", "pad_token"):
            token = getattr(self, name)
            if token and (token.split() != [token] or not token.isprintable()):
                raise InputError(f"--{name.replace('_', '-')} {token!r} holds blanks or what cannot be shown")
        if self.pad_token and self.pad_token == (self.end_of_text or END_OF_TEXT):
            raise InputError("--pad-token is the end-of-text token; choose another string, or leave it out")
