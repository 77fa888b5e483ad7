"""Checkpoints as folders of files: read the configuration and the embedding matrices, write a copy with other ones.

No model is built: its class is only asked, on the meta device, which parameters are the embeddings.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.errors import InputError
from clp_core.locate import locate, read_json
from clp_core.tensors import DTYPES, Replacement, TensorEntry, TensorRows, read_header, write_copy

log = logging.getLogger(__name__)

INDEX_FILE = "model.safetensors.index.json"
SIDES = ("input", "output")


@dataclass(frozen=True)
class EmbeddingNames:
    """Parameter names of a model's embeddings, as its class spells them.

    Attributes:
        input: the input embedding.
        output: the output layer's weight; the same as ``input`` where they are tied.
        output_bias: the output layer's bias, if it has one.
        prefix: prefix of the base model, which files may leave out or carry.
    """

    input: str
    output: str
    output_bias: str | None
    prefix: str

    @property
    def tied(self) -> bool:
        """Whether input and output share one matrix."""
        return self.input == self.output


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint in a local folder.

    Attributes:
        folder: where it lies.
        config: the content of config.json.
    """

    folder: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, reference: str | Path) -> Checkpoint:
        """Open a folder or a Hub id.

        Raises:
            InputError: no such model, or no configuration, or no weights in it.
        """
        folder = locate(reference)
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no config.json, so it is no model folder")
        checkpoint = cls(folder, read_json(folder / "config.json"))
        if not checkpoint.files:
            raise InputError(checkpoint._no_weights())
        return checkpoint

    def _no_weights(self) -> str:
        pickles = sorted(path.name for path in self.folder.glob("*.bin"))
        if pickles:
            return (
                f"{self.folder} has its weights in pickles ({pickles[0]}), which can hold code and are not opened; "
                "save the model with safe_serialization=True (safetensors) first"
            )
        return f"{self.folder} holds no weights (model.safetensors); weights in pickles are not read"

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in the order of their names.

        Raises:
            InputError: the index names a file that is not there.
        """
        index = read_json(self.folder / INDEX_FILE)
        if index:
            names = sorted(set(index.get("weight_map", {}).values()))
            absent = [name for name in names if not (self.folder / name).is_file()]
            if absent:
                raise InputError(f"{self.folder} lacks {absent[0]}, which its index names; fetch the model again")
            return tuple(self.folder / name for name in names)
        single = self.folder / "model.safetensors"
        return (single,) if single.is_file() else ()

    @cached_property
    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor of the checkpoint by its name in the files."""
        found: dict[str, TensorEntry] = {}
        for path in self.files:
            found |= read_header(path)[0]
        return found

    @cached_property
    def names(self) -> EmbeddingNames:
        """Names of the embeddings, asked of the model's class on the meta device (imports transformers)."""
        return embedding_names(self.folder)

    def in_files(self, parameter: str) -> str | None:
        """Return the name under which the files hold a parameter, with or without the base model's prefix."""
        prefix = f"{self.names.prefix}." if self.names.prefix else ""
        spellings = [parameter, parameter.removeprefix(prefix), prefix + parameter]
        return next((name for name in spellings if name in self.entries), None)

    def entry(self, side: str) -> TensorEntry:
        """Return the tensor of the ``input`` or ``output`` embedding.

        Raises:
            InputError: the files do not hold it, or not as a matrix of floating-point numbers.
        """
        names = (self.names.input, self.names.output) if side == "input" or self.names.tied else (self.names.output,)
        found = next((name for name in map(self.in_files, names) if name), None)
        if found is None:
            raise InputError(f"{self.folder} holds no tensor {names[0]}; is the checkpoint whole?")
        entry = self.entries[found]
        if len(entry.shape) != 2 or entry.dtype not in DTYPES:
            raise InputError(f"{found} in {entry.path} is {entry.dtype} {entry.shape}, not a matrix of plain floats")
        return entry

    def rows(self, side: str = "input") -> TensorRows:
        """Return the rows of the ``input`` or ``output`` embedding."""
        return TensorRows(self.entry(side))

    @property
    def sides(self) -> tuple[str, ...]:
        """The embedding matrices that exist: ``input`` alone where both are tied."""
        return SIDES[:1] if self.names.tied else SIDES

    def output_bias(self) -> np.ndarray | None:
        """Return the bias of the output layer as float32 ``[rows]``, or ``None``."""
        name = self.in_files(self.names.output_bias) if self.names.output_bias else None
        if name is None:
            return None
        entry = self.entries[name]
        return TensorRows(
            TensorEntry(entry.path, name, entry.dtype, (entry.shape[0], 1), entry.start, entry.stop)
        ).take(np.arange(entry.shape[0]))[:, 0]

    @property
    def n_bytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def n_parameters(self) -> int:
        """Number of stored parameters."""
        return sum(int(np.prod(entry.shape)) for entry in self.entries.values())

    def write(self, target: Path, replaced: Mapping[str, Replacement], config: Mapping[str, Any]) -> int:
        """Write the weights with some tensors replaced, and another configuration, into a folder that exists.

        Args:
            target: an existing folder.
            replaced: new tensors by their name in the files.
            config: the new content of config.json.

        Returns:
            The bytes of tensor data written.
        """
        dropped = frozenset(self._spare_output())
        total = 0
        for path in self.files:
            total += write_copy(path, target / path.name, replaced, dropped)
        index = read_json(self.folder / INDEX_FILE)
        if index:
            weight_map = {name: file for name, file in index["weight_map"].items() if name not in dropped}
            new_index = {"metadata": index.get("metadata", {}) | {"total_size": total}, "weight_map": weight_map}
            (target / INDEX_FILE).write_text(json.dumps(new_index, indent=2) + "\n")
        (target / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
        return total

    def _spare_output(self) -> list[str]:
        """Return the name of a second copy of a tied matrix, which would go stale."""
        if not self.names.tied:
            return []
        held = self.entry("input").name
        return [name for name in ("lm_head.weight",) if name in self.entries and name != held]


def embedding_names(folder: Path) -> EmbeddingNames:
    """Ask the model's class which parameters are its embeddings.

    Raises:
        InputError: transformers knows no causal language model of this type, or the class has no embeddings.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{folder} is no causal language model that transformers can build: {first_line}") from error
    parameters = list(model.named_parameters(remove_duplicate=False))

    def name_of(wanted: Any) -> str | None:
        return next((name for name, parameter in parameters if parameter is wanted), None)

    output_layer = model.get_output_embeddings()
    input_name = name_of(model.get_input_embeddings().weight)
    output_name = name_of(output_layer.weight) if output_layer is not None else None
    if input_name is None or output_name is None:
        raise InputError(f"{type(model).__name__} in {folder} has no input or output embedding")
    bias = getattr(output_layer, "bias", None)
    return EmbeddingNames(
        input=input_name,
        output=output_name,
        output_bias=name_of(bias) if bias is not None else None,
        prefix=model.base_model_prefix or "",
    )


def refuse_if_inside(output: Path, *inputs: Path) -> None:
    """Refuse an output that is one of the inputs or a folder above one.

    Raises:
        InputError: it is.
    """
    wanted = output.expanduser().resolve()
    for folder in inputs:
        resolved = folder.resolve()
        if wanted == resolved or wanted in resolved.parents:
            raise InputError(f"{output} holds {folder}, which is read here; choose another output folder")


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to start writing what the disk cannot hold.

    Args:
        folder: where it goes; its nearest existing parent is asked.
        needed: bytes.

    Raises:
        InputError: fewer bytes are free.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB free; make room or choose another folder"
        )
