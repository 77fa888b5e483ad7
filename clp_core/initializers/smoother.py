"""What all linear smoothers share: rows, effective counts and heaviest anchors from the same description of weights."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from clp_core.embeddings.row_source import BLOCK_BYTES, RowSource, block_ranges, fits_in_memory, held_ranges
from clp_core.embeddings.threads import for_each
from clp_core.initializers.base import Context, Fitted, SmootherWeights, TopAnchors

SPARE = 8
"""Columns beyond those asked for that are weighed again in float64: products in float32 may exchange near ones."""
RUN = 64
"""Columns of which ``largest_entries`` takes a maximum at a time."""


class Smoother(Fitted):
    """A method whose rows are weighted sums of source rows.

    A subclass says what its points are (``points``, ``width``) and how a token's weights read (``mix``); its columns
    are the context's anchors unless it names others.
    """

    def __init__(self, context: Context, columns: RowSource | None, n_columns: int, width: int = 0) -> None:
        """Take a context.

        Args:
            context: what the method may look at.
            columns: the rows that are summed, ``[n, D]``; ``None`` when only weights are asked for.
            n_columns: their number n.
            width: width p of the points, 0 for methods without.
        """
        self.context = context
        self.columns = columns
        self.n_columns = n_columns
        self.width = width
        self._last_moments: tuple[SmootherWeights, tuple[np.ndarray, np.ndarray]] | None = None

    @abstractmethod
    def mix(self, ids: np.ndarray) -> SmootherWeights:
        """Return the weights of these target ids."""

    def points(self, positions: np.ndarray) -> np.ndarray:
        """Return the points of these columns, float64 ``[m, p]``."""
        return np.zeros((len(positions), 0))

    def rows(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return the weighted sums, float32 ``[len(ids), D]``, without forming the weights."""
        found = self.mix(ids) if mix is None else mix
        columns = self.needed_columns()
        if found.queries is not None:
            rows = self.context.device.product(found.queries.astype(np.float32), self._held_product)
        else:
            rows = np.zeros((len(found.ids), columns.shape[1]), dtype=np.float32)
        if found.constants is not None and found.constants.any():
            rows += (found.constants[:, None] * self.total).astype(np.float32)
        if found.near is not None:
            rows += sparse_product(found.near, columns)
        return rows

    def n_eff(self, ids: np.ndarray, mix: SmootherWeights | None = None) -> np.ndarray:
        """Return ``(sum w)^2 / sum w^2`` in closed form; NaN for a token without weights."""
        total, squares = self._moments(self.mix(ids) if mix is None else mix)
        undefined = np.full(len(total), np.nan)
        return np.divide(total**2, squares, out=undefined, where=squares > 0)

    def _moments(self, found: SmootherWeights) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum w`` and ``sum w^2`` of every token, in closed form; those of the last mix are kept."""
        if self._last_moments is None or self._last_moments[0] is not found:
            self._last_moments = (found, self._moments_of(found))
        return self._last_moments[1]

    def _moments_of(self, found: SmootherWeights) -> tuple[np.ndarray, np.ndarray]:
        total, squares = np.zeros(len(found.ids)), np.zeros(len(found.ids))
        if found.is_dense:
            constants = found.constants if found.constants is not None else np.zeros(len(found.ids))
            total += self.n_columns * constants
            squares += self.n_columns * constants**2
            if found.queries is not None:
                across = found.queries @ self.point_sum
                total += across
                squares += 2 * constants * across + self._quadratic(found.queries)
        if found.near is not None:
            total += found.near.sum(axis=1)
            squares += found.near.power(2).sum(axis=1)
            if found.is_dense:
                squares += 2 * self._crossed(found)
        return total, squares

    def _quadratic(self, queries: np.ndarray) -> np.ndarray:
        gram = self.gram
        turned = queries * gram if gram.ndim == 1 else queries @ gram
        return np.einsum("bi,bi->b", turned, queries)

    def _crossed(self, mix: SmootherWeights) -> np.ndarray:
        """Return ``sum_k near_k (q x_k + c)`` for every token."""
        near = mix.near
        assert near is not None
        out = np.zeros(len(mix.ids))
        for part in block_ranges(len(mix.ids), 1 << 15):
            some = near[part]
            used, local = np.unique(some.indices, return_inverse=True)
            dense = np.zeros((some.shape[0], len(used)))
            if mix.queries is not None:
                dense += mix.queries[part] @ self.points_at(used).T
            if mix.constants is not None:
                dense += mix.constants[part, None]
            again = sparse.csr_array((some.data, local, some.indptr), shape=dense.shape)
            out[part] = again.multiply(dense).sum(axis=1)
        return out

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """Return the weights multiplied out in float32, as float64 ``[len(ids), n]``."""
        found = self.mix(ids)
        weights = np.zeros((len(ids), self.n_columns))
        if found.queries is not None:
            queries = found.queries.astype(np.float32)
            for part in block_ranges(self.n_columns, max(self.width, 1)):
                weights[:, part] = queries @ self._points(part).T
        if found.constants is not None:
            weights += found.constants[:, None]
        if found.near is not None:
            weights += found.near.toarray()
        return weights

    def top(self, mix: SmootherWeights, k: int) -> TopAnchors:
        """Return the k heaviest columns; where all take part, from one product in float32 with all points.

        The heaviest of that product, ``SPARE`` more than are asked for, are weighed again in float64.
        """
        if not mix.is_dense:
            assert mix.near is not None
            return heaviest(mix.near, k, np.abs(mix.near).sum(axis=1), mix.near.sum(axis=1))
        n_near = 0 if mix.near is None else int(np.diff(mix.near.indptr).max(initial=0))
        columns, total = self._heaviest_products(mix, min(self.n_columns, k + n_near + SPARE))
        rows = np.repeat(np.arange(len(mix.ids)), columns.shape[1])
        flat = columns.ravel()
        if mix.near is not None:
            near = mix.near.tocoo()
            rows, flat = np.concatenate([rows, near.row]), np.concatenate([flat, near.col])
        candidates = sparse.csr_array((np.ones(len(flat)), (rows, flat)), shape=(len(mix.ids), self.n_columns))
        candidates.sum_duplicates()
        exact = self._exact(mix, candidates)
        if mix.near is not None:
            dense_part = self._exact(SmootherWeights(mix.ids, mix.queries, mix.constants), pattern(mix.near))
            total += np.abs(dense_part + mix.near).sum(axis=1) - np.abs(dense_part).sum(axis=1)
        return heaviest(exact, k, total, self._moments(mix)[0])

    def _heaviest_products(self, mix: SmootherWeights, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Multiply a mix's dense part out in float32, a block at a time.

        Returns:
            The columns of the n largest absolute weights of each token, in no order, ``[b, n]``, and the sum of all
            its absolute weights, ``[b]``.
        """
        n_tokens, device = len(mix.ids), self.context.device
        queries = None if mix.queries is None else mix.queries.astype(np.float32)
        constants = None if mix.constants is None else mix.constants.astype(np.float32)[:, None]
        total = np.zeros(n_tokens)
        values, columns = np.zeros((n_tokens, 0), np.float32), np.zeros((n_tokens, 0), np.int64)
        for part in held_ranges(self.n_columns, self.width):
            held, n_kept = self._held_points(part), min(n, part.stop - part.start)
            found, weights = np.zeros((n_tokens, n_kept), np.int64), np.zeros((n_tokens, n_kept), np.float32)

            def look(
                some: slice,
                points: slice = part,
                held: Any = held,
                found: np.ndarray = found,
                weights: np.ndarray = weights,
            ) -> None:
                if queries is not None:
                    product = device.product(queries[some], held)
                else:
                    product = np.zeros((some.stop - some.start, points.stop - points.start), np.float32)
                if constants is not None:
                    product += constants[some]
                np.abs(product, out=product)
                total[some] += product.sum(axis=1, dtype=np.float64)
                found[some] = largest_entries(product, found.shape[1])
                weights[some] = np.take_along_axis(product, found[some], axis=1)

            device.for_each(look, block_ranges(n_tokens, part.stop - part.start))
            all_values = np.concatenate([values, weights], axis=1)
            kept = largest_entries(all_values, n)
            values = np.take_along_axis(all_values, kept, axis=1)
            columns = np.take_along_axis(np.concatenate([columns, found + part.start], axis=1), kept, axis=1)
        return columns, total

    def _exact(self, mix: SmootherWeights, where: sparse.csr_array) -> sparse.csr_array:
        """Return a mix's weights in float64 at the places of a pattern."""
        out = where.astype(np.float64)
        lines = np.repeat(np.arange(where.shape[0]), np.diff(where.indptr))
        in_memory = self._all_points if self._is_cached and mix.queries is not None else None

        def weigh(part: slice) -> None:
            places, own = where.indices[part], lines[part]
            values = np.zeros(len(places))
            if mix.queries is not None:
                if in_memory is not None:
                    points = in_memory[places]
                else:
                    used, local = np.unique(places, return_inverse=True)
                    points = self.points(used)[local]
                values += np.einsum("nd,nd->n", points, mix.queries[own], dtype=np.float64)
            if mix.constants is not None:
                values += mix.constants[own]
            out.data[part] = values

        for_each(weigh, block_ranges(where.nnz, 2 * max(self.width, 1)))
        if mix.near is not None:
            out = sparse.csr_array(out + mix.near)
        return out

    def needed_columns(self) -> RowSource:
        """Return the rows that are summed."""
        if self.columns is None:
            raise ValueError("fitted without source rows: only weights can be asked for")
        return self.columns

    def points_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the points of single columns, float64 ``[m, p]``, from float32 in memory where all fit there."""
        if self._is_cached:
            return self._all_points[positions].astype(np.float64)
        return self.points(positions)

    @property
    def _is_cached(self) -> bool:
        return fits_in_memory(self.n_columns, self.width)

    def points_of(self, part: slice) -> np.ndarray:
        """Return the points of a run of columns: those in memory, which are float32, or made again in float64."""
        if self._is_cached:
            return self._all_points[part]
        return self.points(np.arange(part.start, part.stop))

    def _held_points(self, part: slice) -> Any:
        """Return the points of a run of columns as the right side of products, ``[p, m]``."""
        if not self._is_cached:
            return self.context.device.hold(self._points(part).T)
        return self._all_held_points

    @cached_property
    def _all_held_points(self) -> Any:
        return self.context.device.hold(self._all_points.T)

    def _points(self, part: slice) -> np.ndarray:
        """Return the points of a run of columns, from memory where all of them fit there."""
        if self._is_cached:
            return self._all_points[part]
        return self.points(np.arange(part.start, part.stop)).astype(np.float32)

    @cached_property
    def _all_points(self) -> np.ndarray:
        found = np.zeros((self.n_columns, self.width), dtype=np.float32)
        for part in block_ranges(self.n_columns, max(self.width, 1)):
            found[part] = self.narrow_points(np.arange(part.start, part.stop))
        return found

    def narrow_points(self, positions: np.ndarray) -> np.ndarray:
        """Return the points of these columns in float32, ``[m, p]``."""
        return self.points(positions).astype(np.float32)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over all columns in one pass: ``points' @ columns`` ``[p, D]``, columns ``[D]``, points ``[p]``."""
        columns = self.needed_columns()
        product = np.zeros((self.width, columns.shape[1]))
        total = np.zeros(columns.shape[1])
        point_sum = np.zeros(self.width)
        device = self.context.device
        for part in block_ranges(self.n_columns, max(self.width, columns.shape[1])):
            rows = columns.take(np.arange(part.start, part.stop))
            total += rows.sum(axis=0, dtype=np.float64)
            if self.width:
                is_at_hand = "_all_points" in self.__dict__
                points = self._all_points[part] if is_at_hand else self.points(np.arange(part.start, part.stop))
                point_sum += points.sum(axis=0, dtype=np.float64)
                product += device.product(points.astype(np.float32).T, device.hold(rows))
        return product, total, point_sum

    @property
    def product(self) -> np.ndarray:
        """``points' @ columns`` over all columns, float64 ``[p, D]``."""
        return self._sums[0]

    @property
    def total(self) -> np.ndarray:
        """The sum of all columns, float64 ``[D]``."""
        return self._sums[1]

    @cached_property
    def _held_product(self) -> Any:
        return self.context.device.hold(self.product.astype(np.float32))

    @cached_property
    def gram(self) -> np.ndarray:
        """``points' @ points``, float64 ``[p, p]``, or its diagonal ``[p]`` where it is diagonal."""
        gram = np.zeros((self.width, self.width))
        for part in block_ranges(self.n_columns, max(self.width, 1)):
            points = self.points(np.arange(part.start, part.stop))
            gram += points.T @ points
        return gram

    @cached_property
    def point_sum(self) -> np.ndarray:
        """The sum of all points, float64 ``[p]``."""
        if self.columns is not None:
            return self._sums[2]
        total = np.zeros(self.width)
        for part in block_ranges(self.n_columns, max(self.width, 1)):
            total += self.points(np.arange(part.start, part.stop)).sum(axis=0)
        return total


def largest_entries(values: np.ndarray, n: int) -> np.ndarray:
    """Return the places of the n largest entries of each row of a non-negative matrix, in no order, ``[b, n]``.

    The n-th largest of the maxima of runs of columns is a bound below which none of them lies, so that few entries
    are left to be sorted.
    """
    n_rows, n_columns = values.shape
    n = min(n, n_columns)
    n_runs = n_columns // RUN
    if n_runs < 2 * n:
        return np.argpartition(values, n_columns - n, axis=1)[:, n_columns - n :]
    maxima = values[:, : n_runs * RUN].reshape(n_rows, n_runs, RUN).max(axis=2)
    bound = np.partition(maxima, n_runs - n, axis=1)[:, n_runs - n]
    is_large = values >= bound[:, None]
    crowded = np.flatnonzero(np.count_nonzero(is_large, axis=1) > RUN * n)  # rows of many equal entries
    is_large[crowded] = False
    rows, columns = np.nonzero(is_large)
    order = np.lexsort((-values[rows, columns], rows))
    counts = np.bincount(rows, minlength=n_rows)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found = np.zeros((n_rows, n), dtype=np.int64)
    full = np.flatnonzero(counts)
    found[full] = columns[order][starts[full, None] + np.arange(n)]
    if len(crowded):
        found[crowded] = np.argpartition(values[crowded], n_columns - n, axis=1)[:, n_columns - n :]
    return found


def pattern(weights: sparse.csr_array) -> sparse.csr_array:
    """Return a matrix with ones in the same places."""
    return sparse.csr_array((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)


def sparse_product(weights: sparse.csr_array, rows: RowSource) -> np.ndarray:
    """Return ``weights @ rows`` as float32 ``[b, D]``, reading only the rows that take part, block by block."""
    used, local = np.unique(weights.indices, return_inverse=True)
    by_column = sparse.csr_array((weights.data, local, weights.indptr), shape=(weights.shape[0], len(used))).tocsc()
    out = np.zeros((weights.shape[0], rows.shape[1]))
    for part in block_ranges(len(used), rows.shape[1], 4 * BLOCK_BYTES):
        out += by_column[:, part] @ rows.take(used[part]).astype(np.float64)
    return out.astype(np.float32)


def heaviest(weights: sparse.csr_array, k: int, total: np.ndarray, signed: np.ndarray) -> TopAnchors:
    """Return the k largest absolute entries of each row; equal ones by their column."""
    n_rows = weights.shape[0]
    lines = np.repeat(np.arange(n_rows), np.diff(weights.indptr))
    order = np.lexsort((weights.indices, -np.abs(weights.data), lines))
    rank = np.arange(len(order)) - np.repeat(weights.indptr[:-1], np.diff(weights.indptr))
    kept = rank < k
    columns = np.full((n_rows, k), -1, dtype=np.int64)
    values = np.zeros((n_rows, k))
    columns[lines[kept], rank[kept]] = weights.indices[order][kept]
    values[lines[kept], rank[kept]] = weights.data[order][kept]
    return TopAnchors(columns, values, np.asarray(total, dtype=np.float64), np.asarray(signed, dtype=np.float64))


def blocks_of_products(n_rows: int, n_columns: int) -> list[slice]:
    """Cut rows so that a float32 matrix against all columns stays within the bound of a block."""
    return list(block_ranges(n_rows, max(n_columns, 1), BLOCK_BYTES))
