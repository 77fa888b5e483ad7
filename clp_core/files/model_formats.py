"""Folders that are not full checkpoints of transformers: what they are, and how to make a checkpoint of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from clp_core.errors import InputError
from clp_core.files.json_files import read_json

ADAPTER_CONFIG = "adapter_config.json"
DISTRIBUTED_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Files of torch's distributed checkpoints, which transformers prefers to all others."""

FORMATS = (
    (("*.gguf",), "GGUF weights, a format of llama.cpp",
     "use the model in safetensors, or convert it: AutoModelForCausalLM.from_pretrained({folder!r}, "
     "gguf_file={name!r}).save_pretrained(OUTPUT), and the same with AutoTokenizer"),
    (("*.msgpack",), "weights of Flax", "load it with transformers 4 (from_flax=True), then save_pretrained(OUTPUT)"),
    (("*.h5",), "weights of TensorFlow", "load it with transformers 4 (from_tf=True), then save_pretrained(OUTPUT)"),
    (("*.onnx", "*.onnx_data"), "an ONNX export", "use the model that it was exported from"),
    (("model-?????-of-?????.safetensors", "pytorch_model-?????-of-?????.bin"), "shards of weights without their index",
     "fetch the index as well (model.safetensors.index.json or pytorch_model.bin.index.json)"),
    (("model.*.safetensors", "pytorch_model.*.bin"), "a variant of weights that transformers does not load by default",
     "load it with from_pretrained({folder!r}, variant={variant!r}), then save_pretrained(OUTPUT)"),
    (("consolidated*", "params.json", "tokenizer.model.v*", "original/*"), "weights in their makers' own format",
     "use the model that was converted for transformers (often named -hf)"),
    (("*.pt", "*.pth", "*.ckpt"), "weights in a format of their own", "save the model with save_pretrained(OUTPUT)"),
)  # fmt: skip
"""File names, the format they belong to, and the way to a checkpoint; the first format with a file counts."""


def explanation(folder: str, names: Collection[str], adapter: Mapping[str, Any]) -> str:
    """Name the format of a folder that holds no full checkpoint, and the way to one; empty where none is recognised.

    Args:
        folder: folder or Hub id for the message.
        names: paths of the files in it, relative to it.
        adapter: content of its adapter_config.json; empty where it has none.
    """
    if ADAPTER_CONFIG in names:
        kind = str(adapter.get("peft_type") or "PEFT").upper()
        kind = {"LORA": "LoRA"}.get(kind, kind)
        base = adapter.get("base_model_name_or_path") or "BASE_MODEL"
        return (
            f"{folder} holds a {kind} adapter of {base}, not a full model; merge it into that model first: "
            f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), {folder!r})"
            ".merge_and_unload().save_pretrained(OUTPUT), and save the tokenizer there too"
        )
    for patterns, what, cure in FORMATS:
        found = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))
        found += sorted(name for name in names if any(fnmatch(PurePosixPath(name).name, p) for p in patterns))
        if found:
            variant = found[0].split(".")[1]
            return f"{folder} holds {what} ({found[0]}); {cure.format(folder=folder, name=found[0], variant=variant)}"
    return ""


def names_in(folder: Path) -> list[str]:
    """Return the paths of the files in a folder and in the folders directly below it, relative to it."""
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return [path.relative_to(folder).as_posix() for path in files if path.is_file()]


def refuse_incomplete(folder: Path, lacking: str) -> InputError:
    """Return the error for a folder that lacks the configuration or the weights of a checkpoint.

    Args:
        folder: the folder.
        lacking: what it lacks, for a folder of no known format.
    """
    told = explanation(str(folder), names_in(folder), read_json(folder / ADAPTER_CONFIG))
    return InputError(told or lacking)


def check_not_distributed(folder: Path) -> None:
    """Refuse a folder with files of a distributed checkpoint: transformers loads these, whatever lies beside them.

    Raises:
        InputError: it has some.
    """
    found = sorted(path.name for path in folder.glob("shard-*.safetensors") if DISTRIBUTED_SHARD.fullmatch(path.name))
    if found:
        raise InputError(
            f"{folder} holds a distributed checkpoint ({found[0]}), whose tensors are split over processes; load it "
            "with transformers and save it as one model with save_pretrained(OUTPUT)"
        )
