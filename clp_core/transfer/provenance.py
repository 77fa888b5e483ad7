"""Per token of the target: status, where its row comes from, its anchors, and how healthy it is; kept as parquet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clp_core.checkpoints.provenance_reading import ANCHOR_COLUMNS
from clp_core.reports.transfer_report import HealthSummary
from clp_core.tokenization.overlap import Overlap

KEPT_ANCHORS = 16
ROW_GROUP = 16_384

MAX_NORM_RATIO = 3.0
MIN_N_EFF = 1.0 - 1e-6  # one anchor alone is exactly 1 but for rounding
MAX_SHARE_OF_ANCHORS = 0.5


def at_risk(n_eff: np.ndarray, norm_ratio: np.ndarray, n_anchors: int, *, dense: bool | np.ndarray) -> np.ndarray:
    """Return which made rows are too long, cancelled or collapsed, ``[b]`` of bool (see ``Health``)."""
    everything = np.ones(len(n_eff), dtype=bool)
    health = Health(n_eff, norm_ratio, everything, ~everything, n_anchors, dense)
    return (norm_ratio > MAX_NORM_RATIO) | health.cancelled | health.collapsed


@dataclass(frozen=True)
class Health:
    """Health figures of every target row.

    Attributes:
        n_eff: Kish's effective count of anchors of each missing token, NaN elsewhere, ``[n_rows]``.
        norms: length of each row, ``[n_rows]``.
        is_missing: which rows were initialised, ``[n_rows]`` of bool.
        is_copied: which rows were copied, ``[n_rows]`` of bool.
        n_anchors: number of anchors.
        dense: whether the method uses all anchors; for all rows, or for each, ``[n_rows]`` of bool.
    """

    n_eff: np.ndarray
    norms: np.ndarray
    is_missing: np.ndarray
    is_copied: np.ndarray
    n_anchors: int
    dense: bool | np.ndarray

    @cached_property
    def norm_ratio(self) -> np.ndarray:
        """Length of each row over the mean length of the copied rows, ``[n_rows]``; NaN where none was copied."""
        usual = float(self.norms[self.is_copied].mean()) if self.is_copied.any() else float("nan")
        return self.norms / usual if usual else np.full_like(self.norms, np.nan)

    @property
    def too_long(self) -> np.ndarray:
        """Missing rows that are more than three times as long as copied ones."""
        return self.is_missing & (self.norm_ratio > MAX_NORM_RATIO)

    @property
    def cancelled(self) -> np.ndarray:
        """Missing rows whose weights cancel: fewer than one effective anchor."""
        return self.is_missing & (self.n_eff < MIN_N_EFF)

    @property
    def collapsed(self) -> np.ndarray:
        """Missing rows of a dense method that lean on more than half of the anchors: nearly the mean row."""
        return self.is_missing & self.dense & (self.n_eff > MAX_SHARE_OF_ANCHORS * self.n_anchors)

    @cached_property
    def at_risk(self) -> np.ndarray:
        """Missing rows that are too long, cancelled or collapsed, ``[n_rows]`` of bool."""
        return self.too_long | self.cancelled | self.collapsed

    def summary(self) -> HealthSummary:
        """Return the figures of the report; ``None`` where there is nothing to measure."""
        n_eff = self.n_eff[self.is_missing & np.isfinite(self.n_eff)]
        ratios = self.norm_ratio[self.is_missing]
        return HealthSummary(
            rows_at_risk=int(self.at_risk.sum()),
            too_long=int(self.too_long.sum()),
            cancelled=int(self.cancelled.sum()),
            collapsed=int(self.collapsed.sum()),
            n_eff_median=float(np.median(n_eff)) if len(n_eff) else None,
            norm_ratio_max=float(ratios.max()) if len(ratios) and np.isfinite(ratios).all() else None,
        )


@dataclass(frozen=True)
class Anchors:
    """The heaviest anchors of every row, by falling absolute weight; -1 and 0 where there are fewer.

    Attributes:
        targets: target ids, -1 where the anchor is a source token alone, ``[n_rows, k]``.
        sources: source ids, ``[n_rows, k]``.
        weights: ``[n_rows, k]``.
        cosines: between the helper's rows, NaN where the anchor is a source token alone, ``[n_rows, k]``.
        share: share of the sum of all absolute weights that they hold, ``[n_rows]``, NaN where none are kept.
        cancellation: ``1 - |sum w| / sum |w|`` over all anchors, ``[n_rows]``, NaN where none are kept.
    """

    targets: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    cosines: np.ndarray
    share: np.ndarray
    cancellation: np.ndarray

    @classmethod
    def empty(cls, n_rows: int, k: int) -> Anchors:
        """Return room for k anchors a row."""
        none = np.full((n_rows, k), -1, dtype=np.int32)
        nothing = np.full(n_rows, np.nan, dtype=np.float32)
        zeros = np.zeros((n_rows, k), dtype=np.float32)
        return cls(none, none.copy(), zeros, np.full((n_rows, k), np.nan, np.float16), nothing, nothing.copy())

    @property
    def k(self) -> int:
        """Anchors kept a row."""
        return int(self.targets.shape[1])

    def keep(
        self,
        ids: np.ndarray,
        targets: np.ndarray,
        sources: np.ndarray,
        weights: np.ndarray,
        cosines: np.ndarray,
        total: np.ndarray,
        signed: np.ndarray,
    ) -> None:
        """Note the anchors of some rows; ``total`` and ``signed`` are the sums over all anchors, ``[b]``."""
        self.targets[ids], self.sources[ids] = targets, sources
        self.weights[ids], self.cosines[ids] = weights, cosines
        some = total > 0
        held = np.divide(np.abs(weights).sum(axis=1), total, out=np.full(len(ids), np.nan), where=some)
        self.share[ids] = np.minimum(held, 1)  # the total was summed in float32
        self.cancellation[ids] = np.maximum(
            1 - np.divide(np.abs(signed), total, out=np.full(len(ids), np.nan), where=some), 0
        )

    def scaled(self, scale: np.ndarray) -> Anchors:
        """Return them with each row's weights multiplied, ``scale`` is ``[n_rows]``."""
        weights = (self.weights * scale[:, None]).astype(np.float32)
        return Anchors(self.targets, self.sources, weights, self.cosines, self.share, self.cancellation)


def write_provenance(
    path: Path,
    overlap: Overlap,
    status: np.ndarray,
    method: np.ndarray,
    scale: np.ndarray,
    health: Health,
    anchors: Anchors | None,
    output: tuple[np.ndarray, Health] | None = None,
) -> None:
    """Write one row a target row, in groups of rows, as a parquet file.

    Columns: id, token, bytes, status, special, source_id, method (of initialised rows), scale (what the row was
    multiplied with to match norms), n_eff, norm, norm_ratio, at_risk, cancellation and anchor_share (null where no
    anchors are kept), and the lists anchor_ids, anchor_source_ids, anchor_weights, anchor_cosines.

    Args:
        path: the file.
        overlap: source and target vocabulary, and what was copied.
        status: status of each row, text ``[n_rows]``.
        method: name of the method that made each row, empty text elsewhere, ``[n_rows]``.
        scale: ``[n_rows]``.
        health: figures of each row.
        anchors: the heaviest anchors, or ``None``.
        output: method and figures of the output rows, where they are not tied; columns ``output_method``,
            ``output_n_eff``, ``output_norm_ratio`` and ``output_at_risk``.
    """
    target, n_rows = overlap.target, len(status)
    special = np.zeros(n_rows, dtype=bool)
    special[list(target.special_ids)] = True
    source_ids = np.full(n_rows, -1, dtype=np.int64)
    source_ids[: target.n_ids] = overlap.source_ids
    padding = n_rows - target.n_ids
    tokens, data = [*target.tokens, *[None] * padding], [*target.token_bytes, *[b""] * padding]
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, n_rows, ROW_GROUP):
            part = slice(start, min(start + ROW_GROUP, n_rows))
            columns: dict[str, pa.Array] = {
                "id": pa.array(np.arange(part.start, part.stop, dtype=np.int32)),
                "token": pa.array(tokens[part], pa.string()),
                "bytes": pa.array(data[part], pa.binary()),
                "status": pa.array(status[part].tolist(), pa.string()),
                "special": pa.array(special[part]),
                "source_id": pa.array(source_ids[part], pa.int32(), mask=source_ids[part] < 0),
                "method": pa.array([name or None for name in method[part]], pa.string()),
                "scale": pa.array(scale[part]),
                "n_eff": pa.array(health.n_eff[part]),
                "norm": pa.array(health.norms[part]),
                "norm_ratio": pa.array(health.norm_ratio[part]),
                "at_risk": pa.array(health.at_risk[part]),
            }
            if output is not None:
                columns |= {
                    "output_method": pa.array([name or None for name in output[0][part]], pa.string()),
                    "output_n_eff": pa.array(output[1].n_eff[part]),
                    "output_norm_ratio": pa.array(output[1].norm_ratio[part]),
                    "output_at_risk": pa.array(output[1].at_risk[part]),
                }
            columns |= anchor_columns(anchors, part)
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()


def anchor_columns(anchors: Anchors | None, part: slice) -> dict[str, pa.Array]:
    """Return the columns about anchors of a run of rows; nulls and empty lists where none are kept."""
    n = part.stop - part.start
    if anchors is None:
        kept, share, cancellation = np.zeros((n, 0), bool), np.full(n, np.nan), np.full(n, np.nan)
        values = [np.zeros((n, 0), kind) for kind in (np.int32, np.int32, np.float32, np.float16)]
    else:
        kept, share, cancellation = anchors.sources[part] >= 0, anchors.share[part], anchors.cancellation[part]
        values = [anchors.targets[part], anchors.sources[part], anchors.weights[part], anchors.cosines[part]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32))
    columns = {
        "anchor_share": pa.array(share.astype(np.float32), mask=np.isnan(share)),
        "cancellation": pa.array(cancellation.astype(np.float32), mask=np.isnan(cancellation)),
    }
    for name, value in zip(ANCHOR_COLUMNS, values, strict=True):
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(value[kept]))
    return columns
