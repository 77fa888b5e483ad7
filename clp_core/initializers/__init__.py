"""The methods that fill the missing rows. A new one is a new file here and one line in ``INITIALIZERS``."""

from clp_core.errors import InputError
from clp_core.initializers.base import Context, Fitted, Initializer, Mix, Pieces, Top, Vectors, parse_settings
from clp_core.initializers.clp import Clp
from clp_core.initializers.linear import Linear
from clp_core.initializers.mean import Mean
from clp_core.initializers.omp import Omp
from clp_core.initializers.random import Random
from clp_core.initializers.scratch import Scratch
from clp_core.initializers.sparsemax import ClpSparse
from clp_core.initializers.static_vectors import StaticVectors
from clp_core.initializers.subword_mean import SubwordMean
from clp_core.initializers.topk import ClpTopk
from clp_core.initializers.two_view import TwoView

INITIALIZERS: dict[str, Initializer] = {
    method.name: method
    for method in (
        Clp(),
        ClpSparse(),
        ClpTopk(),
        Linear(),
        TwoView(),
        SubwordMean(),
        Omp(),
        StaticVectors(),
        Mean(),
        Random(),
        Scratch(),
    )
}


def initializer(name: str) -> Initializer:
    """Return the initializer of that name.

    Raises:
        InputError: there is none.
    """
    if name not in INITIALIZERS:
        raise InputError(f"method {name!r} is unknown; use one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]


__all__ = [
    "INITIALIZERS",
    "Context",
    "Fitted",
    "Initializer",
    "Mix",
    "Pieces",
    "Top",
    "Vectors",
    "initializer",
    "parse_settings",
]
