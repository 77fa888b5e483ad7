"""What the Hub's client raises, as one plain line; and the patience that an overloaded Hub wants."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from clp_core.errors import ClpError, InputError, first_line

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0)
"""Seconds before an answer that may be another in a moment is asked for again."""
WORTH_ASKING_AGAIN = (408, 429, 500, 502, 503, 504)


def patiently(call: Callable[[], T]) -> T:
    """Call the Hub; where it is overloaded, ask again after a while."""
    for wait in WAITS_S:
        try:
            return call()
        except Exception as error:
            if status_of(error) not in WORTH_ASKING_AGAIN:
                raise
            log.info("the Hub answers %d; asked again in %.0f s", status_of(error), wait)
            time.sleep(wait)
    return call()


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an answer that came as an error, or that was its cause; 0 where there was no answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def is_broken_off(error: BaseException) -> bool:
    """Say whether an error is that of a connection: none came about, or it ended or fell silent."""
    from huggingface_hub import errors

    # The client's own HTTP library is another one in each of its versions; this is its base class in all of them.
    return isinstance(error, errors.HTTPError) and not status_of(error)  # type: ignore[attr-defined]


def is_unreachable(error: BaseException) -> bool:
    """Say whether the Hub could not be asked, or could not answer."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled) or is_broken_off(error) or status_of(error) >= 500


@contextlib.contextmanager
def explained(name: str, doing: str = "fetched", kind: str = "model") -> Iterator[None]:
    """Turn what the client raises into one plain line.

    Args:
        name: what it is about.
        doing: ``fetched`` or ``pushed``.
        kind: ``model`` or ``dataset``.

    Raises:
        InputError: what is asked for is not there, or not for this user, or does not fit.
        ClpError: the Hub or the network failed.
    """
    try:
        yield
    except ClpError:
        raise
    except Exception as error:
        inner = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of an upload
        told = refusal(inner, name, kind) or failure(inner, name, doing)
        if told is None:
            raise
        raise told from error


def refusal(error: BaseException, name: str, kind: str = "model") -> ClpError | None:
    """Return what an answer of the Hub means that will be the same the next time, or ``None`` for other errors."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    told = None
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError, so it comes first
        page = page_of(f"datasets/{name}" if kind == "dataset" else name)
        told = f"{name} is gated: {gate_told(error)} ({page})"
    elif isinstance(error, RevisionNotFoundError):
        told = f"{name}: the Hub has the {kind}, but not that revision; check what follows the @"
    elif isinstance(error, DisabledRepoError):
        told = f"{name} is disabled on the Hub; choose another {kind}"
    elif isinstance(error, RepositoryNotFoundError):
        told = f"the Hub has no {kind} {name} that is open to you; {login_told()}"
    elif status_of(error) in (401, 403):
        told = f"the Hub refuses {name} to your token; check its rights, or run `hf auth login` again"
    return InputError(told) if told else None


def failure(error: BaseException, name: str, doing: str) -> ClpError | None:
    """Return what an error means that may be gone the next time, or ``None`` for one that is not of the Hub."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    from clp_core.files.disk import is_full_disk

    kept = "whole files are kept: run it again" if doing == "fetched" else "run it again to go on"
    text = str(error)
    told: ClpError | None = None
    if status_of(error):
        told = ClpError(f"the Hub answers {status_of(error)} for {name} ({first_line(error)}); try again later")
    elif is_full_disk(error, text):
        told = InputError(f"the disk is full: {name} does not fit; make room, or set HF_HOME to a larger disk")
    elif isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError) or type(error).__name__ == "ConnectError":
        no_folder = " is no folder here, and it" if doing == "fetched" else ""
        told = InputError(
            f"{name}{no_folder} cannot be {doing}: the Hub could not be reached; check the spelling or the network"
            + (", or give a local folder" if doing == "fetched" else "")
        )
    elif is_broken_off(error) and "Timeout" in type(error).__name__:
        told = ClpError(f"the Hub did not answer in time while {name} was {doing}; {kept}")
    elif is_broken_off(error) or "Consistency check failed" in text:
        told = ClpError(f"the connection broke while {name} was {doing}; {kept}")
    return told


def page_of(name: str) -> str:
    """Return the address of a model's page."""
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/{name.partition('@')[0]}"


def gate_told(error: BaseException) -> str:
    """Return what to do about a gate: log in first, or ask for access."""
    if status_of(error) == 401 or not has_token():
        return "accept its terms on its page, then run `hf auth login`"
    return "your account has no access yet, or your token no right to gated models; ask for it on its page"


def login_told() -> str:
    """Return what to do about a model that is not to be seen."""
    if has_token():
        return "check the spelling; if it is private, your account or token has no access"
    return "check the spelling; if it is private, run `hf auth login`"


def has_token() -> bool:
    """Say whether somebody is logged in on the Hub here."""
    from huggingface_hub import get_token

    return bool(get_token())
