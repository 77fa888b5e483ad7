"""Loading causal language models, and what makes their scores worthless: weights drawn at random, a view of the future.

transformers draws weights that a checkpoint lacks at random and logs that; some classes of ``AutoModelForCausalLM``
(BERT's without ``is_decoder``, XLNet's, XLM's) attend to tokens after the one they predict. Both give plausible
figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clp_core.environment.memory_errors import is_out_of_memory
from clp_core.errors import InputError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

KEYS_NAMED = 3
PROBE_TOKENS, FEWEST_PROBED = 12, 3
LARGEST_SHIFT = 1e-4
"""Of the largest score. Causal models shift by nothing, others with random weights by 5e-4, trained ones by more."""
WITHOUT_CACHE = frozenset({"blt", "cpmant", "moshi", "prophetnet", "recurrent_gemma", "reformer", "xlnet"})
"""Types whose class fails on its own cache, predicts otherwise with it, or holds it in the model for all texts."""
ROUNDING_STEPS = 4
"""In half precision experts of a mixture may round otherwise where other tokens share a product with one."""


def load_causal_model(
    folder: Path, dtype: torch.dtype | str, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """Load a causal language model whose checkpoint holds every weight of its class.

    Args:
        folder: the model.
        dtype: data type of the weights, or ``auto``.
        config: its configuration; that in the folder by default.

    Raises:
        InputError: transformers cannot load it, or would draw weights at random; the first of these are named.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    # Without a config.json beside the weights, transformers looks in vain for settings of generate.
    given = {} if config is None else {"config": config, "generation_config": GenerationConfig()}
    try:
        # Weights of another shape are let pass only to be named below.
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **given,
        )
    except Exception as error:  # a value of a wrong kind in config.json ends in many kinds of errors
        if is_out_of_memory(error):
            raise
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{folder} cannot be loaded: {first_line}") from error
    refuse_incomplete(info, type(model).__name__, folder)
    return model


def refuse_incomplete(info: dict[str, Any], class_name: str, folder: Path) -> None:
    """Refuse a model of which transformers drew weights at random; tied weights and buffers are not among its keys.

    Args:
        info: what ``from_pretrained`` gives with ``output_loading_info=True``.
        class_name: class of the model.
        folder: the model.

    Raises:
        InputError: it did; the first keys are named.
    """
    problems = []
    for kind, keys in (
        ("has no", sorted(info["missing_keys"])),
        ("has in another shape", sorted(str(entry[0]) for entry in info["mismatched_keys"])),
    ):
        if keys:
            more = ", ..." if len(keys) > KEYS_NAMED else ""
            problems.append(f"{kind} {', '.join(keys[:KEYS_NAMED])}{more} ({len(keys):,} of its weights)")
    if problems:
        raise InputError(
            f"{folder} is not a full causal language model: its checkpoint {' and '.join(problems)}, which "
            f"{class_name} would draw at random. It may be a base model without its head, a state dict whose names "
            "have a prefix such as module., or a damaged file; save the whole model with save_pretrained"
        )


def refuse_non_causal(model: PreTrainedModel, name: str, positions: int | None = None) -> None:
    """Refuse a model whose scores for a token depend on what comes after it.

    A few tokens go through the model twice, the last of them changed: no earlier score may move.

    Args:
        model: a loaded model.
        name: what the message calls it.
        positions: the longest input of the model; ``None`` where it has no limit. Below three nothing is checked.

    Raises:
        InputError: it attends to later tokens, or cannot be run on tokens alone.
    """
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)  # some classes mask it on their own
    ids = [i for i in range(min(rows, 2 * PROBE_TOKENS)) if i != padding]
    n = min(PROBE_TOKENS, positions or PROBE_TOKENS, len(ids) - 1)
    if n < FEWEST_PROBED:
        return
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        inputs = torch.tensor([ids[:n], [*ids[: n - 1], ids[n]]], device=device)
        first, second = (forward(model, row[None], name)[0, :-1].float() for row in inputs)
    model.train(was_training)
    tolerance = max(LARGEST_SHIFT, ROUNDING_STEPS * torch.finfo(next(model.parameters()).dtype).eps)
    if (first - second).abs().max() > tolerance * first.abs().max():
        raise InputError(
            f"{name} attends to tokens after the one it predicts, so {type(model).__name__} is not a causal language "
            "model as configured; set is_decoder to true (Gemma: use_bidirectional_attention to false) in its "
            "config.json if it was trained as a causal model, or take another model"
        )


def has_cache(model: PreTrainedModel) -> bool:
    """Whether a model can generate with a cache of keys and values."""
    return model.config.model_type not in WITHOUT_CACHE


def forward(model: PreTrainedModel, ids: torch.Tensor, name: str) -> torch.Tensor:
    """Run a model on token ids alone.

    Args:
        model: a loaded model.
        ids: ``[batch, tokens]``.
        name: what the message calls it.

    Returns:
        Its logits, ``[batch, tokens, vocabulary]``.

    Raises:
        InputError: the class fails, or gives something else.
    """
    import torch

    try:
        logits = model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # classes that need more than token ids fail in many ways
        if is_out_of_memory(error):
            raise
        kind = type(error).__name__
        raise InputError(
            f"{type(model).__name__} of {name} cannot be run on token ids as a causal language model "
            f"({kind}: {first_line(error)}); use another model, or set what its config.json lacks"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or logits.shape[:2] != ids.shape:
        raise InputError(f"{type(model).__name__} of {name} gives no logits for every token; use another model")
    return logits


def weights_type(device: str) -> Any:
    """Choose the data type in which a model is loaded to generate or to teach: ``auto`` is the checkpoint's own.

    On a CPU, and on GPUs that only emulate bfloat16, it is float32.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    import torch

    is_fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "auto" if is_fast else torch.float32
