"""Model types that no transfer can carry over, with the reason, so that they are refused before anything is written.

Everything else is tried: the class says where its embeddings are, and the functional check compares predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clp_core.errors import InputError

REFUSED = {
    "blt": "reads bytes, not tokens",
    "cpmant": "has rows for prompts in its input embedding besides those of tokens, and attends to later ones",
    "mllama": "has eight more rows in its input embedding than in its output layer, for images",
    "moshi": "speaks audio codes besides text, and has one more row in its input embedding than tokens",
    "qwen4_exp": "looks up n-grams of token ids in hashed tables, which mean nothing under other ids",
    "qwen4_exp_text": "looks up n-grams of token ids in hashed tables, which mean nothing under other ids",
    "reformer": "attends through hashed buckets, whose bounds depend on later tokens",
    "xlm": "measures lengths by a padding id of its own (pad_index)",
}


def check_architecture(config: Mapping[str, Any], name: str) -> None:
    """Refuse a model of a type that no transfer can carry over.

    Args:
        config: content of config.json.
        name: what the message calls the model.

    Raises:
        InputError: it is of such a type.
    """
    kind = str(config.get("model_type"))
    if kind in REFUSED:
        raise InputError(f"{name} is of type {kind}, which {REFUSED[kind]}; take a source of another architecture")
