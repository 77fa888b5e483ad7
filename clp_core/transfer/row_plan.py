"""The rows of a target matrix: which are copied, made, overridden or filled up, and who made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from clp_core.checkpoints.safetensors_reader import TensorRows
from clp_core.embeddings.nearest import unit
from clp_core.embeddings.row_source import RowSource, Subset, block_ranges, fits_in_memory, in_memory
from clp_core.embeddings.threads import for_each
from clp_core.initializers import initializer
from clp_core.initializers.base import Fitted, SmootherWeights
from clp_core.progress import report_progress
from clp_core.tokenization.overlap import Overlap
from clp_core.transfer.provenance import Anchors, at_risk

STATUSES = ("copied", "initialised", "override", "special", "padding")
COPIED, INITIALISED, OVERRIDE, SPECIAL, PADDING = range(len(STATUSES))
FALLBACKS = ("linear", "mean")
"""Methods that take over a row at risk under ``--guard fallback``, in this order."""

ROWS_BYTES = 64 << 20
"""Rows that are made at a time."""
MIN_BLOCK_WIDTH = 256


@dataclass(frozen=True)
class RowPlan:
    """What becomes of every row of the target.

    Attributes:
        overlap: the tokens that are copied; overridden ones are not among them.
        overrides: source ids whose mean is the row, by target id.
        n_rows: rows of the target's matrices: its ids, filled up to a multiple where that is asked.
    """

    overlap: Overlap
    overrides: Mapping[int, np.ndarray] = field(default_factory=dict)
    n_rows: int = 0

    @cached_property
    def status(self) -> np.ndarray:
        """Status of every row as an index into ``STATUSES``, ``[n_rows]``."""
        status = np.full(self.n_rows, PADDING, dtype=np.int8)
        n_ids = self.overlap.target.n_ids
        copied = self.overlap.source_ids >= 0
        status[:n_ids][self.overlap.is_token] = INITIALISED
        status[:n_ids][copied] = COPIED
        by_role = [i for i in self.overlap.target.special_ids if copied[i] and not self._same_string(i)]
        status[by_role] = SPECIAL
        status[list(self.overrides)] = OVERRIDE
        return status

    def _same_string(self, token_id: int) -> bool:
        source_id = int(self.overlap.source_ids[token_id])
        return self.overlap.target.tokens[token_id] == self.overlap.source.tokens[source_id]

    @cached_property
    def source_ids(self) -> np.ndarray:
        """Source row of every copied row, -1 elsewhere, ``[n_rows]``."""
        found = np.full(self.n_rows, -1, dtype=np.int64)
        found[: self.overlap.target.n_ids] = self.overlap.source_ids
        return found

    @cached_property
    def missing_ids(self) -> np.ndarray:
        """Target ids that a method initialises, ascending."""
        return np.flatnonzero(self.status == INITIALISED)


@dataclass(frozen=True)
class RowBlock:
    """A block of rows that methods made.

    Attributes:
        rows: float32 ``[b, D]``.
        n_eff: effective anchors, ``[b]``.
        method: index into the maker's ``methods``, ``[b]``.
        scale: what the row was multiplied with to match norms, ``[b]``.
        parts: who made which rows: method index, positions in the block, and the mix.
    """

    rows: np.ndarray
    n_eff: np.ndarray
    method: np.ndarray
    scale: np.ndarray
    parts: list[tuple[int, np.ndarray, SmootherWeights | None]]


class RowFactory:
    """Makes missing rows by a method, with its guard."""

    def __init__(
        self,
        methods: tuple[str, ...],
        fit: Callable[[str], Fitted],
        *,
        dense: tuple[bool, ...],
        n_anchors: int,
        usual_length: float,
        width: int,
        helper_width: int = 1,
        match_norms: bool = False,
    ) -> None:
        """Take the method, and those that take over its rows at risk.

        Args:
            methods: names; the first makes the rows, each later one those at risk under the one before.
            fit: gives the fitted method of a name, once it is needed.
            dense: for each name, whether it uses all anchors (see ``Initializer``).
            n_anchors: number of anchors.
            usual_length: mean length of the copied rows.
            width: width D of the matrix; a bias is one more column of what is made.
            helper_width: width of the helper's rows.
            match_norms: whether each row is scaled to the usual length.
        """
        self.methods = methods
        self._fit = fit
        self._dense = dense
        self._n_anchors = n_anchors
        self._usual = usual_length
        self.width = width
        self.block_width = max(width, 2 * helper_width, MIN_BLOCK_WIDTH)
        self._match_norms = match_norms
        self._fitted: dict[str, Fitted] = {}

    def fitted(self, index: int) -> Fitted:
        """Return a fitted method by its index in ``methods``."""
        name = self.methods[index]
        if name not in self._fitted:
            self._fitted[name] = self._fit(name)
        return self._fitted[name]

    def blocks(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        """Cut target ids so that what is held of a block at a time, weights included, stays bounded."""
        forms_weights = any(initializer(name).forms_weights for name in self.methods)
        widest = max(self.block_width, 4 * self._n_anchors if forms_weights else 0)
        for part in block_ranges(len(ids), widest, ROWS_BYTES):
            yield ids[part]

    def make(self, ids: np.ndarray, measure: bool = True) -> RowBlock:
        """Make the rows of these target ids; n_eff is left out where nothing asks for it."""
        n = len(ids)
        made = RowBlock(np.zeros((n, 0), np.float32), np.full(n, np.nan), np.zeros(n, np.int8), np.ones(n), [])
        rows: np.ndarray | None = None
        left = np.arange(n)
        for index in range(len(self.methods)):
            method = self.fitted(index)
            mix = method.mix(ids[left])
            new = method.rows(ids[left], mix)
            rows = new if rows is None else rows
            rows[left], made.method[left] = new, index
            made.parts.append((index, left, mix))
            guarded = len(self.methods) > 1
            if not (measure or guarded):
                break
            n_eff = method.n_eff(ids[left], mix)
            made.n_eff[left] = n_eff
            if not guarded:
                break
            lengths = lengths_of(new[:, : self.width])
            risk = at_risk(n_eff, lengths / self._usual, self._n_anchors, dense=self._dense[index])
            left = left[risk | ~np.isfinite(lengths)]
            if not len(left):
                break
        assert rows is not None
        if self._match_norms:
            lengths = lengths_of(rows[:, : self.width])
            made.scale[:] = np.divide(self._usual, lengths, out=np.ones(n), where=lengths > 0)
            rows[:, : self.width] *= made.scale[:, None].astype(np.float32)
        return RowBlock(rows, made.n_eff, made.method, made.scale, made.parts)


@dataclass
class RowStatistics:
    """What is measured of the rows while they are written, by target row.

    Attributes:
        norms: length of each row as written, ``[n_rows]``.
        n_eff: effective anchors of initialised rows, NaN elsewhere.
        method: index of the method that made each initialised row.
        scale: factor of ``--match-norms``, 1 elsewhere.
        anchors: the heaviest anchors, where they are kept.
    """

    norms: np.ndarray
    n_eff: np.ndarray
    method: np.ndarray
    scale: np.ndarray
    anchors: Anchors | None = None

    @classmethod
    def empty(cls, n_rows: int, n_anchors_kept: int = 0) -> RowStatistics:
        """Return room for the figures of so many rows."""
        anchors = Anchors.empty(n_rows, n_anchors_kept) if n_anchors_kept else None
        return cls(np.zeros(n_rows), np.full(n_rows, np.nan), np.zeros(n_rows, np.int8), np.ones(n_rows), anchors)


class NewRows:
    """The rows of one target tensor in order, block by block; measured on the way.

    Iterating again makes them again, to the same bits.
    """

    def __init__(
        self,
        plan: RowPlan,
        source_rows: TensorRows,
        maker: RowFactory,
        *,
        columns: slice | None = None,
        helper_rows: RowSource | None = None,
        measured: RowStatistics | None = None,
        keeps: tuple[bool, ...] = (),
    ) -> None:
        """Take a plan, the source's tensor and a maker.

        Args:
            plan: what becomes of each row.
            source_rows: the source's tensor, whose bits are copied.
            maker: makes the missing rows.
            columns: which of the maker's columns belong to this tensor; all by default.
            helper_rows: the helper's rows, for the cosines of anchors that are kept.
            measured: where figures go.
            keeps: for each of the maker's methods, whether its heaviest anchors are kept.
        """
        self.plan = plan
        self.source = source_rows
        self._maker = maker
        self._columns = columns if columns is not None else slice(None)
        self._helper = helper_rows
        self._measured = measured
        self._keeps = keeps

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks of rows in the source's data type; copied rows are the source's bits."""
        plan, width = self.plan, self.source.shape[1]
        for part in block_ranges(plan.n_rows, self._maker.block_width, ROWS_BYTES):
            ids = np.arange(part.start, part.stop)
            status = plan.status[part]
            block = np.zeros((len(ids), width), dtype=self.source.dtype)
            copied = plan.source_ids[ids] >= 0
            if copied.any():
                block[copied] = self.source.take_exact(plan.source_ids[ids[copied]])
            missing = np.flatnonzero(status == INITIALISED)
            for some in self._maker.blocks(ids[missing]):
                made = self._maker.make(some, measure=self._measured is not None)
                with np.errstate(over="ignore"):
                    block[some - part.start] = made.rows[:, self._columns].astype(self.source.dtype)
                if self._measured is not None:
                    self._note(some, made)
            for position in np.flatnonzero(status == OVERRIDE):
                named = self.source.take(plan.overrides[int(ids[position])])
                block[position] = named.mean(axis=0, dtype=np.float64).astype(self.source.dtype)
            if (status == PADDING).any():
                block[status == PADDING] = self._mean_copied_row
            if self._measured is not None:
                self._measured.norms[part] = lengths_of(block)
            yield block
            report_progress("writing rows", part.stop / plan.n_rows)

    def _note(self, ids: np.ndarray, made: RowBlock) -> None:
        assert self._measured is not None
        self._measured.n_eff[ids] = made.n_eff
        self._measured.method[ids] = made.method
        self._measured.scale[ids] = made.scale
        anchors = self._measured.anchors
        if anchors is None:
            return
        for index, positions, mix in made.parts:
            final = made.method[positions] == index
            if mix is None or not self._keeps[index] or not final.any():
                continue
            method = self._maker.fitted(index)
            top = method.top(mix, anchors.k)
            own = ids[positions[final]]
            columns, weights = top.columns[final], top.weights[final]
            overlap = self.plan.overlap
            if method.basis == "anchors":
                targets = np.where(columns >= 0, overlap.ids[columns], -1)
                sources = np.where(columns >= 0, overlap.source_ids[targets], -1)
                cosines = self._cosines(own, columns)
            else:
                targets, sources = np.full_like(columns, -1), columns
                cosines = np.full(columns.shape, np.nan)
            anchors.keep(own, targets, sources, weights, cosines, top.total[final], top.signed[final])

    def _cosines(self, ids: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the cosine in the helper of each token with each of its anchors, NaN where there is none."""
        assert self._helper is not None
        helper, anchors, out = self._helper, self._unit_anchors, np.full(columns.shape, np.nan)

        def compare(part: slice) -> None:
            places = np.maximum(columns[part], 0)
            if anchors is not None:
                rows = anchors[places]
            else:
                used, local = np.unique(places, return_inverse=True)
                rows = unit(helper.take(self.plan.overlap.ids[used]))[local.reshape(places.shape)]
            out[part] = np.einsum("bkd,bd->bk", rows, unit(helper.take(ids[part])))

        for_each(compare, block_ranges(len(ids), columns.shape[1] * helper.shape[1]))
        return np.where(columns >= 0, out, np.nan)

    @cached_property
    def _unit_anchors(self) -> np.ndarray | None:
        """The anchors' helper rows scaled to length 1, where they fit in memory."""
        assert self._helper is not None
        anchors = Subset(self._helper, self.plan.overlap.ids)
        return unit(in_memory(anchors)) if fits_in_memory(*anchors.shape) else None

    @cached_property
    def _mean_copied_row(self) -> np.ndarray:
        overlap = self.plan.overlap
        total = np.zeros(self.source.shape[1])
        for part in block_ranges(overlap.size, len(total)):
            total += self.source.take(overlap.source_ids[overlap.ids[part]]).sum(axis=0, dtype=np.float64)
        return np.asarray((total / overlap.size).astype(self.source.dtype))


def lengths_of(rows: np.ndarray) -> np.ndarray:
    """Return the length of each row, float64 ``[b]``; infinite where it is beyond float32."""
    wide = rows.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", wide, wide).astype(np.float64))


def mean_length(rows: RowSource) -> float:
    """Return the mean length of rows, NaN where there are none."""
    total = 0.0
    for part in block_ranges(*rows.shape):
        total += float(lengths_of(rows.take(np.arange(part.start, part.stop))).sum())
    return total / rows.shape[0] if rows.shape[0] else float("nan")
