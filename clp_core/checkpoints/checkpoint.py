"""Checkpoints as folders of files: read the configuration and the embedding matrices, write a copy with other ones.

Which tensors the embeddings are is the business of ``tensor_names``.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.checkpoints.pickle_conversion import converted
from clp_core.checkpoints.safetensors_reader import DTYPES, TensorEntry, TensorRows, read_header
from clp_core.checkpoints.safetensors_writer import Replacement, flush, read_ahead, write_copy
from clp_core.errors import InputError
from clp_core.files.json_files import read_json
from clp_core.files.model_files import WEIGHT_KINDS, Weights, checkpoint_files, chosen_weights
from clp_core.files.model_formats import ADAPTER_CONFIG, check_not_distributed, refuse_incomplete
from clp_core.hub.resolve import locate
from clp_core.progress import report_progress
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

INDEX_FILE = "model.safetensors.index.json"
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "original/*.safetensors",
                   "original/consolidated*", "*.gguf", "*.msgpack", "*.h5")  # fmt: skip
"""Files that hold weights of a model; the state of a run is none of them."""
NAMES_SHOWN = 4
SIDES = ("input", "output")


@dataclass(frozen=True)
class Source:
    """Where transformers takes the values of a parameter from.

    Attributes:
        tensors: names of the tensors in the files.
        operations: operations of a conversion; empty where the parameter is one tensor as it is.
    """

    tensors: tuple[str, ...]
    operations: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the parameter is one tensor as it is."""
        return len(self.tensors) == 1 and not self.operations


@dataclass(frozen=True)
class EmbeddingNames:
    """A model's embeddings, and where transformers takes their values from.

    Attributes:
        input: parameter of the input embedding.
        output: the output layer's weight; the same as ``input`` where they are tied.
        output_bias: the output layer's bias, if it has one.
        shapes: shape of each parameter by name.
        spare: further copies of these in the files, which a copy of the model leaves out: those of tied parameters,
            and tensors that transformers passes over in favour of others.
        others: further tables by token id, which a transfer does not know how to fill.
        sources: where each parameter comes from; those that the files lack are not among them.
        buffers: the tensor of each buffer that the files hold as it is.
        mismatched: shape in the files and shape in the model of the parameters for which they differ.
    """

    input: str
    output: str
    output_bias: str | None
    shapes: Mapping[str, tuple[int, ...]]
    spare: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    buffers: Mapping[str, str] = field(default_factory=dict)
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        """Whether input and output share one matrix."""
        return self.input == self.output

    @property
    def loaded(self) -> frozenset[str]:
        """Tensors of the files that transformers loads into parameters, as they are or converted."""
        return frozenset(tensor for source in self.sources.values() for tensor in source.tensors)


@dataclass(frozen=True)
class CopyDigests:
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
        """The embeddings, and the tensors that transformers loads into them (imports transformers).

        Where the class ties them but the files hold an output matrix with other values, they are not tied, as
        transformers loads them.
        """
        return embedding_names(self.folder, self.entries)

    def tensor_of(self, parameter: str) -> TensorEntry:
        """Return the tensor that transformers loads as a parameter.

        Raises:
            InputError: there is none, or it has another shape than config.json states, or transformers computes the
                parameter from what the files hold.
        """
        if parameter in self.names.mismatched:
            there, own = self.names.mismatched[parameter]
            raise InputError(
                f"{self.folder} holds {parameter} as {there}, but its config.json makes it {own}, so transformers "
                "cannot load it; correct vocab_size in config.json"
            )
        source = self.names.sources.get(parameter)
        if source is None:
            raise InputError(
                f"{self.folder} holds no tensor that transformers would load as {parameter}: it may be a base model "
                "without its head, its names may have a prefix such as module., or a file is damaged; save the whole "
                "model with save_pretrained"
            )
        if not source.is_plain:
            raise InputError(
                f"transformers computes {parameter} of {self.folder} from {named(source.tensors)} "
                f"({', '.join(source.operations)}), which is not supported; load the model and save it with "
                "save_pretrained(..., save_original_format=False)"
            )
        return self.entries[source.tensors[0]]

    def entry(self, side: str) -> TensorEntry:
        """Return the tensor of the ``input`` or ``output`` embedding.

        Raises:
            InputError: the files do not hold it, or not as a matrix of floating-point numbers.
        """
        entry = self.tensor_of(self.names.input if side == "input" else self.names.output)
        if len(entry.shape) != 2 or entry.dtype not in DTYPES:
            quantised = self.config.get("quantization_config")
            kind = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else ""
            cure = f": the model is quantised ({kind}); use the model before quantisation" if quantised else ""
            raise InputError(
                f"{entry.name} in {entry.path} is {entry.dtype} {entry.shape}, not a matrix of plain floats{cure}"
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
        if self.names.output_bias is None:
            return None
        entry = self.tensor_of(self.names.output_bias)
        return TensorRows(replace(entry, shape=(entry.shape[0], 1)))

    @property
    def n_bytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def n_parameters(self) -> int:
        """Number of stored parameters."""
        return sum(int(np.prod(entry.shape)) for entry in self.entries.values())

    def write(self, target: Path, replaced: Mapping[str, Replacement], config: Mapping[str, Any]) -> CopyDigests:
        """Write the weights with some tensors replaced, and another configuration, into a folder that exists.

        Args:
            target: an existing folder.
            replaced: new tensors by their name in the files.
            config: the new content of config.json.

        Raises:
            InputError: a value of a parameter is not finite. Buffers that old files carry may hold minus infinity.
        """
        spare = self.names.spare
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
        return CopyDigests(files, digests)

    def _write_index(self, target: Path, names: Mapping[Path, str], spare: frozenset[str], total: int) -> None:
        """Write the index of the files that were written; a single file has none, and a stale one is removed."""
        if len(names) == 1:
            (target / INDEX_FILE).unlink(missing_ok=True)
            return
        weights = chosen_weights(self.weights)
        before = read_json(weights.index) if weights is not None and weights.index is not None else {}
        weight_map = {name: names[entry.path] for name, entry in sorted(self.entries.items()) if name not in spare}
        index = {"metadata": (before.get("metadata") or {}) | {"total_size": total}, "weight_map": weight_map}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


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


def embedding_names(folder: Path, entries: Mapping[str, TensorEntry] | None = None) -> EmbeddingNames:
    """Do what ``tensor_names.embedding_names`` does, and import torch and transformers only then."""
    from clp_core.checkpoints import tensor_names

    return tensor_names.embedding_names(folder, entries or {})
