"""Small models with something wrong in them: values that are not finite, and weights in unusual layouts."""

from pathlib import Path

import torch
from conftest import make_model
from transformers import AutoModelForCausalLM

DAMAGES = ("nan row", "inf row", "huge row", "nan body", "nan output row", "nan output bias")
TOKEN = 70
"""The id whose row is damaged."""


def damaged_model(folder: Path, tokenizer, damage: str, *, tied=False, dtype="float32", token=TOKEN, seed=0) -> Path:
    """Write a Llama with one kind of damage; the output bias belongs to a GPT-J, as a Llama has none."""
    if damage == "nan output bias":
        make_biased_model(folder, tokenizer, tied=tied, dtype=dtype, seed=seed)
    else:
        make_model(folder, tokenizer, tied=tied, dtype=dtype, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    with torch.no_grad():
        spoil(model, damage, token)
    model.save_pretrained(folder)
    return folder


def spoil(model, damage: str, token: int = TOKEN) -> None:
    rows, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    if damage == "nan row":
        rows[token, 3] = torch.nan
    elif damage == "inf row":
        rows[token] = -torch.inf
    elif damage == "huge row":
        rows[token] = 1e19  # finite, but its squared length is beyond float32
    elif damage == "nan body":
        model.model.layers[0].mlp.up_proj.weight[2, 1] = torch.nan
    elif damage == "nan output row":
        output.weight[token, 0] = torch.nan
    elif damage == "nan output bias":
        output.bias[token] = torch.nan
    else:
        raise ValueError(damage)


def make_biased_model(folder: Path, tokenizer, *, tied=False, dtype="float32", seed=0) -> Path:
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(seed)
    config = GPTJConfig(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8,
        tie_word_embeddings=tied, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPTJForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
