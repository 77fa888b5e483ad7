"""From what a user names, a local folder or a Hub id, to a local folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from clp_core.errors import InputError

log = logging.getLogger(__name__)

TOKENIZER_PATTERNS = ["*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja"]
WEIGHT_PATTERNS = ["*.safetensors"]
PICKLE_PATTERNS = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def locate(reference: str | Path, *, weights: bool = True) -> Path:
    """Return the local folder of a model or tokenizer.

    Args:
        reference: a folder, or a Hub id such as ``org/name`` (downloaded into the Hub's own cache).
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
    if not is_hub_id(text):
        raise InputError(f"there is no folder {text}; check the path, or give a Hub id such as org/name")
    return fetch_from_hub(text, weights=weights)


def is_hub_id(text: str) -> bool:
    """Say whether a text has the form of a Hub id (``name`` or ``org/name``)."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if text.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def fetch_from_hub(repo_id: str, *, weights: bool) -> Path:
    """Download a model (or only its tokenizer and configuration) into the Hub's cache.

    Raises:
        InputError: the Hub cannot be reached, has no such model, or wants an account for it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = TOKENIZER_PATTERNS + (WEIGHT_PATTERNS if weights else [])
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=patterns))
        if weights and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo_id, allow_patterns=patterns + PICKLE_PATTERNS))
        return folder
    except GatedRepoError as error:
        raise InputError(f"{repo_id} is gated: accept its terms on the Hub and run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"the Hub has no model {repo_id} that is open to you; check the spelling") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{repo_id} is no folder here, and the Hub could not be reached to fetch it; "
            "check the spelling or the network, or give a local folder"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one where there is no such file.

    Raises:
        InputError: the file is there but is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; fetch the file again")
    return data
