"""From what a user names, a local folder or a Hub id, to a local folder."""

from __future__ import annotations

from pathlib import Path

from clp_core.errors import InputError
from clp_core.hub.download import fetch
from clp_core.hub.repo_id import HubName


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
