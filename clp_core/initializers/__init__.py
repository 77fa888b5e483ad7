"""The methods that fill missing rows. A new one is a new file here and one line in ``INITIALIZERS``."""

from clp_core.errors import InputError
from clp_core.initializers.base import Context, Fitted, Initializer
from clp_core.initializers.clp import Clp
from clp_core.initializers.linear import Linear
from clp_core.initializers.mean import Mean
from clp_core.initializers.random import Random

INITIALIZERS: dict[str, Initializer] = {method.name: method for method in (Clp(), Linear(), Mean(), Random())}


def initializer(name: str) -> Initializer:
    """Return the initializer of that name.

    Raises:
        InputError: there is none.
    """
    if name not in INITIALIZERS:
        raise InputError(f"method {name!r} is unknown; use one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]


__all__ = ["INITIALIZERS", "Context", "Fitted", "Initializer", "initializer"]
