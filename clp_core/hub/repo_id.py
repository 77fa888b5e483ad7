"""Names of models on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REVISION = re.compile(r"[\w.][\w./-]*")
SNAPSHOT = re.compile(r"/models--(?P<repo>[^/]+)/snapshots/(?P<revision>[^/]+)$")


@dataclass(frozen=True)
class HubName:
    """A model of the Hub: its id, and the revision that is meant, if one is named."""

    repo_id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """Read ``name``, ``org/name`` or ``org/name@revision``; ``None`` where a text is none of them."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        if text.startswith((".", "/", "~")):
            return None
        repo_id, at, revision = text.partition("@")
        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            return None
        if at and (not REVISION.fullmatch(revision) or ".." in revision):  # git allows no two dots either
            return None
        return cls(repo_id, revision or None)

    @classmethod
    def of_snapshot(cls, folder: Path) -> HubName | None:
        """Return which model of the Hub a folder is, or ``None`` where it does not lie in a Hub's cache."""
        found = SNAPSHOT.search(folder.as_posix())
        return cls(found["repo"].replace("--", "/"), found["revision"]) if found else None

    def __str__(self) -> str:
        """Return the text that names it."""
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


def is_hub_id(text: str) -> bool:
    """Say whether a text has the form of a Hub id: ``name`` or ``org/name``, with ``@revision`` where one is meant."""
    return HubName.parse(text) is not None
