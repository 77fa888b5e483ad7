"""Arguments as users give them, on the command line and in forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clp_core.errors import InputError


def refuse_undecodable(arguments: Iterable[tuple[str, str]]) -> None:
    """Refuse bytes that are not UTF-8, such as file names in Latin-1: no report or job file could hold them.

    Args:
        arguments: name, which may be empty, and value of each.

    Raises:
        InputError: there are some; the first argument is named.
    """
    for name, value in arguments:
        shown = value.encode("utf-8", "backslashreplace").decode()
        if shown != value:
            raise InputError(
                f"{f'{name} ' if name else ''}{shown} holds bytes that are not UTF-8, which reports and jobs cannot "
                "hold; rename the file or folder (mv) and give the new name"
            )


def named_values(options: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield each value of options, of lists each item, with the flag it belongs to."""
    for name, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            yield f"--{name.replace('_', '-')}", str(each)


def named_words(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield each word of a command line with the flag before it, if there is one."""
    for before, word in zip(["", *words], words, strict=False):
        yield before if before.startswith("--") else "", word
