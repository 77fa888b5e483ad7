"""The methods that fill the missing rows. A new one is a new file here and one line in ``MODULES``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from clp_core.errors import InputError

if TYPE_CHECKING:
    from clp_core.initializers.base import Initializer

MODULES = {
    "clp": "clp:Clp",
    "clp-sparse": "sparsemax:ClpSparse",
    "clp-topk": "topk:ClpTopk",
    "linear": "linear:Linear",
    "two-view": "two_view:TwoView",
    "subword-mean": "subword_mean:SubwordMean",
    "omp": "omp:Omp",
    "static-vectors": "static_vectors:StaticVectors",
    "mean": "mean:Mean",
    "random": "random:Random",
    "scratch": "scratch:Scratch",
}
"""Each method's module in this package and its class."""


class MethodRegistry(Mapping[str, "Initializer"]):
    """The methods by name; each one's module is imported when it is first looked up, so that names cost nothing."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """Register the methods.

        Args:
            modules: for each name ``module:Class``.
        """
        self._modules = modules
        self._loaded: dict[str, Initializer] = {}

    def __getitem__(self, name: str) -> Initializer:
        if name not in self._loaded:
            module, _, kind = self._modules[name].partition(":")
            self._loaded[name] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)()
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


INITIALIZERS = MethodRegistry(MODULES)


def initializer(name: str) -> Initializer:
    """Return the initializer of that name.

    Raises:
        InputError: there is none.
    """
    if name not in INITIALIZERS:
        raise InputError(f"method {name!r} is unknown; use one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[name]
