"""What configurations of models say: their decoder, embedding rows, shape and positions. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.positions import LENGTHS, LOOK_AHEAD, padding_index
from clp_core.training.memory_estimate import (
    BYTES_OF_ACTIVATION,
    BYTES_OF_BUCKETS,
    BYTES_OF_CAST,
    BYTES_OF_STATE,
    COPIES_OF_EXPECTATIONS,
    COPIES_OF_LOGITS,
)


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


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration decides its cost.

    Attributes:
        parameters: number of all parameters.
        width: width of the hidden states.
        inner: width within the feed-forward part.
        layers: number of blocks.
        vocabulary: rows of the output layer.
        tied: whether input and output embeddings are one matrix.
    """

    parameters: int
    width: int
    inner: int
    layers: int
    vocabulary: int
    tied: bool

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, n_ids: int) -> Shape:
        """Read configuration and headers of weight files; what they do not tell is taken as in GPT-2. Needs no torch.

        Args:
            checkpoint: the model.
            n_ids: ids of its tokenizer.
        """
        config = decoder_config(checkpoint.config)

        def first(*names: str) -> int | None:
            return next((config[name] for name in names if isinstance(config.get(name), int)), None)

        rows = first("vocab_size") or n_ids
        matrices = [entry.shape for entry in checkpoint.entries.values() if len(entry.shape) == 2]
        tables = [shape for shape in matrices if shape[0] == rows]
        tied = len(tables) < 2
        width = tables[0][1] if tables else 0
        hidden = first("hidden_size", "n_embd", "d_model") or width or 1
        body = checkpoint.n_parameters - rows * width * (1 if tied else 2)
        layers = first("num_hidden_layers", "n_layer", "num_layers", "n_layers") or round(body / (12 * hidden**2))
        inner = first("intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden
        return cls(checkpoint.n_parameters, hidden, inner, max(1, layers), rows, tied)

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but a separate input embedding, which is looked up."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.width)

    def flops_per_token(self, block_length: int) -> float:
        """Return the operations of forward and backward pass a token, as in PaLM (Chowdhery et al. 2022, appendix B).

        Six a parameter, and ``12 * layers * width * block_length`` for attention, counted without its causal half.
        """
        return 6.0 * self.multiplied + 12.0 * self.layers * self.width * block_length

    def state_bytes(self, sharding: str = "none", processes: int = 1, *, bf16: bool = False) -> int:
        """Return the bytes of weights, gradients and optimiser on one of the devices of a run."""
        each = BYTES_OF_STATE * self.parameters // (processes if sharding == "fsdp" else 1)
        each += BYTES_OF_BUCKETS * self.parameters if sharding == "ddp" else 0
        return each + (BYTES_OF_CAST * self.parameters if bf16 else 0)

    def block_bytes(self, block_length: int, *, bf16: bool, checkpointing: bool) -> int:
        """Return the bytes that one block of tokens adds: activations and logits."""
        layer = 10 * self.width + 4 * self.inner
        kept = self.layers * self.width + layer if checkpointing else self.layers * layer
        logits = 4 * COPIES_OF_LOGITS * self.vocabulary
        return block_length * (BYTES_OF_ACTIVATION[bf16] * kept + logits)

    def scoring_bytes(self, window: int, logits_bytes: int) -> int:
        """Return the bytes that scoring a text in float32 takes: weights, activations of one layer, and logits.

        Args:
            window: tokens of a window.
            logits_bytes: what the logits of a batch of windows may take; at least one window is scored at once.
        """
        logits = max(logits_bytes, 4 * window * self.vocabulary)
        tokens = logits // (4 * max(self.vocabulary, 1))
        return 4 * (self.parameters + tokens * (10 * self.width + 4 * self.inner)) + COPIES_OF_LOGITS * logits

    @property
    def teaching_bytes(self) -> int:
        """Bytes of the weights of a teacher of this shape, which is not trained."""
        return 4 * self.parameters

    def teaching_block_bytes(self, block_length: int) -> int:
        """Return the bytes that one block of tokens adds where a teacher of this shape is followed."""
        return block_length * 4 * (COPIES_OF_EXPECTATIONS * self.vocabulary + 10 * self.width + 4 * self.inner)


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
