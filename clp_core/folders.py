"""Folders on disk: what is in one, whether one may be written, whether there is room."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from clp_core.errors import InputError
from clp_core.locate import read_json

MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
CONFIG_FILE = "config.json"
WEIGHT_KINDS = (("model.safetensors", "model.safetensors.index.json"),
                ("pytorch_model.bin", "pytorch_model.bin.index.json"))  # fmt: skip
"""Names of single weight files and of indices, in the order in which transformers looks for them."""
SAMPLES, SAMPLE_BYTES = 8, 4096
"""Blocks of a file that a fingerprint reads, and their size; a file of that size or less is read whole."""
FINGERPRINT_BYTES = 16


def fingerprint(folder: Path) -> str:
    """Name the present content of a model folder, wherever it lies: a moved workspace keeps its cache.

    The name is a hash of the files' names, sizes, modification times and a few blocks of each; times alone would not
    do, as images and archives set them all alike.
    """
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for path in sorted(folder.glob("*")):
        if path.suffix in MODEL_SUFFIXES and path.is_file():
            status = path.stat()
            digest.update(f"\n{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            last = max(0, status.st_size - SAMPLE_BYTES)
            with open(path, "rb", buffering=0) as file:
                for start in sorted({i * last // (SAMPLES - 1) for i in range(SAMPLES)}):
                    file.seek(start)
                    digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def has_changed(folder: Path, before: str) -> bool:
    """Say whether a folder differs from what its earlier fingerprint named.

    One of another form, which an earlier version wrote, cannot be compared and counts as unchanged.
    """
    return len(before) == 2 * FINGERPRINT_BYTES and fingerprint(folder) != before


def content_of(path: Path) -> str:
    """Return a hash of a file's bytes: scores on texts of the same content can be compared."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Weights:
    """The weight files of a folder that transformers loads.

    Attributes:
        files: in the order in which they are read; a tensor that several hold is that of the last.
        index: the index that names them, or ``None`` for a single file.
        is_pickled: whether they are pickles.
    """

    files: tuple[Path, ...]
    index: Path | None
    is_pickled: bool


def chosen_weights(folder: Path) -> Weights | None:
    """Choose the weight files of a folder as ``from_pretrained`` of transformers does, ``None`` where it has none.

    The order is that of ``_get_resolved_checkpoint_files``: the file that config.json names as
    ``transformers_weights``, then a single safetensors file, an index of safetensors files, a single pickle, an index
    of pickles. So an index beside a single file is not used.

    Raises:
        InputError: a file is named that is not there or not in the folder, or an index is not valid.
    """
    if not folder.is_dir():
        return None
    if explicit := read_json(folder / CONFIG_FILE).get("transformers_weights"):
        return explicit_weights(folder, str(explicit))
    for single, index in WEIGHT_KINDS:
        if (folder / single).is_file():
            return Weights((folder / single,), None, single.endswith(".bin"))
        if (folder / index).is_file():
            return Weights(indexed_files(folder / index), folder / index, single.endswith(".bin"))
    return None


def explicit_weights(folder: Path, name: str) -> Weights:
    """Return the weight files that config.json names as ``transformers_weights``.

    Raises:
        InputError: the file is not there, not in the folder, or neither a safetensors file nor an index of such files.
    """
    path = inside_folder(folder, name, CONFIG_FILE)
    if not name.endswith((".safetensors", ".safetensors.index.json")):
        raise InputError(
            f"{folder / CONFIG_FILE} names {name} as transformers_weights, which is neither a safetensors file nor an "
            "index of such files; correct the entry"
        )
    if not path.is_file():
        raise InputError(f"{folder} lacks {name}, which its config.json names; fetch the model again")
    return Weights((path,), None, False) if name.endswith(".safetensors") else Weights(indexed_files(path), path, False)


def indexed_files(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, in the order of their names.

    Raises:
        InputError: the index is not valid, or names a file that is not there or not in its folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{index} holds no weight_map; fetch the file again")
    paths = [inside_folder(index.parent, name, index.name) for name in sorted(set(weight_map.values()))]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise InputError(f"{index.parent} lacks {absent[0]}, which its index names; fetch the model again")
    return tuple(paths)


def inside_folder(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file that a configuration names.

    Raises:
        InputError: it does not lie in the folder.
    """
    path = folder / name
    if not os.path.abspath(path).startswith(os.path.abspath(folder) + os.sep):
        raise InputError(f"{folder / where} names {name}, which does not lie in its folder; correct the entry")
    return path


def refuse_if_inside(output: Path, *inputs: Path) -> None:
    """Refuse an output that is one of the inputs or a folder above one.

    Raises:
        InputError: it is.
    """
    wanted = output.expanduser().resolve()
    for folder in inputs:
        resolved = folder.resolve()
        if wanted == resolved or wanted in resolved.parents:
            raise InputError(f"{output} holds {folder}, which is read here; choose another output folder")


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to start writing what the disk cannot hold.

    Args:
        folder: where it goes; its nearest existing parent is asked.
        needed: bytes.

    Raises:
        InputError: fewer bytes are free.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        scale, unit = (1e9, "GB") if needed >= 1e9 else (1e6, "MB")
        raise InputError(
            f"{folder} needs {needed / scale:.1f} {unit}, {free / scale:.1f} {unit} free; make room or choose another "
            "folder"
        )
