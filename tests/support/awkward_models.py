"""Small models with something wrong in them: values that are not finite, and weights in unusual layouts."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.tiny_models import make_model

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


LAYOUTS = (
    "single",
    "shards",
    "one shard",
    "shards in a folder",
    "single beside stale shards",
    "single beside a pickle",
    "shards beside a pickle",
    "pickle",
    "pickle beside pickled shards",
    "named file",
    "named index",
    "makers' own format",
    "adapter beside",
    "tensor in two shards",
)
SHARDED = ("shards", "one shard", "shards in a folder", "shards beside a pickle", "tensor in two shards")


def model_in_layout(folder: Path, tokenizer, layout: str, *, tied=True, seed=0) -> Path:
    """Write a model, and beside it, where the layout has one, another model that is not to be loaded."""
    make_model(folder, tokenizer, tied=tied, seed=seed)
    single = folder / "model.safetensors"
    own = load_file(single)
    other = {name: values + 1 for name, values in own.items()}
    if layout in SHARDED:
        single.unlink()
        below = "parts/" if layout == "shards in a folder" else ""
        write_shards(folder, own, 1 if layout == "one shard" else 2, below=below)
    if layout == "single beside stale shards":
        write_shards(folder, other)
    elif layout in ("single beside a pickle", "shards beside a pickle"):
        torch.save(other, folder / "pytorch_model.bin")
    elif layout in ("pickle", "pickle beside pickled shards"):
        single.unlink()
        torch.save(own, folder / "pytorch_model.bin")
        if layout != "pickle":
            write_shards(folder, other, stem="pytorch_model", ending="bin")
    elif layout in ("named file", "named index"):
        save(other, single)
        name = "chosen.safetensors" if layout == "named file" else "chosen.safetensors.index.json"
        if layout == "named file":
            save(own, folder / name)
        else:
            write_shards(folder, own, stem="chosen")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    elif layout == "makers' own format":
        save(other, folder / "consolidated.safetensors")
        (folder / "original").mkdir()
        torch.save(other, folder / "original" / "consolidated.00.pth")
    elif layout == "adapter beside":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
        save({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    elif layout == "tensor in two shards":
        first, last = sorted(folder.glob("*.safetensors"))
        norm = own["model.norm.weight"]
        save(load_file(first) | {"model.norm.weight": norm * 3}, first)
        save(load_file(last) | {"model.norm.weight": norm}, last)
    return folder


def save(tensors, path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def write_shards(folder: Path, tensors, parts=2, stem="model", ending="safetensors", below="") -> None:
    """Write tensors as shards with an index."""
    weight_map = {}
    (folder / below).mkdir(exist_ok=True)
    for part in range(parts):
        own = {name: values for place, (name, values) in enumerate(sorted(tensors.items())) if place % parts == part}
        file = f"{below}{stem}-{part + 1:05d}-of-{parts:05d}.{ending}"
        weight_map |= dict.fromkeys(own, file)
        save(own, folder / file)
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(content))
