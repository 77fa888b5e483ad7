"""The errors a user may see; each message says what is wrong and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

FULL = os.strerror(errno.ENOSPC)
"""What the system says where the disk is full; libraries in Rust pass it on in their own errors."""


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file system that takes no more."""


class ClpError(Exception):
    """Base of all errors that are told to the user in one line."""

    exit_code = 1


class InputError(ClpError):
    """An argument, a file or a model that cannot be used as it is."""

    exit_code = 2


class DivergedError(ClpError):
    """The loss or its gradient is not a finite number any more."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says anything, else the error's kind."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_panic(error: BaseException) -> bool:
    """Say whether an error is the panic of a library in Rust, such as tokenizers; it is no ``Exception``."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic into an ``Exception``, where any failure of a library has the same consequence.

    Raises:
        RuntimeError: a library in Rust has panicked.
    """
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            raise RuntimeError(first_line(error)) from error
        raise


def library_failure(error: BaseException) -> str:
    """Describe an error of the tokenizers library, which raises plain ``Exception`` or panics; empty for any other."""
    if type(error) is not Exception and not is_panic(error):
        return ""
    if FULL in str(error):
        return f"{first_line(error)}; make room and run it again"
    return f"a library failed: {first_line(error)}; where it names text or tokens, check the model's tokenizer.json"


def system_failure(error: OSError) -> str:
    """Describe an error of the operating system in one line: what failed, on which file, and what to do."""
    told = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        told = str(error.args[0][0][-1])  # of a copied folder: source, copy and reason for each file
    return told + ("; make room and run it again" if FULL in told else "")


class JobError(ClpError):
    """A job that could not be started, found or finished."""
