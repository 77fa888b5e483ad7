"""How a text becomes tokens: where the begin-of-text token stands, and what literal control strings are read as.

* ``begin``: a tokenizer whose own template begins every text with a token (Gemma's ``<bos>``) belongs to a model that
  has hardly ever seen a text without it. So by default (``auto``) each scored window and each training block begins
  with it. Other tokenizers have a start token before the first window only, from which the first token is predicted.
* ``control_strings``: a special token that is spelt out in a text, such as a literal ``<|endoftext|>``, is read as the
  token (``tokens``, as AutoTokenizer does), as plain text (``text``), or as the end of a document (``separator``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clp_core.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from clp_core.tokenization.vocabulary import Vocabulary

AUTO, EVERY, FIRST = "auto", "every", "first"
BEGINS = (AUTO, EVERY, FIRST)
TOKENS, TEXT, SEPARATOR = "tokens", "text", "separator"
CONTROL_STRINGS = (TOKENS, TEXT, SEPARATOR)
SEPARATING_ROLES = ("eos", "bos", "sep")
SCORING_FILE = "scoring.json"
"""In the folder of a run: how its held-out text is scored, see ``bits_per_byte.EvaluationText.to_json``."""
BEGIN_HELP = (
    "where the begin-of-text token stands: every (in each window and block), first (before the first scored window "
    "only, in no block), auto: every where the tokenizer's own template has one, else first"
)
CONTROL_HELP = (
    "literal strings of special tokens in the text, such as <|endoftext|>, are read as tokens (as AutoTokenizer does), "
    "as plain text, or as separator (end-of-text, begin-of-text and separator tokens end a document)"
)


def start_token(vocabulary: Vocabulary) -> int | None:
    """Find the id of the token before a text, which predicts the first token; ``None`` where there is none."""
    if vocabulary.template_start is not None:
        return vocabulary.template_start
    return vocabulary.roles.get("bos", vocabulary.roles.get("cls", vocabulary.roles.get("eos")))


def resolved_begin(vocabulary: Vocabulary, begin: str = AUTO) -> str:
    """Resolve ``auto`` to ``every`` or ``first`` by the tokenizer's template.

    Raises:
        InputError: ``every`` is chosen, and the tokenizer has no token to begin with.
    """
    if begin == AUTO:
        return FIRST if vocabulary.template_start is None else EVERY
    if begin == EVERY and start_token(vocabulary) is None:
        raise InputError(
            f"--begin every: the tokenizer of {vocabulary.name} has no begin-of-text token; use --begin auto"
        )
    return begin


def block_start(vocabulary: Vocabulary, begin: str = AUTO) -> int | None:
    """Find the id of the token that begins every training block and every scored window; ``None`` for none."""
    return start_token(vocabulary) if resolved_begin(vocabulary, begin) == EVERY else None


def end_token(vocabulary: Vocabulary) -> int | None:
    """Find the id of the token that closes every document; ``None`` where the tokenizer has none."""
    return vocabulary.roles.get("eos", vocabulary.roles.get("sep"))


def tokenizer_of(vocabulary: Vocabulary, control_strings: str = TOKENS) -> Tokenizer:
    """Choose the tokenizer that reads literal control strings as the option says."""
    return vocabulary.literal_tokenizer if control_strings == TEXT else vocabulary.tokenizer
