"""Files that take their name once they are whole: a full disk or a kill leaves the old one, and nothing beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USUAL_RIGHTS = 0o666


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write, beside a file and with its ending; it replaces the file at the end.

    Args:
        path: the file; where it is a link, or no regular file such as ``/dev/stdout``, it is written in place.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        yield path
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    part = Path(name)
    try:
        os.fchmod(descriptor, path.stat().st_mode & 0o777 if path.exists() else USUAL_RIGHTS & ~current_umask())
        os.close(descriptor)
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written in the end, before long work is done for it.

    Raises:
        OSError: it could not.
    """
    try:
        with open(path, "ab") if path.exists() else tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        error.filename = str(path)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 by ``whole_file``."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def current_umask() -> int:
    """Return the rights that new files of this process are not to have."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
