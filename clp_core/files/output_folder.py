"""The folder that a transfer writes: made beside its place, and given its name only when it is whole."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clp_core.errors import ClpError, InputError

log = logging.getLogger(__name__)

LOCK_FILE = ".writing"
OLD = "old"
"""Name of a replaced folder while it is aside."""


def restore_replaced(output: Path) -> None:
    """Put back a model that an overwriting transfer had moved aside when it was killed.

    One that still lives holds the lock of the folder it is about to rename, and is left alone.
    """
    for removed in output.parent.glob(f".{output.name}.removed-*"):
        shutil.rmtree(removed, ignore_errors=True)
    for aside in output.parent.glob(f"{aside_prefix(output)}*"):
        if is_being_written(output.parent / f"{part_prefix(output)}{aside.name.removeprefix(aside_prefix(output))}"):
            continue
        with contextlib.suppress(OSError):  # another process has put it back, or given the name to a new model
            if (aside / OLD).is_dir() and not output.exists():
                os.rename(aside / OLD, output)
                log.warning("%s was moved aside by a transfer that was killed; it is put back", output)
            aside.rmdir()


def part_prefix(output: Path) -> str:
    """Return what the names of the temporary folders of an output begin with."""
    return f".{output.name}.partial-"


def aside_prefix(output: Path) -> str:
    """Return what the names of folders begin with that hold an output while it is replaced.

    What follows is that of the temporary folder that replaces it, whose lock says whether the writer lives.
    """
    return f".{output.name}.replaced-"


def is_being_written(part: Path) -> bool:
    """Say whether a living process writes a temporary folder."""
    if not (part / LOCK_FILE).is_file():
        return False
    try:
        with FileLock(part / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it has just taken its name
        return False


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that would lose something.

    Raises:
        InputError: it exists and ``overwrite`` is off, or it is a file, or holds something else than a model.
    """
    if output.exists() and not overwrite:
        raise InputError(f"{output} exists and is kept; choose another --output, or add --overwrite")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; choose another --output")
    if output.exists() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise InputError(f"{output} holds files but no model, so it is not replaced; choose another --output")


@contextlib.contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside the output, locked while it is written and removed unless it takes its name.

    Folders of that kind whose writer was killed are removed first.
    """
    for old in output.parent.glob(f"{part_prefix(output)}*"):
        if (old / LOCK_FILE).is_file():
            with contextlib.suppress(Timeout, OSError), FileLock(old / LOCK_FILE, timeout=0):
                shutil.rmtree(old, ignore_errors=True)
    try:
        part = Path(tempfile.mkdtemp(prefix=part_prefix(output), dir=output.parent))
    except OSError as error:
        error.filename = str(output)  # the name that the user knows
        raise
    lock = FileLock(part / LOCK_FILE)
    lock.acquire()
    try:
        part.chmod(0o755)
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        lock.release()
        (output / LOCK_FILE).unlink(missing_ok=True)


def take_name(part: Path, output: Path, overwrite: bool) -> None:
    """Give the finished folder of ``partial_folder`` its name; one that may be replaced is moved aside, removed last.

    Raises:
        InputError: another one has taken the name in the meantime.
    """
    if overwrite and output.exists():
        replace_folder(part, output)
        return
    try:
        os.rename(part, output)
    except OSError as error:
        raise InputError(f"{output} came to be in the meantime and is kept; choose another name") from error


def replace_folder(part: Path, output: Path) -> None:
    """Move a folder aside, give its name to another, and remove it.

    Raises:
        ClpError: the name cannot be taken; the old folder has it again.
    """
    suffix = part.name.removeprefix(part_prefix(output))
    aside = output.parent / f"{aside_prefix(output)}{suffix}"
    removed = output.parent / f".{output.name}.removed-{suffix}"
    aside.mkdir()
    try:
        os.rename(output, aside / OLD)
        os.rename(part, output)
    except BaseException as error:  # an interrupt, too, must not lose the old model
        if not output.exists() and (aside / OLD).is_dir():
            os.rename(aside / OLD, output)
        if isinstance(error, OSError):
            raise ClpError(f"{output} could not take its name: {error}; run it again") from error
        raise
    finally:
        if (aside / OLD).exists() and output.exists():
            os.rename(aside, removed)
            shutil.rmtree(removed, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rmdir()
