"""Checkpoints as folders of files: read the configuration and the embedding matrices, write a copy with other ones.

No model is built: its class is only asked, on the meta device, which parameters are the embeddings.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.errors import InputError
from clp_core.folders import WEIGHT_KINDS, Weights, chosen_weights
from clp_core.locate import locate, read_json
from clp_core.model_formats import ADAPTER_CONFIG, check_not_distributed, refuse_incomplete
from clp_core.pickles import converted
from clp_core.progress import report_progress
from clp_core.shards import Replacement, flush, read_ahead, write_copy
from clp_core.tensors import DTYPES, TensorEntry, TensorRows, read_header, tensor_digest
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

INDEX_FILE = "model.safetensors.index.json"
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "original/*.safetensors",
                   "original/consolidated*", "*.gguf", "*.msgpack", "*.h5")  # fmt: skip
"""Files that hold weights of a model; the state of a run is none of them."""
NAMES_SHOWN = 4
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
        in_files: name in the files of each parameter that transformers finds there by its own renamings.
        loaded: tensors of the files that transformers loads into parameters, as they are or converted.
    """

    input: str
    output: str
    output_bias: str | None
    prefix: str
    aliases: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    in_files: Mapping[str, str] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()

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
            InputError: no such model, or no configuration, or no weights in it, or pickles that hold more than weights;
                the message names the format where the folder is another kind of model.
        """
        folder = locate(reference)
        if not (folder / "config.json").is_file():
            raise refuse_incomplete(folder, f"{folder} holds no config.json, so it is no model folder")
        config = read_json(folder / "config.json")
        check_not_distributed(folder)
        weights = chosen_weights(folder)
        if weights is None:
            raise refuse_incomplete(folder, f"{folder} holds no weights (model.safetensors or pytorch_model.bin)")
        if weights.is_pickled:
            return cls(folder, config, converted(folder, Workspace.current().cache))
        return cls(folder, config, folder)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The weight files that transformers loads, in the order of their names."""
        return checkpoint_files(self.weights)

    @cached_property
    def _headers(self) -> dict[Path, dict[str, TensorEntry]]:
        return {path: read_header(path)[0] for path in self.files}

    @cached_property
    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor of the checkpoint by its name in the files; of one that several files hold, the last."""
        found: dict[str, TensorEntry] = {}
        for entries in self._headers.values():
            found |= entries
        return found

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """Names of the tensors that several files hold."""
        names = [name for entries in self._headers.values() for name in entries]
        return tuple(name for name, n in Counter(names).items() if n > 1)

    @cached_property
    def warnings(self) -> list[str]:
        """Files beside the weights that are not used, and tensors whose files disagree on where they are."""
        weights = chosen_weights(self.folder)
        assert weights is not None
        used = weights.files[0].name if weights.index is None else weights.index.name
        warnings = []
        if unused := unused_weights(self.folder, weights):
            warnings.append(
                f"{self.folder} holds further weights, which are not used: {named(unused)}. The model is that of "
                f"{used}, which transformers loads too; remove the others, or this one, if that is not intended"
            )
        if (self.folder / ADAPTER_CONFIG).is_file():
            warnings.append(
                f"the adapter in {self.folder} ({ADAPTER_CONFIG}) is not applied; merge it into the model first "
                "(merge_and_unload() of PEFT) if it belongs to it"
            )
        if self.repeated:
            warnings.append(
                f"several weight files of {self.folder} hold {named(self.repeated)}; the last file's values are used, "
                "as in transformers"
            )
        return warnings

    @cached_property
    def names(self) -> EmbeddingNames:
        """Names of the embeddings, asked of the model's class on the meta device (imports transformers).

        Where the class ties them but the files hold an output matrix with other values, they are untied, as
        transformers loads them.
        """
        names = embedding_names(self.folder, self.entries)
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

        It is the name that transformers looks for, renamings of old files included (``embed_out`` of GPT-NeoX). Files
        may leave out the base model's prefix or carry it; else the one tensor is taken whose name ends alike and whose
        shape is the class's (old files have other prefixes). That the target loads is the proof.
        """
        return self._spelling(parameter, self.names)

    def _spelling(self, parameter: str, names: EmbeddingNames) -> str | None:
        if parameter in names.in_files:
            return names.in_files[parameter]
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
            quantised = self.config.get("quantization_config")
            kind = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else ""
            cure = f": the model is quantised ({kind}); use the model before quantisation" if quantised else ""
            raise InputError(
                f"{found} in {entry.path} is {entry.dtype} {entry.shape}, not a matrix of plain floats{cure}"
            )
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

        Raises:
            InputError: a value of a parameter is not finite. Buffers that old files carry may hold minus infinity.
        """
        spare = set(self._spare_output())
        names = written_names(self.files)
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
                later = {name for name in self._headers[path] if self.entries[name].path != path}
                dropped = frozenset(spare | later)
                copied = write_copy(path, target / names[path], replaced, dropped, on_bytes, self.names.loaded)
                flushed.append(flusher.submit(flush, target / names[path]))
                total += copied.n_bytes
                files[path.name] = copied.sha256
                digests |= copied.digests
            for done_one in flushed:
                done_one.result()
        self._write_index(target, names, spare, total)
        own = {key: value for key, value in config.items() if key != "transformers_weights"}
        (target / "config.json").write_text(json.dumps(own, indent=2) + "\n")
        return Written(files, digests)

    def _write_index(self, target: Path, names: Mapping[Path, str], spare: set[str], total: int) -> None:
        """Write the index of the files that were written; a single file has none, and a stale one is removed."""
        if len(names) == 1:
            (target / INDEX_FILE).unlink(missing_ok=True)
            return
        weights = chosen_weights(self.weights)
        before = read_json(weights.index) if weights is not None and weights.index is not None else {}
        weight_map = {name: names[entry.path] for name, entry in sorted(self.entries.items()) if name not in spare}
        index = {"metadata": (before.get("metadata") or {}) | {"total_size": total}, "weight_map": weight_map}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")

    def _spare_output(self) -> list[str]:
        """Return the name of a second copy of a tied matrix, which would go stale."""
        if not self.names.tied:
            return []
        held = self.entry("input").name
        spellings = [self.in_files(name) for name in (*self.names.aliases, "lm_head.weight")]
        return sorted({name for name in spellings if name is not None and name != held})


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, in the order of their names; none where transformers loads none.

    Raises:
        InputError: the index is not valid, or names a file that is not there.
    """
    weights = chosen_weights(folder)
    return weights.files if weights is not None and not weights.is_pickled else ()


def written_names(files: Sequence[Path]) -> dict[Path, str]:
    """Name the files of a copy as transformers expects them: a single one, or shards, whose own names are kept."""
    if len(files) == 1:
        return {files[0]: "model.safetensors"}
    names = [path.name for path in files]
    if len(set(names)) < len(names) or "model.safetensors" in names:
        names = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    return dict(zip(files, names, strict=True))


def unused_weights(folder: Path, weights: Weights) -> list[str]:
    """Return the names of the weight files and indices in a folder that transformers does not load."""
    used = {*weights.files, weights.index}
    indices = [folder / index for _, index in WEIGHT_KINDS]
    found = [*indices, *(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))]
    unused = {path.relative_to(folder).as_posix() for path in found if path.is_file() and path not in used}
    return sorted(unused - {"adapter_model.safetensors"})


def named(names: Sequence[str]) -> str:
    """Return the first few names of a list."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def embedding_names(folder: Path, tensors: Iterable[str] = ()) -> EmbeddingNames:
    """Ask the model's class which parameters are its embeddings.

    Args:
        folder: holds the configuration.
        tensors: names of the tensors in the weight files.

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
    in_files, loaded = file_names(model, tensors)

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
        in_files=in_files,
        loaded=loaded,
    )


def file_names(model: Any, tensors: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Map parameters to the tensors of weight files that transformers would load them from.

    Args:
        model: a model of transformers, on any device.
        tensors: names of the tensors in the files.

    Returns:
        Tensor by parameter or buffer, without those that transformers converts on loading, such as the experts that it
        stacks; and the tensors that are loaded into parameters, the converted ones too.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found, loaded = {}, set()
    for tensor in tensors:
        name, converted_by = rename_source_key(tensor, renamings, converters, model.base_model_prefix, state)
        if converted_by is None and name in state:
            found[name] = tensor
        if name in parameters:
            loaded.add(tensor)
    return found, frozenset(loaded)
