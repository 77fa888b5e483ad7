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


def restore_replaced(output: Path) -> None:
    """Put back a model that an overwriting transfer had moved aside when it was killed."""
    for aside in output.parent.glob(f".{output.name}.replaced-*"):
        if (aside / "old").is_dir() and not output.exists():
            log.warning("%s was moved aside by a transfer that was killed; it is put back", output)
            os.rename(aside / "old", output)
        with contextlib.suppress(OSError):
            aside.rmdir()


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
    for old in output.parent.glob(f".{output.name}.partial-*"):
        if (old / LOCK_FILE).is_file():
            with contextlib.suppress(Timeout, OSError), FileLock(old / LOCK_FILE, timeout=0):
                shutil.rmtree(old, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
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
    """Give a finished folder its name; one that may be replaced is moved aside first and removed last.

    Raises:
        InputError: another one has taken the name in the meantime.
    """
    if not overwrite:
        try:
            os.rename(part, output)
        except OSError as error:
            raise InputError(f"{output} came to be in the meantime and is kept; choose another name") from error
        return
    if not output.exists():
        os.rename(part, output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
    os.rename(output, aside / "old")
    try:
        os.rename(part, output)
    except BaseException as error:  # an interrupt, too, must not lose the old model
        if not output.exists():
            os.rename(aside / "old", output)
        if isinstance(error, OSError):
            raise ClpError(f"{output} could not take its name: {error}") from error
        raise
    finally:
        if (aside / "old").exists() and output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rmdir()
