"""``--method auto``: the method that finds hidden anchors of this pair best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clp_core import heldout
from clp_core.initializers import initializer
from clp_core.pair import Pair
from clp_core.progress import report_progress

AUTO = "auto"
CANDIDATES = ("linear", "two-view")
"""Methods that were best on every pair they were tried on, see docs/methods.md."""

FOLDS = 3


@dataclass(frozen=True)
class Choice:
    """What ``auto`` chose, and why.

    Attributes:
        method: its name.
        scores: centred cosine of each candidate on held-out anchors, mean of the folds.
        reason: one sentence.
    """

    method: str
    scores: Mapping[str, float | None]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return it for the report."""
        return {"method": self.method, "scores": dict(self.scores), "folds": FOLDS, "reason": self.reason}


def choose(pair: Pair, seed: int) -> Choice:
    """Score the candidates on hidden anchors, a tenth at a time in three folds, and take the best."""
    found = {}
    for name in CANDIDATES:
        report_progress(f"trying {name} on hidden anchors")
        found[name] = heldout.score(initializer(name), pair.context("input", seed), seed, folds=FOLDS)
    best = heldout.ranking(found)[0]
    scores = {name: score.centred_cosine if score else None for name, score in found.items()}
    if scores[best] is None:
        reason = f"{best}, because there are too few tokens in common to hide any"
    else:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if value is not None)
        reason = f"{best}, because it finds hidden anchors best (centred cosine: {listed})"
    return Choice(best, scores, reason)
