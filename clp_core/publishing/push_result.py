"""What a push did, or a dry run would do, as ``clp push --json`` prints it and pages read it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clp_core.files.typed_json import typed


@dataclass(frozen=True)
class FileSize:
    """A file of the repository with its size in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class LeftOut:
    """A file of the folder that is not pushed, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class PushResult:
    """What is in a repository after a push, or would be.

    Attributes:
        repo: ``owner/name``.
        visibility: ``private`` or ``public``.
        exists: whether the repository is there; ``None`` where that cannot be seen.
        user: who is logged in here, empty if nobody.
        licence: under which the model is given on, ``None`` where none is stated.
        files: what is pushed.
        bytes: of all files together.
        left_out: files of the folder that are not pushed.
        removed: files of the repository that go.
        problems: why it cannot be pushed as it is.
        notes: what a user should know beside the list of files.
        card: the whole README.md.
        dry_run: whether nothing was pushed.
        url: of the repository; ``None`` in a dry run, as is ``commit``.
        commit: its id.
    """

    repo: str
    visibility: str
    exists: bool | None
    user: str
    licence: str | None
    files: tuple[FileSize, ...]
    bytes: int
    left_out: tuple[LeftOut, ...]
    removed: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    card: str
    dry_run: bool
    url: str | None = None
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``clp push --json`` prints."""
        return asdict(self)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> PushResult:
        """Read a result.

        Raises:
            ValueError: an entry is missing or of another kind; the text is its name.
        """
        found = typed(cls, content)
        if not found.dry_run and found.url is None:
            raise ValueError("url")
        return found
