"""Where the web app may read: the workspace, the Hub's cache, and the folders that ``CLP_ROOTS`` names.

On the command line a user has the rights of the shell. A page takes names from addresses and forms, so it is confined.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from clp_core.errors import InputError
from clp_core.workspace import Workspace

ENVIRONMENT = "CLP_ROOTS"


class OutsideError(InputError):
    """A path that pages may not read."""


def allowed_roots(workspace: Workspace) -> list[Path]:
    """Return the folders that pages may read in, links followed."""
    from huggingface_hub.constants import HF_HUB_CACHE

    named = [Path(part).expanduser() for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    return [path.resolve() for path in (workspace.root, Path(HF_HUB_CACHE), *named)]


def links_in(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield the links in a folder, and in those below it too if ``deep``; linked folders are not entered."""
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place) / name).is_symlink())
        if not deep:
            return


def confined(path: str | Path, workspace: Workspace, *, deep: bool = False) -> Path:
    """Return a path with its links followed, if it and the files in it lie where pages may read.

    Args:
        path: a file or a folder; of a folder, the links directly in it are checked too.
        workspace: the workspace.
        deep: also check the links in folders below it, for readers that go there, as those of texts do.

    Raises:
        OutsideError: they do not, or the path holds ``..`` or a NUL byte.
    """
    text = str(path)
    if "\0" in text:
        raise OutsideError("a path cannot hold a NUL byte")
    if ".." in Path(text).parts:
        raise OutsideError(f"{text} holds '..'; name the folder itself")
    try:
        found = Path(text).expanduser()
        resolved = found.resolve()
    except (RuntimeError, OSError) as error:  # an unknown user, a name that is too long, links in a circle
        raise OutsideError(f"{text[:100]} is no path here: {error}") from error
    roots = allowed_roots(workspace)
    for inner in [found, *links_in(resolved, deep=deep)]:
        target = inner.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            where = f"{inner} is a link to {target}, which" if inner.is_symlink() else f"{inner}"
            raise OutsideError(
                f"{where} is outside of the workspace, the Hub's cache and the folders in {ENVIRONMENT}; "
                f"copy it to {workspace.root}, or start the app with {ENVIRONMENT}={target.parent}"
            )
    return resolved
