"""Fields of the option dataclasses: one definition makes the command line, the page's form and the job's spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

MISSING: Any = dataclasses.MISSING


def option(
    default: Any = MISSING,
    *,
    help: str,
    choices: Sequence[str] = (),
    minimum: float | None = None,
) -> Any:
    """Return a dataclass field with what a form needs to know of it.

    Args:
        default: the default; without one the field must be given.
        help: one line that says what it means and does.
        choices: the values it may have, if these can be listed.
        minimum: the smallest number it may be.
    """
    metadata = {"help": help, "choices": tuple(choices), "minimum": minimum}
    return dataclasses.field(default=default, metadata=metadata)


def help_of(options: type, name: str) -> str:
    """Return the help line of a field."""
    found = next(item for item in dataclasses.fields(options) if item.name == name)
    return str(found.metadata["help"])


def arguments_of(options: Any) -> list[str]:
    """Return the command-line arguments that give these options; what equals its default is left out."""
    arguments: list[str] = []
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if item.default is not MISSING and value == item.default:
            continue
        flag = "--" + item.name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(flag)
        elif isinstance(value, tuple):
            for part in value:
                arguments += [flag, str(part)]
        else:
            arguments += [flag, str(value)]
    return arguments
