"""Small source models of any type, saved in the forms in which checkpoints are published."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from support.small_models import NEVER_TIED, ONLY_FLOAT32, TYPES, save_small_model, small_model

FORMS = (("float32", 1, "safetensors"), ("bfloat16", 3, "safetensors"), ("float16", 1, "bin"), ("float32", 3, "bin"))
"""Data type, number of files, and kind of file."""


def form_of(model_type: str, *, tied: bool) -> tuple[str, int, str]:
    """The form in which a type is tested: each type in one or two of them."""
    forms = [form for form in FORMS if form[0] == "float32" or model_type not in ONLY_FLOAT32]
    return forms[(TYPES.index(model_type) // 2 + tied) % len(forms)]


def tied_by_turns(model_type: str) -> bool:
    """Whether a type is tested with tied embeddings, where it is tested once."""
    return TYPES.index(model_type) % 2 == 0 and model_type not in NEVER_TIED


def make_source(folder, model_type, tokenizer, tied, dtype="float32", shards=1, kind="safetensors") -> Path:
    """Save a model with its tokenizer, as ``save_pretrained`` names its tensors.

    With several files, the tensors alternate between them.
    """
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = small_model(model_type, len(tokenizer), tied, getattr(torch, dtype), **ids)
    save_small_model(model, folder, model_type, **ids)
    tokenizer.save_pretrained(folder)
    if (shards, kind) != (1, "safetensors"):
        split(Path(folder), shards, kind)
    return Path(folder)


def split(folder: Path, shards: int, kind: str) -> None:
    """Write the weights of a folder as pickles, or as shards."""
    single = folder / "model.safetensors"
    tensors = {name: values.clone() for name, values in load_file(single).items()}
    single.unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    if shards == 1:
        write(tensors, folder / f"{stem}.{kind}")
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.{kind}"
        write({name: tensors[name] for name in names[i::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[i::shards], file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors or as a pickle."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)
