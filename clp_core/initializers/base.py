"""The interface of all initializers: arrays in, arrays out.

Every method that uses the helper is a linear smoother, ``row_v = sum_u w_vu e_u`` over the anchors ``u``, whose weights
depend on the helper alone. So one interface serves rows, health figures and explanations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from clp_core.tensors import RowSource


@dataclass(frozen=True)
class Context:
    """All that an initializer may look at.

    Attributes:
        helper_rows: input embeddings of the helper by target id, ``[n_target, d]``.
        anchor_ids: target ids of the anchors, ascending, ``[n]``.
        anchor_rows: source rows of the anchors in that order, ``[n, D]``; ``None`` when only weights are asked for.
        seed: seed of methods that draw random numbers.
        parameters: what an earlier fit has chosen (such as lambda); empty means choose.
    """

    helper_rows: RowSource
    anchor_ids: np.ndarray
    anchor_rows: RowSource | None
    seed: int = 42
    parameters: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_anchors(self) -> int:
        """Number of anchors."""
        return len(self.anchor_ids)

    def needed_anchor_rows(self) -> RowSource:
        """Return the anchors' source rows, which a fit without chosen parameters needs."""
        if self.anchor_rows is None:
            raise ValueError("this context explains weights only; it has no source rows to fit")
        return self.anchor_rows


class Fitted(ABC):
    """A method fitted to one pair and one embedding matrix."""

    parameters: Mapping[str, float] = {}

    @abstractmethod
    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the new rows of these target ids, float32 ``[len(ids), D]``."""

    @abstractmethod
    def weights(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the anchors' weights for these target ids, float64 ``[len(ids), n]``; ``None`` if it has none."""

    @abstractmethod
    def n_eff(self, ids: np.ndarray) -> np.ndarray:
        """Return Kish's effective count of anchors, ``(sum w)^2 / sum w^2``, float64; NaN if it has no weights."""


class Initializer(ABC):
    """A method that fills the missing rows.

    Class attributes:
        name: how users call it.
        summary: one line that says what it does.
        dense: whether every anchor takes part, so that n_eff near their number means collapse to the mean.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    dense: ClassVar[bool]

    @abstractmethod
    def fit(self, context: Context) -> Fitted:
        """Fit the method to the anchors of a context."""
