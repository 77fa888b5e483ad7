"""From what a user names, a local folder or a Hub id, to a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.hub import HubName, fetch
from clp_core.json_reading import read_json_file


def locate(reference: str | Path, *, weights: bool = True) -> Path:
    """Return the local folder of a model or tokenizer.

    Args:
        reference: a folder, or a Hub id such as ``org/name`` or ``org/name@revision`` (fetched into the Hub's own
            cache).
        weights: whether the weights are wanted as well as the tokenizer and the configuration.

    Raises:
        InputError: no such folder, and no model of that name can be fetched.
    """
    text = str(reference).strip()
    if not text:
        raise InputError("no model is named; give a folder or a Hub id such as org/name")
    if "\0" in text:
        raise InputError("a model's name cannot hold a NUL byte")
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise InputError(f"{text} is a file; name the folder that holds the model")
    name = HubName.parse(text)
    if name is None:
        raise InputError(f"there is no folder {text}; check the path, or give a Hub id such as org/name")
    return fetch(name, weights=weights)


def is_hub_id(text: str) -> bool:
    """Say whether a text has the form of a Hub id: ``name`` or ``org/name``, with ``@revision`` where one is meant."""
    return HubName.parse(text) is not None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one where there is no such file.

    Raises:
        InputError: the file is there but is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = read_json_file(path)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; fetch the file again")
    return data
