"""What a model's training takes: operations a token, and bytes of weights, optimiser, activations and logits.

The counts are of a decoder block with the usual parts and of attention that keeps no matrix of scores (SDPA). They are
an estimate; the page says so, and ``benchmarks/training.py`` prints what was measured beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES_OF_STATE = 16
"""A float32 weight, its gradient, and AdamW's two moments."""
BYTES_OF_ACTIVATION = {True: 3, False: 4}
"""In bfloat16 some are kept as float32."""
COPIES_OF_LOGITS = 3
"""The logits, their float32 copy for the loss, and their gradient."""


def decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that is about the decoder."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


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
    def of_config(cls, config: Mapping[str, Any], parameters: int, vocabulary: int, width: int, *, tied: bool) -> Shape:
        """Read a configuration; what it does not name is taken as in GPT-2."""
        inner = decoder_config(config)

        def first(*names: str) -> int | None:
            return next((inner[name] for name in names if isinstance(inner.get(name), int)), None)

        body = parameters - vocabulary * width * (1 if tied else 2)
        hidden = first("hidden_size", "n_embd", "d_model") or width
        layers = first("num_hidden_layers", "n_layer", "num_layers", "n_layers") or round(body / (12 * hidden**2))
        feed_forward = first("intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * hidden
        return cls(parameters, hidden, feed_forward, max(1, layers), vocabulary, tied)

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but a separate input embedding, which is looked up."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.width)

    def flops_per_token(self, block_length: int) -> float:
        """Return the operations of forward and backward pass a token, as in PaLM (Chowdhery et al. 2022, appendix B).

        Six a parameter, and ``12 * layers * width * block_length`` for attention, counted without its causal half.
        """
        return 6.0 * self.multiplied + 12.0 * self.layers * self.width * block_length

    def state_bytes(self, shards: int = 1) -> int:
        """Return the bytes of weights, gradients and optimiser on one of the devices that share them."""
        return BYTES_OF_STATE * self.parameters // shards

    def block_bytes(self, block_length: int, *, bf16: bool, checkpointing: bool) -> int:
        """Return the bytes that one block of tokens adds: activations and logits."""
        layer = 10 * self.width + 4 * self.inner
        kept = self.layers * self.width + layer if checkpointing else self.layers * layer
        logits = 4 * COPIES_OF_LOGITS * self.vocabulary
        return block_length * (BYTES_OF_ACTIVATION[bf16] * kept + logits)
