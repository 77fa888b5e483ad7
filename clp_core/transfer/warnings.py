"""What a user should know of a transfer, in words, from what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator

from clp_core.reports.transfer_report import HealthSummary, HeldOutSummary, ZeroStep

MOST_UNKNOWN = 0.05
RISKS = (
    ("collapsed", "collapse to the mean (n_eff above half the anchors)"),
    ("cancelled", "cancel (n_eff below 1)"),
    ("too_long", "are more than 3 times as long as copied rows"),
)


def health_warnings(
    health: HealthSummary, missing: int, method: str, score: HeldOutSummary | None = None, *, was_chosen: bool = False
) -> Iterator[str]:
    """Yield a sentence for each side whose new rows are at risk.

    Args:
        health: the figures of the input rows, with those of the output rows.
        missing: number of new rows.
        method: that made them.
        score: on hidden anchors, where it was measured.
        was_chosen: whether ``auto`` has compared it with others.
    """
    if health.rows_at_risk:
        text = at_risk(health, missing, "rows", method)
        if score is not None and score.centred_cosine is not None:
            text += f". It finds held-out anchors with a centred cosine of {score.centred_cosine:.2f}"
        if not was_chosen:
            text += "; --method auto takes the better of linear and two-view there, clp compare-methods scores all"
        yield text
    if health.output is not None and health.output.rows_at_risk:
        yield at_risk(health.output, missing, "output rows", method)


def at_risk(health: HealthSummary, missing: int, rows: str, method: str) -> str:
    """Say how many rows are at risk, and why."""
    kinds = [f"{n:,} {meaning}" for name, meaning in RISKS if (n := getattr(health, name))]
    return f"{health.rows_at_risk:,} of {missing:,} new {rows} are at risk under {method}: {'; '.join(kinds)}"


def text_warnings(zero_step: ZeroStep) -> Iterator[str]:
    """Yield what the score before any training says of text and tokenizer."""
    if zero_step.unknown_share is not None and zero_step.unknown_share > MOST_UNKNOWN:
        yield (
            f"{100 * zero_step.unknown_share:.0f} % of the text's tokens are unknown to the helper's tokenizer: "
            "is it this language's, and the helper's own?"
        )
