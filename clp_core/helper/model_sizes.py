"""How large a helper may be: the sizes, and what each wants of a text. Needs neither torch nor transformers.

All sizes have one shape, that of a Llama decoder with tied embeddings: it has no table of positions and no biases, and
every library reads it. A helper has to rank its own embedding rows by meaning, not to write well, so small ones do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOKENS_A_PARAMETER = 20
"""Hoffmann et al. 2022 (arXiv 2203.15556): at a given cost of training, about 20 tokens a parameter serve best."""

MOST_PASSES = 4
"""Muennighoff et al. 2023 (arXiv 2305.16264): up to four passes over a text are worth nearly as much as new text."""

FAMILY = "llama"


@dataclass(frozen=True)
class Size:
    """The shape of a helper.

    Attributes:
        name: what it is called.
        width: of the embedding rows and the layers.
        layers: number of layers.
        heads: attention heads; the width is a multiple of them.
        inner: width inside the feed-forward part, eight thirds of the width in multiples of 64.
        positions: tokens it sees at once, unless another number is asked for.
        suits: what it is for, and where.
    """

    name: str
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    suits: str

    @property
    def body_parameters(self) -> int:
        """Parameters without the embeddings: attention, feed-forward and norms."""
        layer = 4 * self.width**2 + 3 * self.width * self.inner + 2 * self.width
        return self.layers * layer + self.width

    def parameters(self, n_rows: int) -> int:
        """Return all parameters with an embedding of ``n_rows`` rows, which input and output share."""
        return self.body_parameters + n_rows * self.width

    def wanted_tokens(self, n_rows: int) -> int:
        """Return the tokens that the rule of thumb wants."""
        return TOKENS_A_PARAMETER * self.parameters(n_rows)

    def config(self, n_rows: int, ids: Mapping[str, Any], positions: int = 0) -> dict[str, Any]:
        """Return the content of config.json.

        Args:
            n_rows: rows of the embedding.
            ids: ``bos_token_id``, ``eos_token_id``, ``pad_token_id``.
            positions: tokens it sees at once; 0: the size's own number.
        """
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": FAMILY,
            "vocab_size": n_rows,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": positions or self.positions,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "dtype": "float32",
            **ids,
        }


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 128, 4, 4, 384, 256, "minutes on a CPU: shows that text, tokenizer and transfer work together"),
        Size("small", 256, 6, 4, 704, 512, "hours on a CPU, minutes on a GPU: a first helper worth transferring from"),
        Size("base", 512, 8, 8, 1408, 1024, "one GPU and a few hundred MB of text"),
        Size(
            "medium",
            768,
            12,
            12,
            2048,
            1024,
            "one GPU for a day and some GB of text: about as large as the paper's helper",
        ),
        Size("large", 1024, 24, 16, 2752, 1024, "several GPUs: transfer a medium one and train that on before this"),
    )
}


@dataclass(frozen=True)
class HelperPlan:
    """What a size wants and what a text gives.

    Attributes:
        size: the size.
        n_rows: rows of the embedding.
        text_tokens: tokens of the training text, an estimate for a large one.
        asked_tokens: tokens that were asked for; 0: by the rule.
        asked_steps: steps that were asked for, which leave the tokens to the run's plan.
    """

    size: Size
    n_rows: int
    text_tokens: int
    asked_tokens: int = 0
    asked_steps: int = 0

    @property
    def parameters(self) -> int:
        """All parameters, embeddings once."""
        return self.size.parameters(self.n_rows)

    @property
    def wanted_tokens(self) -> int:
        """Tokens that the rule of thumb wants."""
        return self.size.wanted_tokens(self.n_rows)

    @property
    def tokens(self) -> int:
        """Tokens to train on: those asked for, else what the rule wants in four passes over the text at most."""
        return self.asked_tokens or min(self.wanted_tokens, MOST_PASSES * self.text_tokens)

    @property
    def tokens_a_parameter(self) -> float:
        """Tokens a parameter."""
        return self.tokens / self.parameters

    @property
    def passes(self) -> float:
        """Passes over the text."""
        return self.tokens / max(self.text_tokens, 1)

    @property
    def is_fed(self) -> bool:
        """Whether the text holds what the size wants, in four passes at most."""
        return MOST_PASSES * self.text_tokens >= self.wanted_tokens

    @property
    def shortfall(self) -> str:
        """One sentence that says that the text is too small for the size; empty where it is not."""
        if self.is_fed:
            return ""
        fed = [size for size in SIZES.values() if HelperPlan(size, self.n_rows, self.text_tokens).is_fed]
        cure = f"{fed[-1].name} is the largest size it feeds" if fed else "give more text where you can"
        return (
            f"the text is small for {self.size.name}: {self.text_tokens:,} tokens, where {self.wanted_tokens:,} are "
            f"wanted ({TOKENS_A_PARAMETER} a parameter, {MOST_PASSES} passes at most); {cure}"
        )

    @property
    def told(self) -> str:
        """The plan in one line."""
        line = f"{self.size.name}: {self.parameters:,} parameters, {self.size.parameters(0):,} without the embeddings"
        if self.asked_steps:
            return f"{line}; {self.asked_steps:,} steps"
        return (
            f"{line}; {self.tokens:,} tokens, {self.tokens_a_parameter:.3g} a parameter, {self.passes:.3g} passes "
            "over the text"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the plan."""
        return {
            "size": self.size.name,
            "parameters": self.parameters,
            "body_parameters": self.size.body_parameters,
            "text_tokens": self.text_tokens,
            "wanted_tokens": self.wanted_tokens,
            "is_fed": self.is_fed,
        }
