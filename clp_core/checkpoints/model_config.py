"""What configurations of models say: their decoder, embedding rows, shape and positions. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.positions import LENGTHS, LOOK_AHEAD, padding_index


def decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that is about the decoder."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """Find the rows of a model's input embedding by its configuration and the headers of its files. Needs no torch.

    Returns:
        The rows; ``None`` where no matrix in the files has as many rows as the configuration names.
    """
    rows = decoder_config(checkpoint.config).get("vocab_size")
    is_there = any(len(entry.shape) == 2 and entry.shape[0] == rows for entry in checkpoint.entries.values())
    return rows if is_there else None


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return the longest input of a model by its configuration, or ``None`` where it states none.

    Args:
        config: content of config.json.
    """
    for key in LENGTHS:
        value = config.get(key)
        if isinstance(value, int):
            padding = padding_index(config)
            unused = 0 if padding is None else padding + 1 + LOOK_AHEAD.get(str(config.get("model_type")), 0)
            return value - unused
    inner = config.get("text_config")
    return max_positions(inner) if isinstance(inner, dict) else None
