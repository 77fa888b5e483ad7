"""What pages need of a model, made once: its tokenizer, its roles, and its embedding rows as memory-mapped arrays."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from clp_core.checkpoint import Checkpoint
from clp_core.folders import check_disk, fingerprint
from clp_core.locate import read_json
from clp_core.tensors import DTYPES, ArrayRows, TensorRows, block_ranges, content_of
from clp_core.vocabulary import Vocabulary
from clp_core.workspace import Workspace

META_FILE = "meta.json"


@dataclass(frozen=True)
class Prepared:
    """A prepared model in the cache.

    Attributes:
        path: its folder in the cache.
        meta: what is known of the model: folder, name, model_type, tied, dtype, width, n_parameters, content hash, ...
    """

    path: Path
    meta: dict[str, Any]

    @classmethod
    def find(cls, folder: Path, cache: Path) -> Prepared | None:
        """Return what was prepared for the present content of a folder, or ``None``."""
        path = cache / fingerprint(folder)
        meta = read_json(path / META_FILE)
        return cls(path, meta) if meta else None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's vocabulary."""
        serialized = (self.path / "tokenizer.json").read_text(encoding="utf-8")
        return Vocabulary.parse(serialized, read_json(self.path / "roles.json"), self.meta["name"])

    def rows(self, side: str = "input") -> ArrayRows:
        """Return the rows of the ``input`` or ``output`` embedding, memory-mapped, in the checkpoint's data type."""
        file = "output.npy" if side == "output" and not self.meta["tied"] else "input.npy"
        array = np.load(self.path / file, mmap_mode="r")
        return ArrayRows(array.view(DTYPES[self.meta["dtype"]]))


def prepare(folder: Path, cache: Path) -> Prepared:
    """Write tokenizer, roles and embedding rows of a model into the cache, unless they are there.

    Raises:
        InputError: the folder is no model, or the disk is too full.
    """
    found = Prepared.find(folder, cache)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    name = fingerprint(folder)
    with FileLock(cache / f"{name}.lock"):
        found = Prepared.find(folder, cache)
        if found is not None:
            return found
        checkpoint = Checkpoint.open(folder)
        vocabulary = Vocabulary.open(folder)
        matrices = {side: checkpoint.rows(side) for side in checkpoint.sides}
        check_disk(cache, sum(rows.entry.n_bytes for rows in matrices.values()))
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            for side, rows in matrices.items():
                save_rows(rows, part / f"{side}.npy")
            (part / "tokenizer.json").write_text(vocabulary.serialized, encoding="utf-8")
            roles = {f"{role}_token": vocabulary.tokens[i] for role, i in vocabulary.roles.items()}
            (part / "roles.json").write_text(json.dumps(roles | {"chat_template": vocabulary.has_chat_template}))
            config = checkpoint.config
            meta = {
                "folder": str(folder.resolve()),
                "name": folder.name,
                "model_type": config.get("model_type"),
                "tied": checkpoint.names.tied,
                "dtype": matrices["input"].entry.dtype,
                "rows": matrices["input"].shape[0],
                "width": matrices["input"].shape[1],
                "n_parameters": checkpoint.n_parameters,
                "positions": max_positions(config),
                "content": content_of(matrices["input"]),
            }
            (part / META_FILE).write_text(json.dumps(meta, indent=1))
            os.replace(part, cache / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return Prepared(cache / name, meta)


def leave_prepared(workspace: Workspace, output: str, *others: str) -> None:
    """Prepare a model that was just written, and those it came from, if it lies in the workspace."""
    if workspace.contains(Path(output)):
        for folder in (output, *others):
            prepare(Path(folder), workspace.cache)


def save_rows(rows: TensorRows, path: Path) -> None:
    """Write rows as a ``.npy`` file block by block (bfloat16 as 16-bit words)."""
    width = rows.dtype.itemsize
    plain = np.dtype(np.uint16) if rows.entry.dtype == "BF16" else rows.dtype
    array = np.lib.format.open_memmap(path, mode="w+", dtype=plain, shape=rows.shape)
    for part in block_ranges(rows.shape[0], rows.shape[1] * width // 4 or 1):
        array[part] = rows.read(part.start, part.stop).view(plain)
    array.flush()


def max_positions(config: dict[str, Any]) -> int | None:
    """Return the longest input of a model by its configuration, or ``None`` where it states none."""
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = config.get(key)
        if isinstance(value, int):
            return value
    inner = config.get("text_config")
    return max_positions(inner) if isinstance(inner, dict) else None
