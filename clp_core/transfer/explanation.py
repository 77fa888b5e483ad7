"""Where one row of a target comes from: its anchors, found again from the helper's rows or read as they were kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import check_rows
from clp_core.checkpoints.provenance_reading import ANCHOR_COLUMNS, explained_provenance, read_columns
from clp_core.checkpoints.safetensors_reader import TensorRows, content_of
from clp_core.embeddings.nearest import unit
from clp_core.embeddings.row_source import RowSource, block_ranges
from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE, REPORT_FILE
from clp_core.initializers import initializer
from clp_core.initializers.base import Context, Fitted
from clp_core.reports.transfer_report import TransferReport, read_transfer_report
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.provenance import KEPT_ANCHORS, ROW_GROUP

WRITTEN_OUT = 3
"""Anchors that a formula with its numbers writes out."""

ALL_WEIGHT = 0.9999
"""Kept anchors that hold this share of the weight, which is kept in half a dozen digits, are all there are."""


@dataclass(frozen=True)
class Anchor:
    """One anchor of a token.

    Attributes:
        token: the overlapping token, or the source token where it is a source token alone.
        id: its target id, or ``None``.
        source_id: its source row.
        weight: what its source row is multiplied with.
        cosine: to the token, in the helper, or ``None``.
    """

    token: str
    id: int | None
    source_id: int
    weight: float
    cosine: float | None


@dataclass(frozen=True)
class Explanation:
    """How one row of a target model came about.

    Attributes:
        token: raw token.
        id: target id.
        status: ``copied``, ``initialised``, ``override``, ``special`` (copied by role) or ``padding``.
        method: the method that made the row, ``None`` for one that no method made.
        source_id: the source row that was copied, or ``None``.
        n_eff: effective count of anchors, or ``None`` for a copied row and for methods without weights.
        cancellation: ``1 - |sum w| / sum |w|``, 0 where all weights have one sign, or ``None``.
        norm_ratio: length of the row over the mean length of copied rows.
        at_risk: whether a health figure is out of bounds.
        anchors: the anchors with the largest weights, by absolute value, largest first.
        anchors_for_90_percent: how many anchors carry 90 % of the absolute weight; ``None`` where too few are kept.
        n_anchors: number of all anchors.
        mass: share of the absolute weight of all anchors that these hold, or ``None``.
        parameters: what the method's fit has chosen, such as lambda.
        n_used: number of anchors whose weight is not 0, or ``None`` where only the kept ones are known.
    """

    token: str
    id: int
    status: str
    method: str | None
    source_id: int | None
    n_eff: float | None
    cancellation: float | None
    norm_ratio: float | None
    at_risk: bool
    anchors: tuple[Anchor, ...]
    anchors_for_90_percent: int | None
    n_anchors: int
    mass: float | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    n_used: int | None = None

    @property
    def formula(self) -> str:
        """What the method makes of a missing token, in LaTeX; empty for a row that no method made."""
        return initializer(self.method).formula if self.method else ""

    @property
    def filled_in(self) -> str:
        """The same with this token's numbers, or empty text; the three heaviest anchors are written out."""
        if not self.anchors:
            return ""
        terms = [(anchor.source_id, anchor.weight, anchor.cosine) for anchor in self.anchors[:WRITTEN_OUT]]
        known = self.n_used if self.n_used is not None else len(self.anchors) if self.mass == 1 else None
        method = initializer(self.method or "mean")
        return method.filled_in(terms, known - len(terms) if known is not None else None)

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        shown = ("token", "id", "status", "method", "source_id", "n_eff", "cancellation", "norm_ratio", "at_risk")
        keys = ("token", "id", "weight", "cosine", "source_id")
        anchors = [{key: getattr(anchor, key) for key in keys} for anchor in self.anchors]
        return {key: getattr(self, key) for key in shown} | {"anchors": anchors}


@dataclass(frozen=True)
class AnchorWeights:
    """The anchors of one token with the sums over all of them; see ``Anchor`` and ``Explanation``."""

    anchors: tuple[Anchor, ...] = ()
    cancellation: float | None = None
    carriers: int | None = None
    mass: float | None = None
    n_used: int | None = None


@dataclass(frozen=True)
class Recomputed:
    """A row made again.

    Attributes:
        terms: source rows that were summed.
        difference: length of what it differs by from the row that was written, over the latter's length; about 1e-7
            for float32, 2e-3 for bfloat16.
    """

    terms: int
    difference: float


@dataclass(frozen=True)
class Explainer:
    """Explains single rows of a target model, from the helper's rows or from the anchors that were kept.

    Attributes:
        folder: the target model.
        report: the transfer's report.
        table: the stored provenance, without the lists of anchors.
        vocabulary: the target's vocabulary.
        helper_rows: input embeddings of the helper, ``[n_target, d]``, or ``None`` where the helper is gone.
        source_vocabulary: the source's, where it is at hand; otherwise it is read from the folder in the report.
    """

    folder: Path
    report: TransferReport
    table: pd.DataFrame
    vocabulary: Vocabulary
    helper_rows: RowSource | None
    source_vocabulary: Vocabulary | None = None

    @classmethod
    def open(
        cls, folder: Path, helper_rows: RowSource | None = None, content: str = "", source: Vocabulary | None = None
    ) -> Explainer:
        """Open a folder that a transfer wrote.

        A helper that is gone, or whose rows are no longer those of the transfer, is not used: the anchors that were
        kept serve then.

        Args:
            folder: the target model.
            helper_rows: the helper's input rows, if they are at hand; otherwise they are read from the helper's folder.
            content: what ``content_of`` said of these rows; rows without it are taken as they are.
            source: the source's vocabulary, if it is at hand. Pages give it, as a report may name any folder.

        Raises:
            InputError: no transfer wrote this folder.
        """
        report = read_report(folder)
        if helper_rows is None:
            helper_rows, content = helper_of(report)
        if content and content != (report.helper_content or content):
            helper_rows = None
        table, vocabulary = read_columns(folder), Vocabulary.open(folder, apart=True)
        if len(table) < vocabulary.n_ids:
            raise InputError(
                f"{folder / PROVENANCE_FILE} has {len(table):,} rows for {vocabulary.n_ids:,} tokens; write the target "
                "again"
            )
        return cls(folder, report, table, vocabulary, helper_rows, source)

    @cached_property
    def anchor_ids(self) -> np.ndarray:
        """Target ids of the anchors."""
        return np.flatnonzero(self.table["status"].isin(("copied", "special")).to_numpy())

    @cached_property
    def _fitted(self) -> dict[str, Fitted]:
        return {}

    def fitted(self, method: str) -> Fitted:
        """Return a method, fitted again with the parameters that the transfer chose."""
        if method not in self._fitted:
            assert self.helper_rows is not None
            parameters = self.report.parameters["input"].get(method, {})
            settings = initializer(method).resolve(self.report.settings.get(method, {}))
            context = Context(self.helper_rows, self.anchor_ids, None, self.report.seed, parameters, settings)
            self._fitted[method] = initializer(method).fit(context)
        return self._fitted[method]

    def explain(self, token_id: int, k: int = 10) -> Explanation:
        """Explain the row of one target id with its k largest weights.

        Where a method's weights cannot be found again from the helper's rows, at most the anchors that were kept with
        the model are shown.

        Raises:
            InputError: the helper is gone, and no anchors were kept.
        """
        record = self.table.iloc[token_id]
        status = str(record["status"])
        method = None if pd.isna(record["method"]) else str(record["method"])
        weighed = AnchorWeights()
        if status == "override":
            weighed = self._overridden(token_id, k)
        elif method is not None:
            again = initializer(method).from_helper and self.helper_rows is not None
            weighed = self._weighed(token_id, method, k) if again else self._kept(token_id, k)
        source_id = record["source_id"]
        return Explanation(
            token=self.vocabulary.tokens[token_id] or "",
            id=token_id,
            status=status,
            method=method,
            source_id=None if pd.isna(source_id) else int(source_id),
            n_eff=finite(record["n_eff"]),
            cancellation=weighed.cancellation,
            norm_ratio=finite(record["norm_ratio"]),
            at_risk=bool(record["at_risk"]),
            anchors=weighed.anchors,
            anchors_for_90_percent=weighed.carriers,
            n_anchors=len(self.anchor_ids),
            mass=weighed.mass,
            parameters=self.report.parameters["input"].get(method, {}) if method else {},
            n_used=weighed.n_used,
        )

    def recompute(self, token_id: int, source: RowSource, target: RowSource) -> Recomputed | None:
        """Make a row again from its weights and the source's rows, and compare it with the one that was written.

        Args:
            token_id: the token.
            source: input rows of the source, ``[n_source, D]``.
            target: input rows of the target, ``[n_rows, D]``.

        Returns:
            ``None`` where the weights are not all known: a method without weights, or kept anchors only.

        Raises:
            InputError: the row that was written, or a source row that it is made of, is not finite.
        """
        weights = self._all_weights(token_id)
        if weights is None:
            return None
        made = np.zeros(source.shape[1])
        ids, values = weights
        if ids.min(initial=0) < 0 or ids.max(initial=0) >= source.shape[0]:
            raise InputError(
                f"{self.folder / PROVENANCE_FILE} names rows that the source lacks; write the target again"
            )
        check_rows(target, np.array([token_id]), "input", str(self.folder), self.vocabulary)
        check_rows(source, np.unique(ids), "input", self.report.source, self._source_vocabulary)
        for part in block_ranges(len(ids), source.shape[1]):
            made += values[part] @ source.take(ids[part]).astype(np.float64)
        written = target.take(np.array([token_id]))[0].astype(np.float64)
        length = float(np.linalg.norm(written))
        return Recomputed(len(ids), float(np.linalg.norm(made - written) / length) if length else 0.0)

    def _all_weights(self, token_id: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return source ids and weights of a row, all of them, or ``None``."""
        record = self.table.iloc[token_id]
        if not pd.isna(record["source_id"]):
            return np.array([int(record["source_id"])]), np.ones(1)
        if record["status"] == "override":
            named = self._sources_of_override(token_id)
            return np.array(named, dtype=np.int64), np.full(len(named), 1 / len(named))
        method = None if pd.isna(record["method"]) else str(record["method"])
        if method is None:
            return None
        if initializer(method).from_helper and self.helper_rows is not None:
            found = self.fitted(method).weights(np.array([token_id]))
            if found is None or not found.shape[1]:
                return None
            sources = self.table["source_id"].iloc[self.anchor_ids].to_numpy(dtype=np.int64)
            used = np.flatnonzero(found[0])
            return sources[used], found[0][used] * float(record["scale"])
        kept = self._kept(token_id, KEPT_ANCHORS)
        if kept.mass is None or kept.mass < ALL_WEIGHT:
            return None
        return np.array([a.source_id for a in kept.anchors]), np.array([a.weight for a in kept.anchors])

    def _weighed(self, token_id: int, method: str, k: int) -> AnchorWeights:
        """Find a token's weights again from the helper's rows."""
        found = self.fitted(method).weights(np.array([token_id]))
        if found is None or not found.shape[1]:
            return AnchorWeights()
        assert self.helper_rows is not None
        weights = found[0] * float(self.table["scale"].iloc[token_id])
        size = np.abs(weights)
        order = np.argsort(-size, kind="stable")
        ids = self.anchor_ids[order[:k]]
        cosines = unit(self.helper_rows.take(ids)) @ unit(self.helper_rows.take(np.array([token_id])))[0]
        sources = self.table["source_id"].iloc[ids].to_numpy(dtype=np.int64)
        anchors = self._anchors(ids, sources, weights[order[:k]], cosines)
        total = float(size.sum())
        carriers = int(np.searchsorted(np.cumsum(size[order]), 0.9 * total)) + 1
        used = int(np.count_nonzero(size))
        return AnchorWeights(
            anchors[: min(k, used)],
            float(1 - abs(weights.sum()) / total) if total else None,
            min(carriers, used),
            float(size[order[:k]].sum() / total) if total else None,
            used,
        )

    def _kept(self, token_id: int, k: int) -> AnchorWeights:
        """Read the anchors that were kept with the model."""
        file = pq.ParquetFile(self.folder / PROVENANCE_FILE)
        columns = [*ANCHOR_COLUMNS, "anchor_share", "cancellation"]
        with explained_provenance(self.folder / PROVENANCE_FILE):
            group = file.read_row_group(token_id // ROW_GROUP, columns=columns)
        record = group.slice(token_id % ROW_GROUP, 1).to_pylist()[0]
        if not record["anchor_ids"]:
            if record["anchor_share"] is None and not pd.isna(self.table["n_eff"].iloc[token_id]):
                raise InputError(
                    f"the helper {self.report.helper} is gone or changed, and no anchors were kept with "
                    f"{self.folder.name}; put it back as it was, or write the target with --provenance full"
                )
            return AnchorWeights()
        weights = np.array(record["anchor_weights"])
        share, cancellation = record["anchor_share"], record["cancellation"]
        parts = np.cumsum(np.abs(weights)) / np.abs(weights).sum() * share
        carriers = int(np.searchsorted(parts, 0.9)) + 1 if share >= 0.9 else None
        columns_of = (record[name][:k] for name in ANCHOR_COLUMNS)
        return AnchorWeights(self._anchors(*columns_of), cancellation, carriers, float(parts[:k][-1]))

    def _overridden(self, token_id: int, k: int) -> AnchorWeights:
        """Return the source tokens whose mean an overridden row is."""
        sources = self._sources_of_override(token_id)
        shares = np.full(len(sources), 1 / len(sources))
        none = np.full(len(sources), -1)
        return AnchorWeights(
            self._anchors(none, sources, shares, np.full(len(sources), np.nan))[:k], 0.0, len(sources), 1.0
        )

    def _sources_of_override(self, token_id: int) -> list[int]:
        sources = self.report.overrides.get(str(token_id))
        if not sources:
            raise InputError(f"the report of {self.folder} does not hold its override #{token_id}; write it again")
        return [int(source) for source in sources]

    @cached_property
    def _source_vocabulary(self) -> Vocabulary | None:
        if self.source_vocabulary is not None:
            return self.source_vocabulary
        folder = Path(self.report.source)
        return Vocabulary.open(folder, apart=True) if folder.is_dir() else None

    def _anchors(
        self, ids: Iterable[int], sources: Iterable[int], weights: Iterable[float], cosines: Iterable[float]
    ) -> tuple[Anchor, ...]:
        return tuple(
            Anchor(
                token=self._token(int(i), int(source)),
                id=int(i) if i >= 0 else None,
                source_id=int(source),
                weight=float(weight),
                cosine=finite(cosine),
            )
            for i, source, weight, cosine in zip(ids, sources, weights, cosines, strict=True)
        )

    def _token(self, target_id: int, source_id: int) -> str:
        tokens, place = self.vocabulary.tokens, target_id
        if target_id < 0:
            source = self._source_vocabulary
            tokens, place = (source.tokens if source is not None else ()), source_id
        return (tokens[place] or "") if 0 <= place < len(tokens) else f"#{place}"  # a foreign file may name any


def helper_of(report: TransferReport) -> tuple[TensorRows | None, str]:
    """Return the helper's input rows and their content, ``None`` where it cannot be opened."""
    try:
        rows = Checkpoint.open(report.helper).rows("input")
        return rows, content_of(rows)
    except InputError:
        return None, ""


def read_report(folder: Path) -> TransferReport:
    """Return the report of a transfer.

    Raises:
        InputError: no transfer wrote this folder.
    """
    report = read_transfer_report(folder)
    if not report or not (folder / PROVENANCE_FILE).is_file():
        raise InputError(
            f"{folder} was not written by a transfer (no {REPORT_FILE}); name the output of `clp transfer`"
        )
    return report


def finite(value: Any) -> float | None:
    """Return a number as a float, or ``None`` where it is missing or not finite."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return None
    return float(value)
