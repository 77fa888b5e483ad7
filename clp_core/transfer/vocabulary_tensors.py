"""Tensors with an entry for each token besides the embeddings and the output layer's bias.

Such are a second copy of the bias (BERT's family), scales of the logits (Dory), and the experts to which a token goes
(DeepSeek V4's hash routing). Vectors of floats are made as the bias is, as one more column of the output rows. A table
of integers cannot be averaged: a new token takes the row of its nearest copied token in the helper.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.positions import LENGTHS
from clp_core.checkpoints.safetensors_reader import DTYPES, INTEGERS, TensorEntry, TensorRows
from clp_core.embeddings.nearest import nearest_unit, unit
from clp_core.embeddings.row_source import RowSource, block_ranges
from clp_core.errors import InputError
from clp_core.transfer.row_plan import RowPlan

MORE_ROWS = 64
"""By which a vocabulary is made longer to see which shapes follow it."""


@dataclass(frozen=True)
class VocabularyTensors:
    """Further tensors of a checkpoint with an entry for each token.

    Attributes:
        vectors: floats, ``[rows]``.
        tables: integers, ``[rows]`` or ``[rows, k]``.
    """

    vectors: tuple[TensorEntry, ...] = ()
    tables: tuple[TensorEntry, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> VocabularyTensors:
        """Find them among the tensors that transformers loads.

        Raises:
            InputError: there is one that no rule here fills.
        """
        names, rows, bias = checkpoint.names, checkpoint.entry("input").shape[0], checkpoint.output_bias()
        known = {checkpoint.entry(side).name for side in checkpoint.sides} | names.spare
        known |= {bias.entry.name} if bias else set()
        loaded = {parameter: one.tensors[0] for parameter, one in names.sources.items() if one.is_plain}
        alike = {
            parameter: checkpoint.entries[tensor]
            for parameter, tensor in {**loaded, **names.buffers}.items()
            if tensor not in known and rows in checkpoint.entries[tensor].shape
        }
        if not alike:
            return cls()
        follow = shapes_that_follow(checkpoint.config, rows)
        found = {entry.name: entry for parameter, entry in alike.items() if parameter in follow}.values()
        vectors = tuple(entry for entry in found if entry.dtype in DTYPES and entry.shape == (rows,))
        tables = tuple(entry for entry in found if entry.dtype in INTEGERS and entry.shape[0] == rows)
        for entry in found:
            if entry not in (*vectors, *tables):
                raise InputError(
                    f"{checkpoint.folder} has a further table by token id ({entry.name}), whose rows no method here "
                    "makes; this architecture is not supported"
                )
        return cls(vectors, tables)

    def columns(self) -> list[TensorRows]:
        """Return the vectors as rows of width 1."""
        return [TensorRows(replace(entry, shape=(entry.shape[0], 1))) for entry in self.vectors]


def tables_by_token_id(checkpoint: Checkpoint) -> list[str]:
    """Name the tables that no method fills, but not a table of positions that happens to have as many rows."""
    names = checkpoint.names
    text = checkpoint.config.get("text_config") or checkpoint.config
    lengths = {text.get(key) for key in LENGTHS}
    of_positions = [name for name in names.others if names.shapes[name][0] in lengths]
    follow = shapes_that_follow(checkpoint.config, names.shapes[names.input][0]) if of_positions else set()
    return [name for name in names.others if name not in of_positions or name in follow]


def shapes_that_follow(config: Mapping[str, Any], rows: int) -> set[str]:
    """Return the parameters and buffers of a model's class whose shape follows the vocabulary size.

    Args:
        config: content of config.json.
        rows: rows of its embeddings.
    """
    own, longer = (shapes(with_vocabulary(config, size)) for size in (rows, rows + MORE_ROWS))
    return {name for name, shape in own.items() if longer.get(name) != shape}


def with_vocabulary(config: Mapping[str, Any], size: int, *, nested: bool = False) -> dict[str, Any]:
    """Return a configuration with another vocabulary size, nested ones too."""
    changed = {
        name: with_vocabulary(value, size, nested=True) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    return changed if nested and "vocab_size" not in changed else changed | {"vocab_size": size}


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer of a configuration's class, built on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        parsed = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parsed, trust_remote_code=False)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def table_blocks(entry: TensorEntry, plan: RowPlan, helper: RowSource) -> Iterator[np.ndarray]:
    """Yield the target's rows of a table of integers.

    Copied tokens keep their row, a token made by hand takes that of its first source token, and a new one that of its
    nearest copied token in the helper by cosine. Rows that belong to no token are zeros.

    Args:
        entry: the source's table, ``[rows]`` or ``[rows, k]``.
        plan: what becomes of every row.
        helper: the helper's input rows.
    """
    table = read_table(entry)
    sources = plan.source_ids.copy()
    sources[list(plan.overrides)] = [ids[0] for ids in plan.overrides.values()]
    anchors = plan.overlap.ids
    base = unit(helper.take(anchors))
    for part in block_ranges(len(plan.missing_ids), helper.shape[1]):
        ids = plan.missing_ids[part]
        _, places = nearest_unit(unit(helper.take(ids)), base, 1)
        sources[ids] = plan.overlap.source_ids[anchors[places[:, 0]]]
    rows = table[np.maximum(sources, 0)]
    rows[sources < 0] = 0
    yield rows


def read_table(entry: TensorEntry) -> np.ndarray:
    """Read a tensor of integers whole."""
    data = np.fromfile(entry.path, dtype=np.uint8, count=entry.n_bytes, offset=entry.start)
    return data.view(INTEGERS[entry.dtype]).reshape(entry.shape)
