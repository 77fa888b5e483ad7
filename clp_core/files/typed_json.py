"""Typed results out of JSON: the kinds of all entries are checked by pydantic, as a dataclass declares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def typed(kind: type[T], content: Any, *, none_is_absent: bool = False) -> T:
    """Make an instance of a dataclass from parsed JSON; entries that it does not declare are passed over.

    Args:
        kind: a dataclass whose fields, nested ones too, are of types that JSON has.
        content: what a JSON file holds. A text is not read as a number, nor ``true`` as 1.
        none_is_absent: whether an entry that is null counts as one that is not there, and has its default.

    Raises:
        ValueError: an entry without a default is missing, or one is of another kind; the text is its name, with dots
            between the names on the way to it, and empty for the content as a whole.
    """
    from pydantic import ValidationError

    if none_is_absent and isinstance(content, Mapping):
        content = {name: value for name, value in content.items() if value is not None}
    try:
        found: T = adapter(cast(Any, kind)).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise ValueError(".".join(str(part) for part in error.errors()[0]["loc"])) from error
    return found


@lru_cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what checks the entries of a dataclass; pydantic is imported for it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
