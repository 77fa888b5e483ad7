"""Models of random weights and texts of random words, written without torch so that shapes of any size are cheap."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clp_core.checkpoints.safetensors_writer import write_header

END = "<end>"
NOISE_VALUES = (8 << 20) + 7
"""Random values that are repeated through a file; odd, so that no two rows are equal."""
SCALE = 0.02
ROW_MEAN = 0.5
ENGLISH_SHARE = 0.5
"""Share of the made helper's words that the made source has too."""


def gpt2_config(vocabulary: int, width: int, layers: int, heads: int, positions: int) -> dict[str, Any]:
    """Return the configuration of a GPT-2 without dropout."""
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": vocabulary, "n_embd": width,
        "n_layer": layers, "n_head": heads, "n_positions": positions, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip


def llama_config(
    vocabulary: int, width: int, layers: int, heads: int, kv_heads: int, inner: int, positions: int, *, tied: bool
) -> dict[str, Any]:
    """Return the configuration of a Llama."""
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary, "hidden_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": inner, "max_position_embeddings": positions, "tie_word_embeddings": tied,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    }  # fmt: skip


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's weights.

    Args:
        config: what ``gpt2_config`` or ``llama_config`` returns.
    """
    return dict(gpt2_weights(config) if config["model_type"] == "gpt2" else llama_weights(config))


def gpt2_weights(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights of a GPT-2, whose output layer is the input embedding."""
    width = config["n_embd"]
    yield "transformer.wte.weight", (config["vocab_size"], width)
    yield "transformer.wpe.weight", (config["n_positions"], width)
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        for part, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            yield f"{name}.{part}.weight", (rows, columns)
            yield f"{name}.{part}.bias", (columns,)
        for norm in ("ln_1", "ln_2"):
            yield f"{name}.{norm}.weight", (width,)
            yield f"{name}.{norm}.bias", (width,)
    yield "transformer.ln_f.weight", (width,)
    yield "transformer.ln_f.bias", (width,)


def llama_weights(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the weights of a Llama."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, rows in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{name}.self_attn.{part}_proj.weight", (rows, width)
        yield f"{name}.mlp.gate_proj.weight", (inner, width)
        yield f"{name}.mlp.up_proj.weight", (inner, width)
        yield f"{name}.mlp.down_proj.weight", (width, inner)
        yield f"{name}.input_layernorm.weight", (width,)
        yield f"{name}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], width)


def write_model(
    folder: Path,
    config: Mapping[str, Any],
    words: Sequence[str] = (),
    *,
    dtype: str = "BF16",
    mean: float = 0.0,
    hollow: bool = False,
) -> int:
    """Write a model folder with a word-level tokenizer.

    Args:
        folder: made where it is missing.
        config: content of config.json.
        words: the tokens after the end-of-text token; by default ``w1``, ``w2`` and so on for every row.
        dtype: ``BF16`` or ``F32``.
        mean: of the values, in standard deviations; above 0 rows lean one way, as trained embeddings do.
        hollow: leave the weights as a hole in the file, enough for a plan of memory.

    Returns:
        The number of parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = "bfloat16" if dtype == "BF16" else "float32"
    (folder / "config.json").write_text(json.dumps({**config, "dtype": named}, indent=1))
    write_tokenizer(folder, words or [f"w{i}" for i in range(1, config["vocab_size"])])
    shapes = weight_shapes(config)
    write_weights(folder / "model.safetensors", shapes, dtype, mean, hollow=hollow)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def write_weights(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, mean: float, *, hollow: bool) -> None:
    """Write a safetensors file: norms of 1, biases of 0, and matrices of normal values."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "BF16" else np.dtype(np.float32)
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = kind.itemsize * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    with open(file, "wb") as writer:
        write_header(writer, header)
        if hollow:
            writer.truncate(writer.tell() + offset)
            return
        seed = int.from_bytes(file.parent.name.encode()[:4], "big")
        most = min(NOISE_VALUES, max(int(np.prod(shape)) for shape in shapes.values()))
        values = np.random.default_rng(seed).standard_normal(most, dtype=np.float32) + np.float32(mean)
        noise = (values * SCALE).astype(kind).tobytes()
        for i, (name, shape) in enumerate(shapes.items()):
            if len(shape) == 1:
                writer.write(np.full(shape, float(name.endswith("weight"))).astype(kind).tobytes())
            else:
                write_repeated(writer, noise, kind.itemsize * int(np.prod(shape)), kind.itemsize * (i % 1000))


def write_repeated(writer: Any, noise: bytes, size: int, start: int) -> None:
    """Write so many bytes of a noise that is repeated, beginning at an offset into it."""
    while size:
        part = noise[start : start + size]
        writer.write(part)
        size, start = size - len(part), 0


def write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """Write a word-level tokenizer whose first token ends a text."""
    vocabulary = {END: 0} | {word: i + 1 for i, word in enumerate(words)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "decoder": None, "added_tokens": [{"id": 0, "content": END, "special": True, **flags}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": END},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    roles = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))


def write_text(path: Path, n_words: int, n_known: int, seed: int = 0) -> None:
    """Write lines of 100 random words ``w1`` to ``wN``, common ones often, as in running text."""
    generator = np.random.default_rng(seed)
    ids = 1 + (generator.random((n_words // 100 + 1, 100)) ** 2 * (n_known - 2)).astype(int)
    path.write_text("".join(" ".join(f"w{i}" for i in line) + "\n" for line in ids))


def write_pair(folder: Path, rows: int, source_width: int, helper_width: int, layers: int = 1) -> tuple[Path, Path]:
    """Write a source and a helper that have half of their words in common; return their folders."""
    n_common = int(ENGLISH_SHARE * rows)
    english = [f"w{i}" for i in range(1, rows)]
    german = [*english[:n_common], *(f"d{i}" for i in range(n_common + 1, rows))]
    source, helper = folder / "source", folder / "helper"
    heads = max(1, source_width // 64)
    config = llama_config(rows, source_width, layers, heads, heads, 2 * source_width, 128, tied=True)
    write_model(source, config, english, mean=ROW_MEAN)
    heads = max(1, helper_width // 64)
    config = llama_config(rows, helper_width, 1, heads, heads, 2 * helper_width, 128, tied=True)
    write_model(helper, config, german, mean=ROW_MEAN)
    return source, helper
