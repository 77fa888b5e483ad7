"""``--method auto``: the best of the methods that came out best where they were tried (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clp_core.initializers import initializer
from clp_core.initializers.two_view import TWO_VIEWS
from clp_core.progress import report_progress
from clp_core.reports.transfer_report import AutoSummary
from clp_core.transfer import heldout_anchors
from clp_core.transfer.heldout_anchors import HeldOut
from clp_core.transfer.model_pair import ModelPair

PLAIN = ("linear", {"neighbours": 16.0})
RICHER: tuple[str, dict[str, float]] = ("two-view", {})
MARGIN = 0.03
"""How much better ``two-view`` must find hidden anchors. They are split into two pieces at their last merge and lie
nearer to the source's language than missing tokens do, so a small lead there is none on the missing tokens."""

FOLDS = 3


@dataclass(frozen=True)
class Choice:
    """What ``auto`` chose, and why.

    Attributes:
        method: its name.
        settings: its settings.
        scores: centred cosine of each candidate on held-out anchors, mean of the folds.
        reason: one sentence.
        first_fold: scores of the chosen method on the first tenth, which are those of a transfer by it.
    """

    method: str
    settings: Mapping[str, float]
    scores: Mapping[str, float | None]
    reason: str
    first_fold: HeldOut | None = None

    @property
    def summary(self) -> AutoSummary:
        """The choice for the report."""
        return AutoSummary(self.reason, self.method, self.settings, self.scores, FOLDS, MARGIN)


def choose(pair: ModelPair, seed: int) -> Choice:
    """Score the candidates on hidden anchors, a tenth at a time in three folds.

    ``linear`` with the nearest residuals is taken unless ``two-view`` is better by the margin.
    """
    scores: dict[str, float | None] = {}
    first: dict[str, HeldOut | None] = {}
    for name, settings in (PLAIN, RICHER):
        report_progress(f"trying {name} on hidden anchors")
        context = pair.context("input", seed, settings)
        folds = heldout_anchors.score_folds(initializer(name), context, seed, folds=FOLDS)
        found = heldout_anchors.mean_of(folds)
        scores[name], first[name] = found.centred_cosine if found else None, folds[0] if folds else None
    plain, richer = scores[PLAIN[0]], scores[RICHER[0]]
    if plain is None or richer is None:
        return Choice(*PLAIN, scores, f"{PLAIN[0]}, because there are too few tokens in common to hide any")
    listed = f"centred cosine on hidden anchors: {PLAIN[0]} {plain:.3f}, {RICHER[0]} {richer:.3f}"
    if richer >= plain + MARGIN:
        reason = f"{RICHER[0]}, because the source's pieces tell of the tokens here ({listed})"
        return Choice(*RICHER, scores, reason, first[RICHER[0]])
    pair.free_sums(TWO_VIEWS)
    reason = f"{PLAIN[0]}, because the source's pieces add less than {MARGIN} here ({listed})"
    return Choice(*PLAIN, scores, reason, first[PLAIN[0]])
