"""The weight files of a model folder: those that transformers loads, in its order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clp_core.errors import InputError
from clp_core.files.json_files import read_json

CONFIG_FILE = "config.json"
WEIGHT_KINDS = (("model.safetensors", "model.safetensors.index.json"),
                ("pytorch_model.bin", "pytorch_model.bin.index.json"))  # fmt: skip
"""Names of single weight files and of indices, in the order in which transformers looks for them."""


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


def checkpoint_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder, in the order of their names; none where transformers loads none.

    Raises:
        InputError: the index is not valid, or names a file that is not there.
    """
    weights = chosen_weights(folder)
    return weights.files if weights is not None and not weights.is_pickled else ()


def pickled_files(folder: Path) -> tuple[Path, ...]:
    """Return the pickled weight files of a folder, in the order of their names; none where transformers loads none.

    Raises:
        InputError: the index is not valid, or names a file that is not there.
    """
    weights = chosen_weights(folder)
    return weights.files if weights is not None and weights.is_pickled else ()
