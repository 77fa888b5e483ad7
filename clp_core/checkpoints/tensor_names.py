"""Which tensors of the weight files hold a model's embeddings: those that transformers loads into them.

transformers does the naming itself. Its own ``from_pretrained`` loads tensors without values that record where they end
up, so the prefix of a base model, renamings of old files, conversions, tied parameters and the choice among several
tensors for one parameter are always those of the installed version. Nothing private is used: what this needs of
``from_pretrained`` and of tensor subclasses is the contract in tests/checkpoints/test_tensor_names.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import Embedding, Module
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from clp_core.checkpoints.checkpoint import EmbeddingNames, Source
from clp_core.checkpoints.safetensors_reader import TensorEntry, tensor_digest
from clp_core.errors import InputError, first_line

log = logging.getLogger(__name__)

MOVES = {torch.Tensor.to, torch.Tensor.contiguous, torch.Tensor.detach, torch.Tensor.requires_grad_}
SELECTIONS = {torch.Tensor.__getitem__, torch.cat, torch.chunk, torch.split}
"""Operations that leave one tensor as it is where the shape stays the same, as the concatenation of one tensor does."""
CACHED = 8
"""Models whose names are remembered."""
ONE_AT_A_TIME = threading.Lock()
"""Verbosity and progress bars of transformers belong to the whole process."""


class TracedTensor(torch.Tensor):
    """A tensor without values that records the tensors of the files it comes from.

    Attributes:
        tensors: their names.
        operations: what was done to their values, by name; empty where they are a tensor's as it is.
    """

    tensors: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...]) -> TracedTensor:
        """Make the trace of a tensor in a file."""
        traced = torch.empty(shape, device="meta").as_subclass(cls)
        traced.tensors = (name,)
        return traced

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do an operation, and record it in its result."""
        if func is torch.Tensor.to:  # without values there is nothing to move or to round
            return args[0]
        result = super().__torch_function__(func, types, args, dict(kwargs or {}))
        results = [one for one in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(one, cls)]
        sources = traces(args) if results else []
        for one in results:
            is_same = len(sources) == 1 and func in MOVES | SELECTIONS and one.shape == sources[0].shape
            operations = [name for source in sources for name in source.operations]
            one.tensors = tuple(dict.fromkeys(name for source in sources for name in source.tensors))
            one.operations = tuple(dict.fromkeys([*operations, *([] if is_same else [func.__name__])]))
        return result


def traces(values: Any) -> list[TracedTensor]:
    """Gather the traced tensors among the arguments of an operation."""
    if isinstance(values, TracedTensor):
        return [values]
    return [one for value in values for one in traces(value)] if isinstance(values, (list, tuple)) else []


def is_plain(value: torch.Tensor) -> bool:
    """Say whether a parameter or buffer is one tensor of the files as it is."""
    return isinstance(value, TracedTensor) and len(value.tensors) == 1 and not value.operations


def embedding_names(folder: Path, entries: Mapping[str, TensorEntry]) -> EmbeddingNames:
    """Find the embeddings of a causal language model, and the tensors that transformers loads into them.

    Tied matrices of which the files hold both with different values are not tied, as in transformers.

    Args:
        folder: holds the configuration.
        entries: the tensors of the weight files by name; none where only the class is of interest.

    Raises:
        InputError: transformers knows no causal language model of this type, or cannot load it, or it has no
            embeddings.
    """
    shapes = frozenset((name, entry.shape) for name, entry in entries.items())
    loading = Loading.of(Contents(folder, (folder / "config.json").read_bytes(), shapes))
    return loading.names(entries) if entries else loading.declared


@dataclass(frozen=True)
class Contents:
    """What the names of a folder depend on.

    Attributes:
        folder: the model.
        config: its config.json.
        shapes: name and shape of each tensor in its files.
    """

    folder: Path
    config: bytes
    shapes: frozenset[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Embeddings:
    """Names of the parameters of a model's embeddings.

    Attributes:
        input: the input embedding.
        output: the output layer's weight; the same name where it is tied.
        bias: the output layer's bias, if it has one.
    """

    input: str
    output: str
    bias: str | None

    @classmethod
    def of(cls, model: PreTrainedModel, folder: Path) -> Embeddings:
        """Look them up in a model.

        Raises:
            InputError: it has no input embedding or no output layer.
        """
        try:
            first, last = model.get_input_embeddings(), model.get_output_embeddings()
            is_tied = first.weight is last.weight
            input_name = name_of(model, first, "weight")
            output_name = input_name if is_tied else name_of(model, last, "weight")
            bias = getattr(last, "bias", None)
            return cls(input_name, output_name, None if bias is None else name_of(model, last, "bias"))
        except (AttributeError, NotImplementedError) as error:
            raise InputError(f"{type(model).__name__} in {folder} has no input or output embedding") from error


def name_of(model: PreTrainedModel, layer: Module, attribute: str) -> str:
    """Return the name of a layer's parameter in a model, that of the layer itself where it is tied.

    Raises:
        AttributeError: it is not a parameter of the model.
    """
    names = names_of(model, getattr(layer, attribute))
    if not names:
        raise AttributeError(attribute)
    own = [f"{name}.{attribute}" for name, module in model.named_modules() if module is layer]
    return next((name for name in own if name in names), names[0])


def names_of(model: PreTrainedModel, parameter: torch.Tensor) -> list[str]:
    """Return the names of a parameter in a model, several where it is tied."""
    return [name for name, one in model.named_parameters(remove_duplicate=False) if one is parameter]


def empty_model(folder: Path) -> PreTrainedModel:
    """Build the class that AutoModelForCausalLM takes for a folder, without values.

    Raises:
        InputError: it takes none, or the class cannot be built from this configuration.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        raise InputError(
            f"{folder} is not a causal language model that transformers can build: {first_line(error)}"
        ) from error


def further_tables(model: PreTrainedModel, input_name: str) -> list[str]:
    """Name the tables by token id beside the input embedding."""
    own = model.get_parameter(input_name)
    heights = {own.shape[0], getattr(model.config.get_text_config(), "vocab_size_per_layer_input", None)}
    modules = [(name, one) for name, one in model.named_modules() if isinstance(one, Embedding)]
    tables = [f"{name}.weight" for name, module in modules if module.num_embeddings in heights]
    return [name for name in tables if model.get_parameter(name) is not own]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off the warnings and progress bars of transformers, whose reports are of no use for a model of traces."""
    with ONE_AT_A_TIME:
        verbosity, had_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if had_bar:
                transformers_logging.enable_progress_bar()


def sources_of(traced: PreTrainedModel) -> dict[str, Source]:
    """Return where the values of each parameter of a traced model come from, as far as there are any."""
    parameters = traced.named_parameters(remove_duplicate=False)
    return {name: Source(one.tensors, one.operations) for name, one in parameters if isinstance(one, TracedTensor)}


class Loading:
    """A model's class, loaded by transformers with traces of the tensors in its files."""

    def __init__(self, contents: Contents) -> None:
        """Build the class and load the traces; none where there are no tensors.

        Args:
            contents: what is in the folder.

        Raises:
            InputError: transformers cannot build the class or load such tensors, or it has no embeddings.
        """
        self.folder, self.shapes = contents.folder, dict(contents.shapes)
        self.model = empty_model(self.folder)
        own = Embeddings.of(self.model, self.folder)
        parameters = list(self.model.named_parameters(remove_duplicate=False))
        self.declared = EmbeddingNames(  # as the configuration ties them
            own.input,
            own.output,
            own.bias,
            shapes={name: tuple(parameter.shape) for name, parameter in parameters},
            others=tuple(further_tables(self.model, own.input)),
        )
        self.aliases = {  # every name of the embeddings, with the one that is used here
            alias: name
            for name in dict.fromkeys(filter(None, (own.input, own.output, own.bias)))
            for alias in names_of(self.model, self.model.get_parameter(name))
        }
        if self.shapes:
            self.traced, self.mismatched = self.load(self.shapes)
            self.sources = sources_of(self.traced)

    @classmethod
    @lru_cache(maxsize=CACHED)
    def of(cls, contents: Contents) -> Loading:
        """Load a folder, or take it from the cache, as pages open the same models again and again."""
        return cls(contents)

    def load(self, names: Iterable[str]) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Let transformers load traces of some tensors.

        Returns:
            The model, and for each parameter that was refused for its shape the one in the files and its own.

        Raises:
            InputError: it cannot.
        """
        config = self.model.config
        config.__dict__.pop("quantization_config", None)  # quantised tensors stay as they are; no embedding is one
        try:
            with quiet_transformers():
                traced, info = type(self.model).from_pretrained(
                    None,
                    config=config,
                    state_dict={name: TracedTensor.of(name, self.shapes[name]) for name in names},
                    device_map="meta",
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"transformers cannot load the weights of {self.folder}: {first_line(error)}") from error
        return traced, {name: (tuple(there), tuple(own)) for name, there, own in info["mismatched_keys"]}

    def names(self, entries: Mapping[str, TensorEntry]) -> EmbeddingNames:
        """Return the embeddings, and what the files hold of them.

        Args:
            entries: the tensors of the files by name, whose values tell whether two of them are copies.
        """
        found = Embeddings.of(self.traced, self.folder)
        declared = self.declared
        is_tied = found.input == found.output or (declared.tied and self.are_equal(found.input, found.output, entries))
        if declared.tied and not is_tied:
            log.warning("%s holds an output matrix of its own, though it is declared as tied", self.folder)
        kept = dict.fromkeys(filter(None, (found.input, found.input if is_tied else found.output, found.bias)))
        spare, differing = self.copies(kept, entries)
        return replace(
            declared,
            input=found.input,
            output=found.input if is_tied else found.output,
            output_bias=found.bias,
            spare=frozenset(spare | self.passed_over(kept)),
            others=(*declared.others, *differing),
            sources=self.sources,
            buffers={name: one.tensors[0] for name, one in self.traced.named_buffers() if is_plain(one)},
            mismatched=self.mismatched,
        )

    def are_equal(self, one: str, other: str, entries: Mapping[str, TensorEntry]) -> bool:
        """Say whether two parameters are loaded from the same values."""
        first, second = self.sources.get(one), self.sources.get(other)
        if first is None or second is None or first == second:
            return first == second
        if not first.is_plain or not second.is_plain:
            return False
        left, right = entries[first.tensors[0]], entries[second.tensors[0]]
        return (left.dtype, left.shape) == (right.dtype, right.shape) and tensor_digest(left) == tensor_digest(right)

    def copies(self, kept: Iterable[str], entries: Mapping[str, TensorEntry]) -> tuple[set[str], list[str]]:
        """Look at the other names of tied parameters, for which the files may hold tensors too.

        Args:
            kept: parameters of the embeddings.
            entries: the tensors of the files by name.

        Returns:
            The tensors whose values are those of the embeddings, and the parameters whose values are others.
        """
        used = {tensor for name in kept if name in self.sources for tensor in self.sources[name].tensors}
        spare: set[str] = set()
        differing = []
        for alias, name in self.aliases.items():
            tensors = set(self.sources[alias].tensors) if alias in self.sources else set()
            if not tensors or tensors <= used:
                continue
            if self.are_equal(alias, name, entries):
                spare |= tensors
            else:
                differing.append(alias)
        return spare, differing

    def passed_over(self, kept: Iterable[str]) -> set[str]:
        """Find the tensors that transformers would load into the embeddings if others were not there.

        Files may hold a matrix with the prefix of the base model and without it; transformers takes one of them. The
        other would keep the source's vocabulary in a target, and another version of transformers may choose otherwise.

        Args:
            kept: parameters of the embeddings.
        """
        loaded = {tensor for source in self.sources.values() for tensor in source.tensors}
        wanted = {self.declared.shapes[name] for name in kept}
        left = [name for name, shape in self.shapes.items() if name not in loaded and shape in wanted]
        found: set[str] = set()
        while left:
            again = sources_of(self.load(left)[0])
            more = {tensor for name in self.aliases if name in again for tensor in again[name].tensors}
            if not more:
                break
            found |= more
            left = [name for name in left if name not in more]
        return found
