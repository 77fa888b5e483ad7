"""Sums over the anchors, made once; a fit to all but some of them takes the share of these off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg.blas import dsyrk

from clp_core.embeddings.matmul_backend import MatmulBackend
from clp_core.embeddings.row_source import (
    ArrayRows,
    RowSource,
    Subset,
    block_ranges,
    fits_in_memory,
    in_memory,
    mean_row,
    row_blocks,
)

SUM_BYTES = 64 << 20
"""Features of anchors that are summed at a time."""

PROJECTIONS = 48
"""Random directions on which source rows that are wider than this are looked at."""
PROJECTION_STREAM = 2


@dataclass(frozen=True)
class Features:
    """What a method knows of every token.

    Attributes:
        name: by which sums over them are found again; features of one name are the same for one pair.
        rows: by target id, ``[n_target, a]``.
    """

    name: str
    rows: RowSource


@dataclass(frozen=True)
class Moments:
    """First and second moments of the features x of n anchors, in float64.

    Attributes:
        count: n.
        mean: ``m = sum x / n``, ``[a]``.
        second: ``sum (x - m)' (x - m)``, ``[a, a]``.
    """

    count: int
    mean: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class CrossMoments:
    """Moments of the features x and the source rows e of n anchors, in float64.

    Attributes:
        total: ``sum e``, ``[D]``.
        cross: ``sum (x - m)' e`` with m the mean of these anchors' features, ``[a, D]``.
    """

    total: np.ndarray
    cross: np.ndarray


@dataclass(frozen=True)
class _Sums:
    """Sums of features relative to an origin: count, ``sum x``, ``sum x' x`` or ``sum x' e``, and ``sum e``."""

    count: int
    first: np.ndarray
    product: np.ndarray
    total: np.ndarray

    def without(self, other: _Sums) -> _Sums:
        """Take another's share off."""
        parts = (self.first - other.first, self.product - other.product, self.total - other.total)
        return _Sums(self.count - other.count, *parts)


@dataclass(frozen=True)
class Centred:
    """Rows less their mean, which is taken off in float64.

    Attributes:
        rows: ``[n, d]``.
        mean: float64 ``[d]``.
    """

    rows: RowSource
    mean: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.rows.shape

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows with these indices as float32."""
        return (self.rows.take(ids) - self.mean).astype(np.float32)


class AnchorSums:
    """The features of the anchors of one pair and embedding matrix, and sums over them.

    The sums are about the mean of all anchors, in float64, so that taking the share of hidden anchors off leaves those
    of the visible ones to about 1e-15 of the largest entry.
    """

    def __init__(self, ids: np.ndarray, rows: RowSource | None, device: MatmulBackend) -> None:
        """Take the anchors.

        Args:
            ids: target ids of the anchors, ascending, ``[n]``.
            rows: their source rows in that order, ``[n, D]``; ``None`` where no cross moments are asked for.
            device: where large products are done.
        """
        self.ids = ids
        self._rows = rows
        self._device = device
        self._tables: dict[str, RowSource] = {}
        self._origins: dict[str, np.ndarray] = {}
        self._second: dict[str, _Sums] = {}
        self._cross: dict[tuple[str, int | None], _Sums] = {}
        self._projected: dict[int, np.ndarray] = {}
        self._found: dict[tuple[bytes, ...], tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def rows(self) -> RowSource:
        """The anchors' source rows, ``[n, D]``, from memory where they fit there.

        Raises:
            ValueError: there are none.
        """
        if self._rows is None:
            raise ValueError("there are no source rows of the anchors")
        return ArrayRows(in_memory(self._rows)) if fits_in_memory(*self._rows.shape) else self._rows

    def origin(self, features: Features) -> np.ndarray:
        """Return the mean of the features of all anchors, float64 ``[a]``."""
        if features.name not in self._origins:
            self._origins[features.name] = mean_row(Subset(features.rows, self.ids))
        return self._origins[features.name]

    def table(self, features: Features) -> RowSource:
        """Return the features of all anchors less their mean, float32 ``[n, a]``, from memory where they fit there."""
        name = features.name
        if name not in self._tables:
            known = Subset(features.rows, self.ids)
            if not fits_in_memory(*known.shape):
                self._tables[name] = Centred(known, self.origin(features))
                return self._tables[name]
            array = in_memory(known)
            origin = self._origins[name] = mean_row(ArrayRows(array))
            for part in block_ranges(*known.shape):
                array[part] = array[part] - origin
            self._tables[name] = ArrayRows(array)
        return self._tables[name]

    def forget(self, name: str) -> None:
        """Free what is kept of the features of a name."""
        for kept in (self._tables, self._origins, self._second):
            kept.pop(name, None)
        for key in [key for key in self._cross if key[0] == name]:
            del self._cross[key]

    def moments(self, features: Features, hidden: np.ndarray) -> Moments:
        """Return the moments of the features of all anchors but the hidden ones.

        Args:
            features: of the tokens.
            hidden: positions among the anchors that are left out.
        """
        name = features.name
        if name not in self._second:
            self._second[name] = self._second_of(features, np.arange(len(self.ids)))
        sums = self._second[name]
        if len(hidden):
            sums = sums.without(self._second_of(features, hidden))
        shift = sums.first / max(sums.count, 1)
        return Moments(sums.count, self._origins[name] + shift, sums.product - sums.count * np.outer(shift, shift))

    def cross_moments(self, features: Features, hidden: np.ndarray, seed: int | None = None) -> CrossMoments:
        """Return the moments of features and source rows of all anchors but the hidden ones; see ``moments``.

        Args:
            features: of the tokens.
            hidden: positions among the anchors that are left out.
            seed: of random directions; with it, the rows are those of ``projected``.

        Raises:
            ValueError: there are no source rows.
        """
        key = (features.name, seed)
        if key not in self._cross:
            self._cross[key] = self._cross_of(features, np.arange(len(self.ids)), seed)
        sums = self._cross[key]
        if len(hidden):
            sums = sums.without(self._cross_of(features, hidden, seed))
        return CrossMoments(sums.total, sums.product - np.outer(sums.first / max(sums.count, 1), sums.total))

    def projected(self, seed: int) -> np.ndarray:
        """Return the source rows of all anchors on random directions, float64 ``[n, q]``; narrow rows as they are.

        Raises:
            ValueError: there are no source rows.
        """
        if seed not in self._projected:
            rows = self.rows
            width = rows.shape[1]
            # Not the stream of the seed itself, which chooses the held-out anchors.
            generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PROJECTION_STREAM,)))
            project = generator.standard_normal((width, PROJECTIONS)) if width > PROJECTIONS else np.eye(width)
            blocks = [block.astype(np.float64) @ project for _, block in row_blocks(rows)]
            self._projected[seed] = np.concatenate([np.zeros((0, project.shape[1])), *blocks])
        return self._projected[seed]

    def nearest(
        self, search: Callable[[], tuple[np.ndarray, np.ndarray]], hidden: np.ndarray, ids: np.ndarray, *settings: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what a search among the visible anchors finds; what it found for hidden ones is kept.

        Args:
            search: looks for cosines and positions, ``[b, k]`` each.
            hidden: positions of the anchors among which it does not look.
            ids: target ids whose nearest anchors are looked for.
            settings: what else the result depends on.
        """
        if not len(hidden):
            return search()
        key = (hidden.tobytes(), ids.tobytes(), repr(settings).encode())
        if key not in self._found:
            self._found[key] = search()
        return self._found[key]

    def _second_of(self, features: Features, positions: np.ndarray) -> _Sums:
        table = self.table(features)
        width = table.shape[1]
        first, product = np.zeros(width), np.zeros((width, width), order="F")
        parts = list(block_ranges(len(positions), width, SUM_BYTES // 2))
        room = np.empty((parts[0].stop if parts else 0, width))
        for part in parts:
            block = room[: part.stop - part.start]
            block[:] = table.take(positions[part])
            first += block.sum(axis=0)
            product = dsyrk(1.0, block.T, beta=1.0, c=product, overwrite_c=True)
        return _Sums(len(positions), first, np.triu(product) + np.triu(product, 1).T, np.zeros(0))

    def _cross_of(self, features: Features, positions: np.ndarray, seed: int | None) -> _Sums:
        table = self.table(features)
        projected = None if seed is None else self.projected(seed)
        rows = self.rows
        width, n_columns = table.shape[1], rows.shape[1] if projected is None else projected.shape[1]
        first, product, total = np.zeros(width), np.zeros((width, n_columns)), np.zeros(n_columns)
        for part in block_ranges(len(positions), max(width, n_columns), SUM_BYTES):
            block = table.take(positions[part])
            first += block.sum(axis=0, dtype=np.float64)
            if projected is not None:
                targets = projected[positions[part]]
                product += block.T.astype(np.float64) @ targets
            else:
                targets = rows.take(positions[part])
                product += self._device.product(block.T, self._device.hold(targets))
            total += targets.sum(axis=0, dtype=np.float64)
        return _Sums(len(positions), first, product, total)
