"""Checkpoints as folders of files: read the configuration and the embedding matrices, write a copy with other ones.

No model is built: its class is only asked, on the meta device, which parameters are the embeddings.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.errors import InputError
from clp_core.folders import weight_files
from clp_core.locate import locate, read_json
from clp_core.pickles import converted, pickled_files
from clp_core.progress import report_progress
from clp_core.shards import Replacement, flush, read_ahead, write_copy
from clp_core.tensors import DTYPES, TensorEntry, TensorRows, read_header, tensor_digest
from clp_core.workspace import Workspace

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
        aliases: other names of the input embedding, where it is tied.
        shapes: shape of each parameter by name.
        others: further tables by token id, which a transfer does not know how to fill.
    """

    input: str
    output: str
    output_bias: str | None
    prefix: str
    aliases: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether input and output share one matrix."""
        return self.input == self.output


@dataclass(frozen=True)
class Written:
    """What was seen while a checkpoint was written.

    Attributes:
        files: SHA-256 of each of the source's weight files, by name.
        digests: xxh3 of each tensor that was copied as it is, by its name.
    """

    files: dict[str, str]
    digests: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint in a local folder.

    Attributes:
        folder: where it lies.
        config: the content of config.json.
        weights: the folder of its safetensors files; another one only where they were converted from pickles.
    """

    folder: Path
    config: dict[str, Any]
    weights: Path

    @classmethod
    def open(cls, reference: str | Path) -> Checkpoint:
        """Open a folder or a Hub id.

        Weights that come as pickles are converted to safetensors first, once, in the workspace's cache.

        Raises:
            InputError: no such model, or no configuration, or no weights in it, or pickles that hold more than weights.
        """
        folder = locate(reference)
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no config.json, so it is no model folder")
        config = read_json(folder / "config.json")
        if checkpoint_files(folder):
            return cls(folder, config, folder)
        if not pickled_files(folder):
            raise InputError(f"{folder} holds no weights (model.safetensors or pytorch_model.bin)")
        return cls(folder, config, converted(folder, Workspace.current().cache))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in the order of their names."""
        return checkpoint_files(self.weights)

    @cached_property
    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor of the checkpoint by its name in the files."""
        found: dict[str, TensorEntry] = {}
        for path in self.files:
            found |= read_header(path)[0]
        return found

    @cached_property
    def names(self) -> EmbeddingNames:
        """Names of the embeddings, asked of the model's class on the meta device (imports transformers).

        Where the class ties them but the files hold an output matrix with other values, they are untied, as
        transformers loads them.
        """
        names = embedding_names(self.folder)
        held = {self._spelling(name, names) for name in (names.input, *names.aliases)} - {None}
        if not names.tied or len(held) < 2:
            return names
        entry = self.entries[self._spelling(names.input, names) or ""]
        for alias in names.aliases:
            spelled = self._spelling(alias, names)
            other = self.entries[spelled] if spelled else entry
            if other.name != entry.name and tensor_digest(other) != tensor_digest(entry):
                log.warning("%s holds an output matrix of its own, though it is said to be tied", self.folder)
                return replace(names, output=alias, aliases=())
        return names

    def in_files(self, parameter: str) -> str | None:
        """Return the name under which the files hold a parameter.

        Files may leave out the base model's prefix or carry it; else the one tensor is taken whose name ends alike and
        whose shape is the class's (old files have other prefixes). That the target loads is the proof.
        """
        return self._spelling(parameter, self.names)

    def _spelling(self, parameter: str, names: EmbeddingNames) -> str | None:
        prefix = f"{names.prefix}." if names.prefix else ""
        spellings = [parameter, parameter.removeprefix(prefix), prefix + parameter]
        found = next((name for name in spellings if name in self.entries), None)
        if found is not None:
            return found
        ending = "." + ".".join(parameter.split(".")[-2:])
        shape = names.shapes.get(parameter)
        alike = [name for name, entry in self.entries.items() if name.endswith(ending) and entry.shape == shape]
        return alike[0] if len(alike) == 1 else None

    def entry(self, side: str) -> TensorEntry:
        """Return the tensor of the ``input`` or ``output`` embedding.

        Raises:
            InputError: the files do not hold it, or not as a matrix of floating-point numbers.
        """
        tied = (self.names.input, self.names.output, *self.names.aliases)
        names = tied if side == "input" or self.names.tied else (self.names.output,)
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

    def output_bias(self) -> TensorRows | None:
        """Return the bias of the output layer as rows of width 1, or ``None`` where it has none."""
        name = self.in_files(self.names.output_bias) if self.names.output_bias else None
        if name is None:
            return None
        entry = self.entries[name]
        return TensorRows(replace(entry, shape=(entry.shape[0], 1)))

    @property
    def n_bytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def n_parameters(self) -> int:
        """Number of stored parameters."""
        return sum(int(np.prod(entry.shape)) for entry in self.entries.values())

    def write(self, target: Path, replaced: Mapping[str, Replacement], config: Mapping[str, Any]) -> Written:
        """Write the weights with some tensors replaced, and another configuration, into a folder that exists.

        Args:
            target: an existing folder.
            replaced: new tensors by their name in the files.
            config: the new content of config.json.
        """
        dropped = frozenset(self._spare_output())
        done, whole = 0, self.n_bytes
        files: dict[str, str] = {}
        digests: dict[str, str] = {}
        total = 0

        def on_bytes(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            report_progress("writing the weights", done / whole, bytes_done=done, bytes_total=whole)

        with ThreadPoolExecutor(1) as flusher:  # one file goes to the disk while the next is read
            flushed = []
            for path, following in zip(self.files, (*self.files[1:], None), strict=True):
                if following is not None:
                    read_ahead(following)
                copied = write_copy(path, target / path.name, replaced, dropped, on_bytes)
                flushed.append(flusher.submit(flush, target / path.name))
                total += copied.n_bytes
                files[path.name] = copied.sha256
                digests |= copied.digests
            for done_one in flushed:
                done_one.result()
        index = read_json(self.weights / INDEX_FILE)
        if index:
            weight_map = {name: file for name, file in index["weight_map"].items() if name not in dropped}
            new_index = {"metadata": index.get("metadata", {}) | {"total_size": total}, "weight_map": weight_map}
            (target / INDEX_FILE).write_text(json.dumps(new_index, indent=2) + "\n")
        (target / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
        return Written(files, digests)

    def _spare_output(self) -> list[str]:
        """Return the name of a second copy of a tied matrix, which would go stale."""
        if not self.names.tied:
            return []
        held = self.entry("input").name
        spellings = [self.in_files(name) for name in (*self.names.aliases, "lm_head.weight")]
        return sorted({name for name in spellings if name is not None and name != held})


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, in the order of their names; none where it has none.

    Raises:
        InputError: the index is no index, or names a file that is not there.
    """
    return weight_files(folder, "model.safetensors", INDEX_FILE)


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

    def names_of(wanted: Any) -> list[str]:
        return [name for name, parameter in parameters if parameter is wanted]

    def name_of(wanted: Any) -> str | None:
        return next(iter(names_of(wanted)), None)

    output_layer = model.get_output_embeddings()
    input_weight = model.get_input_embeddings().weight
    input_name = name_of(input_weight)
    output_name = name_of(output_layer.weight) if output_layer is not None else None
    if input_name is None or output_name is None:
        raise InputError(f"{type(model).__name__} in {folder} has no input or output embedding")
    bias = getattr(output_layer, "bias", None)
    text = config.get_text_config()
    heights = {input_weight.shape[0], getattr(text, "vocab_size_per_layer_input", None)}
    tables = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings in heights
    ]
    return EmbeddingNames(
        input=input_name,
        output=output_name,
        output_bias=name_of(bias) if bias is not None else None,
        prefix=model.base_model_prefix or "",
        aliases=tuple(names_of(input_weight)[1:]),
        shapes={name: tuple(parameter.shape) for name, parameter in parameters},
        others=tuple(name for name in tables if name not in names_of(input_weight)),
    )
