"""Per token of the target: status, where its row comes from, its anchors, and how healthy it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clp_core.checkpoint import Checkpoint
from clp_core.errors import InputError
from clp_core.initializers import Context, Fitted, initializer
from clp_core.locate import read_json
from clp_core.neighbors import unit
from clp_core.overlap import Overlap
from clp_core.tensors import RowSource
from clp_core.vocabulary import Vocabulary
from clp_core.workspace import REPORT_FILE

PROVENANCE_FILE = "clp_provenance.parquet"

MAX_NORM_RATIO = 3.0
MIN_N_EFF = 1.0
MAX_SHARE_OF_ANCHORS = 0.5


@dataclass(frozen=True)
class Health:
    """Health figures of every target row.

    Attributes:
        n_eff: Kish's effective count of anchors of each missing token, NaN elsewhere, ``[n_ids]``.
        norms: length of each row, ``[n_ids]``.
        is_missing: which rows were initialised, ``[n_ids]`` of bool.
        is_copied: which rows were copied, ``[n_ids]`` of bool.
        n_anchors: number of anchors.
        dense: whether the method uses all anchors.
    """

    n_eff: np.ndarray
    norms: np.ndarray
    is_missing: np.ndarray
    is_copied: np.ndarray
    n_anchors: int
    dense: bool

    @cached_property
    def norm_ratio(self) -> np.ndarray:
        """Length of each row over the mean length of the copied rows, ``[n_ids]``."""
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
        limit = MAX_SHARE_OF_ANCHORS * self.n_anchors
        return self.is_missing & (self.n_eff > limit) if self.dense else np.zeros_like(self.is_missing)

    @cached_property
    def at_risk(self) -> np.ndarray:
        """Missing rows that are too long, cancelled or collapsed, ``[n_ids]`` of bool."""
        return self.too_long | self.cancelled | self.collapsed

    def summary(self) -> dict[str, Any]:
        """Return the figures of the report; ``None`` where there is nothing to measure."""
        n_eff = self.n_eff[self.is_missing & np.isfinite(self.n_eff)]
        ratios = self.norm_ratio[self.is_missing]
        return {
            "rows_at_risk": int(self.at_risk.sum()),
            "n_eff_median": float(np.median(n_eff)) if len(n_eff) else None,
            "norm_ratio_max": float(ratios.max()) if len(ratios) else None,
            "too_long": int(self.too_long.sum()),
            "cancelled": int(self.cancelled.sum()),
            "collapsed": int(self.collapsed.sum()),
        }


def provenance_table(overlap: Overlap, health: Health) -> pd.DataFrame:
    """Return one row a target id.

    Columns: id, token, bytes, status (``copied``, ``initialised`` or ``padding`` for a gap), special, source_id,
    n_eff, norm, norm_ratio, at_risk.
    """
    target = overlap.target
    status = np.where(health.is_copied, "copied", np.where(health.is_missing, "initialised", "padding"))
    special = np.zeros(target.n_ids, dtype=bool)
    special[list(target.special_ids)] = True
    return pd.DataFrame(
        {
            "id": np.arange(target.n_ids, dtype=np.int64),
            "token": pd.Series(target.tokens, dtype=object),
            "bytes": pd.Series(target.token_bytes, dtype=object),
            "status": pd.Categorical(status),
            "special": special,
            "source_id": pd.Series(overlap.source_ids, dtype="Int64").mask(pd.Series(overlap.source_ids) < 0),
            "n_eff": health.n_eff,
            "norm": health.norms,
            "norm_ratio": health.norm_ratio,
            "at_risk": health.at_risk,
        }
    )


@dataclass(frozen=True)
class Anchor:
    """One anchor of a missing token: the overlapping token, its weight, and its cosine to the token in the helper."""

    token: str
    id: int
    source_id: int
    weight: float
    cosine: float


@dataclass(frozen=True)
class Explanation:
    """How one row of a target model came about.

    Attributes:
        token: raw token.
        id: target id.
        status: ``copied``, ``initialised`` or ``padding``.
        source_id: the source row that was copied, or ``None``.
        n_eff: effective count of anchors, or ``None`` for a copied row and for methods without weights.
        cancellation: ``1 - |sum w| / sum |w|``, 0 where all weights have one sign, or ``None``.
        norm_ratio: length of the row over the mean length of copied rows.
        at_risk: whether a health figure is out of bounds.
        anchors: the anchors with the largest weights, by absolute value, largest first.
        anchors_for_90_percent: how many anchors carry 90 % of the absolute weight.
        n_anchors: number of all anchors.
    """

    token: str
    id: int
    status: str
    source_id: int | None
    n_eff: float | None
    cancellation: float | None
    norm_ratio: float | None
    at_risk: bool
    anchors: tuple[Anchor, ...]
    anchors_for_90_percent: int
    n_anchors: int

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        shown = ("token", "id", "status", "source_id", "n_eff", "cancellation", "norm_ratio")
        anchors = [
            {key: getattr(anchor, key) for key in ("token", "id", "weight", "cosine")} for anchor in self.anchors
        ]
        return {key: getattr(self, key) for key in shown} | {"anchors": anchors}


@dataclass(frozen=True)
class Explainer:
    """Explains single rows of a target model from the helper's rows alone.

    Attributes:
        report: the transfer's report.
        table: the stored provenance.
        vocabulary: the target's vocabulary.
        helper_rows: input embeddings of the helper, ``[n_target, d]``.
    """

    report: Mapping[str, Any]
    table: pd.DataFrame
    vocabulary: Vocabulary
    helper_rows: RowSource

    @classmethod
    def open(cls, folder: Path, helper_rows: RowSource | None = None) -> Explainer:
        """Open a folder that a transfer wrote.

        Args:
            folder: the target model.
            helper_rows: the helper's input rows, if they are at hand; otherwise they are read from the helper's folder.

        Raises:
            InputError: no transfer wrote this folder, or the helper is gone.
        """
        report = read_report(folder)
        if helper_rows is None:
            helper = Path(report["helper"])
            if not helper.is_dir():
                raise InputError(
                    f"the helper {helper} is gone; its rows are needed to show the anchors of {folder.name}"
                )
            helper_rows = Checkpoint.open(helper).rows("input")
        return cls(report, pd.read_parquet(folder / PROVENANCE_FILE), Vocabulary.open(folder), helper_rows)

    @cached_property
    def anchor_ids(self) -> np.ndarray:
        """Target ids of the anchors."""
        return np.flatnonzero((self.table["status"] == "copied").to_numpy())

    @cached_property
    def fitted(self) -> Fitted:
        """The method, fitted again with the parameters that the transfer chose."""
        parameters = self.report["parameters"]["input"]
        context = Context(self.helper_rows, self.anchor_ids, None, self.report["seed"], parameters)
        return initializer(self.report["method"]).fit(context)

    @cached_property
    def _unit_anchors(self) -> np.ndarray:
        return unit(self.helper_rows.take(self.anchor_ids))

    def explain(self, token_id: int, k: int = 10) -> Explanation:
        """Explain the row of one target id with its k largest weights."""
        record = self.table.iloc[token_id]
        weights = None
        if record["status"] == "initialised":
            found = self.fitted.weights(np.array([token_id]))
            weights = None if found is None else found[0]
        anchors: tuple[Anchor, ...] = ()
        cancellation, carriers = None, 0
        if weights is not None and len(weights):
            size = np.abs(weights)
            order = np.argsort(-size, kind="stable")
            cosines = self._unit_anchors @ unit(self.helper_rows.take(np.array([token_id])))[0]
            anchors = tuple(self._anchor(i, weights, cosines) for i in order[:k])
            total = float(size.sum())
            cancellation = float(1 - abs(weights.sum()) / total) if total else None
            carriers = int(np.searchsorted(np.cumsum(size[order]), 0.9 * total)) + 1
        source_id = record["source_id"]
        return Explanation(
            token=self.vocabulary.tokens[token_id] or "",
            id=token_id,
            status=str(record["status"]),
            source_id=None if pd.isna(source_id) else int(source_id),
            n_eff=finite(record["n_eff"]),
            cancellation=cancellation,
            norm_ratio=finite(record["norm_ratio"]),
            at_risk=bool(record["at_risk"]),
            anchors=anchors,
            anchors_for_90_percent=carriers,
            n_anchors=len(self.anchor_ids),
        )

    def _anchor(self, position: int, weights: np.ndarray, cosines: np.ndarray) -> Anchor:
        anchor_id = int(self.anchor_ids[position])
        return Anchor(
            token=self.vocabulary.tokens[anchor_id] or "",
            id=anchor_id,
            source_id=int(self.table["source_id"].iloc[anchor_id]),
            weight=float(weights[position]),
            cosine=float(cosines[position]),
        )


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report of a transfer.

    Raises:
        InputError: no transfer wrote this folder.
    """
    report = read_json(folder / REPORT_FILE)
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
