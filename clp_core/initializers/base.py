"""The interface of all initializers: arrays in, arrays out.

Every method but random drawing is a linear smoother, ``row_v = sum_u w_vu e_u``, whose weights depend on all but the
rows ``e`` themselves. So one description of them, ``SmootherWeights``, serves rows, health figures and explanations,
and no matrix of |missing| x |anchors| is formed where a closed form exists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from scipy import sparse

from clp_core.embeddings.matmul_backend import MatmulBackend
from clp_core.embeddings.row_source import RowSource, Subset
from clp_core.errors import InputError
from clp_core.initializers.anchor_sums import AnchorSums


@dataclass(frozen=True)
class Setting:
    """A number that a user may choose for a method.

    Attributes:
        name: what to call it.
        default: its value where none is given.
        help: what it does.
        minimum: smallest value.
        maximum: largest value.
        whole: whether it counts something.
    """

    name: str
    default: float
    help: str
    minimum: float = 0.0
    maximum: float = float("inf")
    whole: bool = False

    def checked(self, value: float, method: str) -> float:
        """Return a value that is in bounds.

        Raises:
            InputError: it is not.
        """
        if not self.minimum <= value <= self.maximum or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            bounds = f"at least {self.minimum:g}" + (f", at most {self.maximum:g}" if self.maximum < np.inf else "")
            raise InputError(f"{self.name}={value:g} does not fit {method}: give {kind}, {bounds}")
        return value


class SubwordSegmentation(Protocol):
    """How the source's tokenizer writes the target's tokens."""

    def of(self, ids: np.ndarray) -> sparse.csr_array:
        """Return for each target id equal weights on its pieces, summing to 1, ``[len(ids), n_source]``.

        A token's own match in the source vocabulary is never among its pieces. Without pieces a row is empty.
        """

    def traits(self, ids: np.ndarray) -> np.ndarray:
        """Return what is known of each token's form, float64 ``[len(ids), m]``."""


@dataclass(frozen=True)
class Vectors:
    """Static word vectors of tokens, for ``static-vectors``; a row of zeros is a token without one.

    Attributes:
        target: vectors by target id, ``[n_target, v]``.
        source: vectors by source id in the same space, ``[n_source, v]``, or ``None`` (the rule of FOCUS).
    """

    target: np.ndarray
    source: np.ndarray | None = None


@dataclass(frozen=True)
class Context:
    """All that an initializer may look at.

    Attributes:
        helper_rows: input embeddings of the helper by target id, ``[n_target, d]``.
        anchor_ids: target ids of the anchors, ascending, ``[n]``.
        anchor_rows: source rows of the anchors in that order, ``[n, D]``; ``None`` when only weights are asked for.
        seed: seed of methods that draw random numbers.
        parameters: what an earlier fit has chosen (such as lambda); empty means choose.
        settings: what the user has chosen; methods take their defaults for the rest.
        source_rows: all source rows by source id, ``[n_source, D]``, for methods that look beyond the anchors.
        pieces: the target's tokens in source tokens, for the same.
        vectors: static word vectors, where the user gave any.
        source_ids: each target id's match in the source, -1 where it has none, ``[n_target]``; hidden anchors too.
        device: where large products are done.
        known_sums: sums over more anchors than these, from which those over these follow; see ``sums``.
        hidden: which of those anchors are none here, positions ascending.
    """

    helper_rows: RowSource
    anchor_ids: np.ndarray
    anchor_rows: RowSource | None
    seed: int = 42
    parameters: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    source_rows: RowSource | None = None
    pieces: SubwordSegmentation | None = None
    vectors: Vectors | None = None
    source_ids: np.ndarray | None = None
    device: MatmulBackend = field(default_factory=MatmulBackend)
    known_sums: AnchorSums | None = None
    hidden: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @cached_property
    def sums(self) -> AnchorSums:
        """Sums over these anchors and the hidden ones."""
        return self.known_sums or AnchorSums(self.anchor_ids, self.anchor_rows, self.device)

    @cached_property
    def visible(self) -> np.ndarray:
        """Where these anchors are among those of ``sums``, ``[n]``."""
        return np.setdiff1d(np.arange(len(self.sums.ids)), self.hidden)

    @property
    def anchor_rows_in_memory(self) -> RowSource:
        """``needed_anchor_rows`` for those who read them more than once: from memory where they fit there."""
        self.needed_anchor_rows()
        return Subset(self.sums.rows, self.visible) if len(self.hidden) else self.sums.rows

    def without(self, hidden: np.ndarray) -> Context:
        """Return a context without some of the anchors, which shares the sums over all of them.

        Args:
            hidden: positions among the anchors, ascending.
        """
        left = np.setdiff1d(np.arange(self.n_anchors), hidden)
        rows = None if self.anchor_rows is None else Subset(self.anchor_rows_in_memory, left)
        gone = np.union1d(self.hidden, self.visible[hidden])
        return replace(self, anchor_ids=self.anchor_ids[left], anchor_rows=rows, known_sums=self.sums, hidden=gone)

    @property
    def n_anchors(self) -> int:
        """Number of anchors."""
        return len(self.anchor_ids)

    def needed_anchor_rows(self) -> RowSource:
        """Return the anchors' source rows, which a fit without chosen parameters needs."""
        if self.anchor_rows is None:
            raise ValueError("this context explains weights only; it has no source rows to fit")
        return self.anchor_rows

    def needed_pieces(self) -> SubwordSegmentation:
        """Return the pieces, which some methods need."""
        if self.pieces is None:
            raise ValueError("this context has no pieces of the source's tokenizer")
        return self.pieces


@dataclass(frozen=True)
class SmootherWeights:
    """The weights of a block of tokens, ``w = queries @ points' + constants + near``, never multiplied out.

    Attributes:
        ids: target ids, ``[b]``.
        queries: ``[b, p]`` float64, or ``None``; the points are the fitted method's.
        constants: the same weight on every column, ``[b]`` float64, or ``None``.
        near: weights of single columns, ``[b, n]`` sparse, or ``None``.
    """

    ids: np.ndarray
    queries: np.ndarray | None = None
    constants: np.ndarray | None = None
    near: sparse.csr_array | None = None

    @property
    def is_dense(self) -> bool:
        """Whether every column takes part."""
        return self.queries is not None or self.constants is not None


@dataclass(frozen=True)
class TopAnchors:
    """The heaviest columns of a block of tokens.

    Attributes:
        columns: by falling absolute weight, ``[b, k]``, -1 where there are fewer.
        weights: ``[b, k]`` float64, 0 there.
        total: sum of all absolute weights, ``[b]``.
        signed: sum of all weights, ``[b]``.
    """

    columns: np.ndarray
    weights: np.ndarray
    total: np.ndarray
    signed: np.ndarray


class Fitted(ABC):
    """A method fitted to one pair and one embedding matrix.

    Attributes:
        parameters: what the fit has chosen.
        basis: what the columns of the weights are: the ``anchors``, or all tokens of the ``source`` by id.
    """

    parameters: Mapping[str, float] = {}
    basis: str = "anchors"

    @abstractmethod
    def mix(self, ids: np.ndarray) -> SmootherWeights | None:
        """Return the weights of these target ids; ``None`` if the method has none."""

    @abstractmethod
    def rows(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return the new rows of these target ids, float32 ``[len(ids), D]``; a mix made before is used again."""

    @abstractmethod
    def n_eff(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return Kish's effective count of anchors, ``(sum w)^2 / sum w^2``, float64; NaN if it has no weights."""

    @abstractmethod
    def weights(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the weights themselves, float64 ``[len(ids), n]``: for one token or a few; ``None`` if none."""

    @abstractmethod
    def top(self, mix: SmootherWeights, k: int) -> TopAnchors:
        """Return the k heaviest columns of a mix."""


class Initializer(ABC):
    """A method that fills the missing rows.

    Class attributes:
        name: how users call it.
        summary: one line that says what it does.
        formula: what a missing row is, in LaTeX: v a missing token, u an anchor, h helper rows, e source rows.
        dense: whether every anchor takes part, so that n_eff near their number means collapse to the mean.
        settings: the numbers a user may choose.
        forms_weights: whether the weights themselves are formed, so that blocks must be short.
        from_helper: whether a row's weights can be found again from the helper's rows alone.
        whole_model: whether the body of the model is drawn at random too.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    dense: ClassVar[bool] = False
    settings: ClassVar[tuple[Setting, ...]] = ()
    forms_weights: ClassVar[bool] = False
    from_helper: ClassVar[bool] = True
    whole_model: ClassVar[bool] = False

    @abstractmethod
    def fit(self, context: Context) -> Fitted:
        """Fit the method to the anchors of a context."""

    def filled_in(self, terms: Sequence[tuple[int, float, float | None]], n_more: int | None) -> str:
        """Return the formula of one row with its numbers, in LaTeX; ``E_i`` is source row i.

        Args:
            terms: source row, weight and cosine (where there is one) of the heaviest anchors, heaviest first.
            n_more: how many lighter anchors follow; ``None`` where that is not known.
        """
        more = self.dots(n_more)
        written = " ".join(f"{'+' if weight >= 0 else '-'} {abs(weight):.4g}\\,E_{{{row}}}" for row, weight, _ in terms)
        return f"e_v = {written.removeprefix('+ ')}{more}"

    @staticmethod
    def dots(n_more: int | None) -> str:
        """Return what stands for the anchors that are not written out, in LaTeX."""
        if n_more is None:
            return r" + \dots"
        return rf" + \dots\ ({n_more:,}\ \text{{more}})" if n_more else ""

    def resolve(self, given: Mapping[str, float]) -> dict[str, float]:
        """Return all settings: those given, checked, and the defaults of the others.

        Raises:
            InputError: the method has no such setting, or the value is out of bounds.
        """
        known = {setting.name: setting for setting in self.settings}
        for name in given:
            if name not in known:
                told = f"it has {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.name} has no setting {name!r}; {told}")
        return {name: setting.checked(given.get(name, setting.default), self.name) for name, setting in known.items()}


def parse_settings(pairs: Iterable[str]) -> dict[str, float]:
    """Return settings from texts such as ``k=16``.

    Raises:
        InputError: a text has another form.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
            equals = equals if np.isfinite(float(value)) else ""
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise InputError(f"--setting {pair!r} is not NAME=NUMBER, such as k=16")
    return found
