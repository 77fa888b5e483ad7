"""A whole model with random weights, as its class draws them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.environment.free_memory import free_memory
from clp_core.errors import InputError
from clp_core.progress import report_progress

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_random_model(folder: Path, config: Mapping[str, Any], dtype: str, seed: int) -> dict[str, np.ndarray]:
    """Write weights and config.json of a model whose weights are all drawn anew; the same for one seed.

    Args:
        folder: an existing folder.
        config: content of config.json.
        dtype: data type of the weights, as safetensors names it.
        seed: of torch's generator.

    Returns:
        Length of each row of the ``input`` and the ``output`` embedding, ``[rows]``.

    Raises:
        InputError: the model does not fit in memory.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    content = json.dumps(dict(config), indent=2) + "\n"
    (folder / "config.json").write_text(content)
    parsed = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(parsed).parameters())
    free = free_memory()
    if 4 * n_parameters > free:
        raise InputError(
            f"scratch draws the whole model in memory: {4 * n_parameters / 1e9:.1f} GB are needed, "
            f"{free / 1e9:.1f} GB are free"
        )
    report_progress("drawing random weights")
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(parsed, dtype=torch.float32)
    finally:
        torch.random.set_rng_state(state)
    model.to(getattr(torch, TORCH_NAMES[dtype]))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(content)
    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    if layers["output"].weight is layers["input"].weight:
        layers.pop("output")
    return {side: np.asarray(layer.weight.detach().double().norm(dim=1).numpy()) for side, layer in layers.items()}
