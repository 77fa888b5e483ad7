"""What a model's training takes: operations a token, and bytes of weights, optimiser, activations and logits.

The counts are of a decoder block with the usual parts and of attention that keeps no matrix of scores (SDPA). They are
an estimate; the page says so, and ``benchmarks/training.py`` prints what was measured beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.model_config import decoder_config

BYTES_OF_STATE = 16
"""A float32 weight, its gradient, and AdamW's two moments."""
BYTES_OF_BUCKETS = 4
"""The copy of the gradient that DDP sends."""
BYTES_OF_CAST = 2
"""The weight in bfloat16, which autocast keeps until the step is done."""
BYTES_OF_ACTIVATION = {True: 3, False: 4}
"""In bfloat16 some are kept as float32."""
COPIES_OF_LOGITS = 3
"""The logits, their float32 copy for the loss, and their gradient."""
COPIES_OF_EXPECTATIONS = 3
"""A teacher's logits, its probabilities, and their products with the scores of the model that learns."""


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
