"""What pages need of a model, made once: its tokenizer, its roles, and its embedding rows as memory-mapped arrays."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from clp_core.checkpoints.checkpoint import SIDES, Checkpoint
from clp_core.checkpoints.finite import CURE, rows_message
from clp_core.checkpoints.model_config import max_positions
from clp_core.checkpoints.safetensors_reader import DTYPES, TensorRows, content_of
from clp_core.embeddings.nearest import RowIndex, write_index
from clp_core.embeddings.pca import PrincipalAxes
from clp_core.embeddings.row_source import ArrayRows, block_ranges, non_finite_rows
from clp_core.errors import InputError, first_line, system_failure
from clp_core.files.disk import check_disk
from clp_core.files.hashing import fingerprint
from clp_core.files.json_files import read_json
from clp_core.progress import report_progress
from clp_core.tokenization.vocabulary import Vocabulary, token_ids
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

META_FILE = "meta.json"
VERSION = 7
"""Raised where the files of a prepared model change; what an older version left is made again."""


@dataclass(frozen=True)
class EmbeddingCache:
    """A prepared model in the cache.

    Attributes:
        path: its folder in the cache.
        meta: what is known of the model: folder, name, model_type, tied, dtype, width, n_parameters, content hash,
            ids of the tokens whose rows are not finite (``non_finite``, by side), ...
    """

    path: Path
    meta: dict[str, Any]

    @classmethod
    def find(cls, folder: Path, cache: Path) -> EmbeddingCache | None:
        """Return what was prepared for the present content of a folder; ``None`` where it is not there or damaged."""
        path = cache / fingerprint(folder)
        try:
            meta = read_json(path / META_FILE)
        except InputError:
            return None
        if meta.get("version") != VERSION or sizes_in(path) != meta.get("sizes"):
            return None
        return cls(path, meta | {"folder": str(folder.resolve()), "name": folder.name})  # it may have been moved since

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's vocabulary."""
        serialized = (self.path / "tokenizer.json").read_text(encoding="utf-8")
        found = Vocabulary.parse(serialized, read_json(self.path / "roles.json"), self.meta["name"])
        kept = dict(self.meta["tokenizer"])
        return replace(found, warnings=tuple(kept.pop("warnings")), **kept)

    def rows(self, side: str = "input") -> ArrayRows:
        """Return the rows of the ``input`` or ``output`` embedding, memory-mapped, in the checkpoint's data type."""
        file = "output.npy" if side == "output" and not self.meta["tied"] else "input.npy"
        array = array_in(self.path / file, is_mapped=True)
        return ArrayRows(array.view(DTYPES[self.meta["dtype"]]))

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Ids that hold a token and have a finite row, ascending: the only ones that can be compared."""
        return np.setdiff1d(token_ids(self.vocabulary, self.meta["rows"]), self.non_finite("input"))

    def non_finite(self, side: str = "input") -> np.ndarray:
        """Return the ids of tokens whose row of the ``input`` or ``output`` embedding is not finite, ascending."""
        own = "input" if self.meta["tied"] else side
        return np.array(self.meta["non_finite"][own], dtype=np.int64)

    @property
    def warnings(self) -> list[str]:
        """Notes on the tokenizer, and rows that are not finite; those of the input are left out of neighbours."""
        return [
            *self.meta["tokenizer"]["warnings"],
            *self._bad_rows,
        ]

    @property
    def _bad_rows(self) -> list[str]:
        return [
            f"{rows_message(ids, side, self.meta['name'], self.vocabulary)}"
            f"{' and left out' if side == 'input' else ''}: {CURE}"
            for side in SIDES[: 1 if self.meta["tied"] else 2]
            if len(ids := self.non_finite(side))
        ]

    @cached_property
    def norms(self) -> np.ndarray:
        """Length of every input row, float32 ``[rows]``."""
        return array_in(self.path / "norms.npy")

    @cached_property
    def pca(self) -> np.ndarray:
        """Every input row on the first two principal axes, float32 ``[rows, 2]``."""
        return array_in(self.path / "pca.npy")

    @cached_property
    def axes(self) -> PrincipalAxes:
        """The first two principal axes of the input rows."""
        return PrincipalAxes(array_in(self.path / "axes.npy"))

    @cached_property
    def index(self) -> RowIndex:
        """The input rows, ready for nearest neighbours."""
        return RowIndex.open(self.path / "index.faiss", self.token_ids, self.rows("input"))


def sizes_in(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of a prepared model: a crash or a copy may have cut some off."""
    return {path.name: path.stat().st_size for path in folder.glob("*") if path.name != META_FILE}


def array_in(path: Path, *, is_mapped: bool = False) -> np.ndarray:
    """Read an array of a prepared model.

    Raises:
        InputError: it is damaged.
    """
    try:
        found = np.load(path, mmap_mode="r" if is_mapped else None)
        if isinstance(found, np.ndarray):
            return found
        raise ValueError("it holds several arrays")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path} of the cache is damaged ({first_line(error)}); delete {path.parent} and open the model again"
        ) from error


def prepare(folder: Path, cache: Path) -> EmbeddingCache:
    """Write tokenizer, roles and embedding rows of a model into the cache, unless they are there.

    Raises:
        InputError: the folder is no model, or the disk is too full.
    """
    found = EmbeddingCache.find(folder, cache)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    name = fingerprint(folder)
    with FileLock(cache / f"{name}.lock"):
        found = EmbeddingCache.find(folder, cache)
        if found is not None:
            return found
        checkpoint = Checkpoint.open(folder)
        matrices = {side: checkpoint.rows(side) for side in checkpoint.sides}
        vocabulary = Vocabulary.open(folder)
        with contextlib.suppress(InputError):  # of a source, ordinary tokens without a row count as missing
            vocabulary = vocabulary.within(matrices["input"].shape[0])
        width = matrices["input"].shape[1]
        check_disk(cache, sum(rows.entry.n_bytes for rows in matrices.values()) + 2 * vocabulary.n_ids * width)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            for side, rows in matrices.items():
                report_progress(f"reading the {side} rows", 0.1)
                save_rows(rows, part / f"{side}.npy")
            tokens = token_ids(vocabulary, matrices["input"].shape[0])
            non_finite = {side: non_finite_rows(rows, tokens) for side, rows in matrices.items()}
            derive(matrices["input"], np.setdiff1d(tokens, non_finite["input"]), part)
            (part / "tokenizer.json").write_text(vocabulary.serialized, encoding="utf-8")
            roles = {f"{role}_token": vocabulary.tokens[i] for role, i in vocabulary.roles.items()}
            (part / "roles.json").write_text(json.dumps(roles | {"chat_template": vocabulary.has_chat_template}))
            config = checkpoint.config
            meta = {
                "version": VERSION,
                "sizes": sizes_in(part),
                "folder": str(folder.resolve()),
                "name": folder.name,
                "model_type": config.get("model_type"),
                "tied": checkpoint.names.tied,
                "dtype": matrices["input"].entry.dtype,
                "rows": matrices["input"].shape[0],
                "width": width,
                "n_parameters": checkpoint.n_parameters,
                "positions": max_positions(config),
                "content": content_of(matrices["input"]),
                "tokenizer": {
                    "warnings": list(vocabulary.warnings),
                    "differs": vocabulary.differs,
                    "splits_special_tokens": vocabulary.splits_special_tokens,
                },
                "non_finite": {side: ids.tolist() for side, ids in non_finite.items()},
            }
            (part / META_FILE).write_text(json.dumps(meta, indent=1))
            if (cache / name).exists():
                shutil.rmtree(cache / name)
            os.replace(part, cache / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return EmbeddingCache(cache / name, meta)


def leave_prepared(workspace: Workspace, output: str, *others: str) -> None:
    """Prepare a model that was just written, and those it came from, if it lies in the workspace."""
    if workspace.contains(Path(output)):
        for folder in (output, *others):
            prepare_if_room(Path(folder), workspace.cache)


def prepare_if_room(folder: Path, cache: Path) -> None:
    """Prepare a model after work that is done: what the cache cannot hold makes that work no failure."""
    try:
        prepare(folder, cache)
    except (InputError, OSError) as error:
        told = system_failure(error) if isinstance(error, OSError) else error
        log.warning("%s is written, but not prepared for the pages: %s", folder, told)


def derive(rows: TensorRows, ids: np.ndarray, folder: Path) -> None:
    """Write what pages ask of input rows: an index for neighbours, principal axes, and each row's length and place."""
    report_progress("making the neighbours' index", 0.4)
    write_index(rows, ids, folder / "index.faiss")
    report_progress("finding the principal axes", 0.7)
    axes = PrincipalAxes.of(rows, ids)
    norms = np.zeros(rows.shape[0], dtype=np.float32)
    places = np.zeros((rows.shape[0], 2), dtype=np.float32)
    for part in block_ranges(*rows.shape):
        block = rows.take(np.arange(part.start, part.stop))
        with np.errstate(over="ignore", invalid="ignore"):
            norms[part] = np.linalg.norm(block, axis=1)
        places[part] = axes.place(block)
    for name, array in (("norms", norms), ("pca", places), ("axes", axes.values)):
        np.save(folder / f"{name}.npy", array)


def save_rows(rows: TensorRows, path: Path) -> None:
    """Write rows as a ``.npy`` file block by block (bfloat16 as 16-bit words)."""
    width = rows.dtype.itemsize
    plain = np.dtype(np.uint16) if rows.entry.dtype == "BF16" else rows.dtype
    array = np.lib.format.open_memmap(path, mode="w+", dtype=plain, shape=rows.shape)
    for part in block_ranges(rows.shape[0], rows.shape[1] * width // 4 or 1):
        array[part] = rows.read(part.start, part.stop).view(plain)
    array.flush()
