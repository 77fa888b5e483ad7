"""The functional check of a transfer: a target must score common tokens as its source does.

The same tokens go through both models, each with its own ids, and the logits of all copied tokens are compared. Copied
rows, the body, and everything that classes derive from a configuration (positions from the padding id, sizes, scales)
are then right together, whatever the class is. New rows are not part of the comparison.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import CURE, NonFiniteError, non_finite_weight
from clp_core.checkpoints.loading import forward, load_causal_model, refuse_non_causal
from clp_core.checkpoints.model_config import max_positions
from clp_core.checkpoints.positions import padding_index
from clp_core.environment.free_memory import free_memory
from clp_core.errors import ClpError, InputError
from clp_core.progress import report_progress
from clp_core.reports.transfer_report import CheckSummary
from clp_core.transfer.row_plan import RowPlan
from clp_core.transfer.target_folder import check_tying

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

log = logging.getLogger(__name__)

MEMORY_SHARE, MOST_BYTES = 0.25, 8e9
"""What the weights of one of the two models may take: a share of the free memory, and at most so many bytes, as a check
should not take longer than the transfer. They are loaded one after the other."""
NO_ROOM = (
    f"as embeddings and first layer alone take more than {MEMORY_SHARE:.0%} of the free memory or more than "
    f"{MOST_BYTES / 1e9:.0f} GB"
)
TOKENS_FED = 64
LIMITS = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest difference that passes, in standard deviations of the logits. Equal rows give equal hidden states; only the
product with the output matrix, whose height differs, rounds otherwise."""
UNCUT = (
    f"as the whole model takes more than {MEMORY_SHARE:.0%} of the free memory or more than {MOST_BYTES / 1e9:.0f} GB, "
    "and its class cannot be cut to its first layers"
)
LAYER_COUNTERS = ("decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers")
MASKED = 1e30
"""Logits beyond it are masks."""


@dataclass(frozen=True)
class Extent:
    """How much of a model is run.

    Attributes:
        layers: the first layers that are; ``None`` for the whole model.
        dtype: data type of weights and products.
    """

    layers: int | None
    dtype: str


@dataclass(frozen=True)
class Expected:
    """What the source predicts after some common tokens.

    Attributes:
        fed: target ids of the tokens that were fed, ``[tokens]``.
        copied: target ids of all copied tokens, ascending, ``[copied]``.
        logits: of the copied tokens after each token, float32, ``[tokens, copied]``.
        extent: how much of the model was run.
        layers: layers of the whole model; ``None`` where its configuration names none.
        tied: whether its embeddings are one parameter.
    """

    fed: np.ndarray
    copied: np.ndarray
    logits: torch.Tensor
    extent: Extent
    layers: int | None
    tied: bool

    @property
    def is_whole(self) -> bool:
        """Whether the whole model is run, so that all its weights are loaded."""
        return self.extent.layers is None

    @classmethod
    def of(cls, source: Checkpoint, plan: RowPlan) -> Expected | str:
        """Run the source.

        Args:
            source: the source model.
            plan: what each target row will be.

        Returns:
            What it predicts, or why it cannot be run within the share of the memory.

        Raises:
            InputError: the source cannot be run, or sees the tokens that it predicts.
        """
        extent = extent_of(source)
        if isinstance(extent, str):
            return extent
        copied = np.flatnonzero(plan.source_ids >= 0)
        positions = max_positions(source.config)
        fed = chosen(plan, copied, positions, padding_index(source.config))
        report_progress("scoring common tokens with the source")
        name = str(source.folder)
        try:
            model = load(source.weights, source.folder, extent)
            logits = scores(model, plan.source_ids[fed], name)
        except InputError as error:
            if extent.layers is None:
                raise
            log.info("%s cannot be cut to %d layers: %s", name, extent.layers, error)
            return UNCUT
        refuse_non_causal(model, name, positions)
        rows = source.rows(source.sides[-1]).shape[0]
        if logits.shape[-1] != rows:
            raise InputError(
                f"{type(model).__name__} of {name} gives {logits.shape[-1]:,} logits per token, its output embedding "
                f"has {rows:,} rows; this architecture is not supported"
            )
        layers = layers_of(configuration(source.folder))
        kept = logits[:, plan.source_ids[copied]]
        if not kept.isfinite().all():
            where = non_finite_weight(model)
            problem = f"{where} holds NaN or infinity" if where else "its logits are NaN or infinite"
            raise NonFiniteError(f"{problem} in the source {name}: {CURE}")
        return cls(fed, copied, kept, extent, layers, source.names.tied)

    def compare(self, target: Path) -> CheckSummary:
        """Run the written target on the same tokens.

        Returns:
            What was checked, for the report.

        Raises:
            ClpError: it predicts otherwise than the source.
        """
        report_progress("scoring common tokens with the target")
        try:
            model = load(target, target, self.extent)
        except InputError as error:
            raise ClpError(f"transformers cannot load the written model: {error}") from error
        check_tying(model, tied=self.tied)
        logits = scores(model, self.fed, "the written model")
        found = difference(self.logits, logits[:, self.copied])
        limit = LIMITS[self.extent.dtype]
        if not found <= limit:
            raise ClpError(
                f"the target does not predict as the source does: after {len(self.fed)} common tokens their "
                f"logits differ by up to {found:.3g} standard deviations (limit {limit:g}). {type(model).__name__} "
                "derives something else from the vocabulary or from special ids in config.json; this architecture "
                "is not supported (--check files writes the target all the same)"
            )
        return CheckSummary(
            "logits",
            layers=self.layers if self.extent.layers is None else self.extent.layers,
            of_layers=self.layers,
            dtype=self.extent.dtype,
            tokens_fed=len(self.fed),
            tokens_compared=len(self.copied),
            largest_difference=float(f"{found:.3g}"),
            limit=limit,
        )


def chosen(plan: RowPlan, copied: np.ndarray, positions: int | None, padding: int | None) -> np.ndarray:
    """Choose the tokens to feed: ordinary ones in common, in an order that is the same each time.

    Args:
        plan: what each target row will be.
        copied: target ids of the copied tokens.
        positions: the longest input of the source.
        padding: source id of a token that the source's class passes over, whatever it stands for.

    Returns:
        Target ids, ``[tokens]``.
    """
    source, target = plan.overlap.source, plan.overlap.target
    passed_over = [*source.special_ids, *([] if padding is None else [padding])]
    special = np.isin(copied, list(target.special_ids)) | np.isin(plan.source_ids[copied], passed_over)
    tokens = copied if special.all() else copied[~special]
    count = min(TOKENS_FED, positions or TOKENS_FED)
    return np.random.default_rng(0).choice(tokens, count, replace=len(tokens) < count)


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the largest difference of two arrays of logits in standard deviations of the first; NaN where one is."""
    import torch

    same = (expected == found) | ((expected < -MASKED) & (found < -MASKED))
    plain = expected[expected.abs() < MASKED]
    largest = torch.where(same, 0.0, (expected - found).abs()).max()
    return float(largest / plain.std().clamp(min=torch.finfo(torch.float32).tiny))


def extent_of(source: Checkpoint) -> Extent | str:
    """Choose how much of a model is run within the share of the free memory.

    The whole model in float32 where that fits, else its first layers in float32, else its first layer in the files' own
    data type.

    Returns:
        The extent, or why there is none.
    """
    budget = min(MEMORY_SHARE * free_memory(), MOST_BYTES)
    if 4 * source.n_parameters <= budget:
        return Extent(None, "float32")
    one = n_parameters(source.folder, 1)
    layers = layers_of(configuration(source.folder))
    if one is None or layers is None or layers < 2:
        return UNCUT
    if 4 * one > budget:
        own = {"BF16": "bfloat16", "F16": "float16"}.get(source.entry("input").dtype)
        return Extent(1, own) if own and 2 * one <= budget else NO_ROOM
    most = int(budget / 4)
    return Extent(bisect_right(range(layers), most, lo=2, key=lambda n: n_parameters(source.folder, n) or most + 1) - 1,
                  "float32")  # fmt: skip


def counter_of(config: PretrainedConfig) -> str | None:
    """Return the entry that counts the layers of a decoder; the general one may count an encoder's, or halves."""
    return next((name for name in LAYER_COUNTERS if isinstance(getattr(config, name, None), int)), None)


def layers_of(config: PretrainedConfig) -> int | None:
    """Return the number of layers of a decoder by its configuration, ``None`` where that names none."""
    text = config.get_text_config(decoder=True)
    name = counter_of(text)
    return None if name is None else int(getattr(text, name))


def configuration(folder: Path) -> PretrainedConfig:
    """Read the configuration of a model."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def n_parameters(folder: Path, layers: int) -> int | None:
    """Count the parameters of a model's first layers with its embeddings; ``None`` where the class cannot be cut."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(first_layers(folder, layers), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        log.info("%s cannot be cut to %d layers: %s", folder, layers, error)
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def first_layers(folder: Path, layers: int | None) -> PretrainedConfig:
    """Return a model's configuration, cut to its first layers; lists with an entry for each layer are cut too."""
    config = configuration(folder)
    if layers is None:
        return config
    text = config.get_text_config(decoder=True)
    for part in {id(each): each for each in (config, text)}.values():  # some classes give a copy of themselves
        cut(part, layers)
    return config


def cut(config: PretrainedConfig, layers: int) -> None:
    """Set the number of layers in a configuration."""
    counter = counter_of(config)
    if counter is None:
        return
    whole, general = getattr(config, counter), vars(config).get("num_hidden_layers")
    for name, value in list(vars(config).items()):
        is_by_layer = isinstance(value, list | tuple) and not any(isinstance(each, float) for each in value)
        if is_by_layer and len(value) in (whole, general):
            setattr(config, name, value[: len(value) * layers // whole])
    if "num_hidden_layers" in vars(config) and counter != "num_hidden_layers":
        config.num_hidden_layers = max(1, general * layers // whole)
    setattr(config, counter, layers)


def load(weights: Path, folder: Path, extent: Extent) -> Any:
    """Load a model, or its first layers.

    Args:
        weights: folder of its weight files.
        folder: folder of its configuration.
        extent: how much of it.
    """
    import torch

    with quiet():
        model = load_causal_model(weights, getattr(torch, extent.dtype), first_layers(folder, extent.layers))
    return model.eval()


def scores(model: Any, ids: np.ndarray, name: str) -> torch.Tensor:
    """Return a model's logits after each token as float32, ``[tokens, vocabulary]``."""
    import torch

    state = torch.random.get_rng_state()
    torch.manual_seed(0)  # some classes hash tokens into buckets by random projections
    try:
        with torch.inference_mode():
            return forward(model, torch.from_numpy(ids)[None], name)[0].float()
    finally:
        torch.random.set_rng_state(state)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from telling that layers beyond the first are not used, and from showing bars of its own."""
    from transformers.utils import logging as library

    before, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(before)
        if bars:
            library.enable_progress_bar()
