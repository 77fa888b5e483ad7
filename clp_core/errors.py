"""The errors a user may see; each message says what is wrong and what to do."""


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


class JobError(ClpError):
    """A job that could not be started, found or finished."""
