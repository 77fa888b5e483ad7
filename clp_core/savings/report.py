"""A comparison of runs to send on: one HTML file that needs nothing else, and a table as CSV."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from clp_core.figures.runs import comparison_figure
from clp_core.savings.curve import Curve
from clp_core.savings.tokens_saved import Comparison, short
from clp_core.tokenization.scripts import no_formula

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c232b; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid #d5dbe1; padding: .25rem .7rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } p.answer { font-size: 1.15rem; }
"""

RULE = (
    "Tokens to a level: where the running minimum first reaches it, linear in log tokens between two evaluations. A "
    "curve that never got there gives a bound. Curves with other evaluation data, another batch, or (for loss per "
    "token) another tokenizer are not compared."
)


UNITS = {"bits_per_byte": "bits per byte", "eval_loss": "nats a token of held-out loss"}


def answer(comparison: Comparison) -> str:
    """Return what a comparison says, in one sentence, and what to be careful of in a second."""
    level, best = f"{comparison.level:.4g} {UNITS[comparison.measure]}", comparison.best
    baseline = comparison.baseline.name
    if best is None:
        return without_saving(comparison, level)
    care = f" With care: {'; '.join(best.cautions)}." if best.cautions else ""
    share = best.share() or 0.0
    if share <= 0:
        return f"No run reaches {level} with fewer tokens than {baseline}.{care}"
    more = "more than " if best.is_bound else ""
    return (
        f"{best.run.name} saves {more}{100 * share:.0f} % of the tokens that {baseline} needs to reach {level}.{care}"
    )


def without_saving(comparison: Comparison, level: str) -> str:
    """Return why a comparison has no saving to tell of."""
    if not comparison.runs:
        return f"Choose a run to hold against {comparison.baseline.name}."
    able = [saving for saving in comparison.savings if not saving.obstacles]
    if not able:
        return f"None of these runs can be compared with {comparison.baseline.name}: the table says why."
    start = able[0].baseline_at
    if start is not None and start.reached and (start.tokens == 0 or start.is_upper):
        return f"{comparison.baseline.name} was below {level} at its first point already; choose a lower level."
    return f"Nothing to tell yet: no run that can be compared has reached {level}."


def as_csv(comparison: Comparison) -> str:
    """Return the table of tokens to the level as CSV, one row a curve."""
    rows = comparison.rows()
    head = {"measure": comparison.measure, "level": comparison.level}
    return written_csv([[*head, *rows[0]], *[[*head.values(), *row.values()] for row in rows]])


def points_csv(comparison: Comparison) -> str:
    """Return the points of all curves of a comparison as CSV, one row a point."""
    head = ["run", "key", "step", "tokens", "bytes", "seconds", comparison.measure]
    rows = [
        [curve.name, curve.key, *map(float, point)]
        for curve in comparison.curves
        for point in curve.points.get(comparison.measure, [])
    ]
    return written_csv([head, *rows])


def written_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[as_cell(value) for value in row] for row in rows])
    return out.getvalue()


def as_cell(value: Any) -> Any:
    """Return a cell: text that no spreadsheet takes for a formula, a number in ten digits, nothing for none."""
    if isinstance(value, str):
        return no_formula(value)
    if isinstance(value, list):
        return "; ".join(each["code"] for each in value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return "" if value is None else value


def as_html(comparison: Comparison, axis: str = "tokens", *, log_x: bool = True, overlay: Sequence[Curve] = ()) -> str:
    """Return the whole comparison as one HTML page, plotly's script included; see ``comparison_figure``."""
    figure = comparison_figure(comparison, axis, log_x=log_x, overlay=overlay)
    picture = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>What did it save? {escape(comparison.baseline.name)}</title><style>{STYLE}</style></head><body>",
        f"<h1>What did it save?</h1><p class='answer'>{escape(answer(comparison))}</p>",
        picture,
        savings_table(comparison),
        differing_table(comparison),
        f"<p>{RULE}</p>",
        f"<p>Made by CLP Workbench, {made}. Sources: "
        + "; ".join(escape(f"{curve.name}: {curve.origin}, {curve.key}") for curve in [*comparison.curves, *overlay])
        + ".</p></body></html>",
    ]
    return "\n".join(parts)


def escape(text: Any) -> str:
    """Return text for HTML."""
    return html.escape(str(text), quote=True)


def number_cell(value: float | None, digits: int = 4) -> str:
    """Return a cell with a number."""
    return f"<td class='number'>{'–' if value is None else f'{value:.{digits}g}'}</td>"


def tokens_cell(value: float | None, *, reached: bool | None) -> str:
    """Return a cell with tokens; those of a curve that never got there are a bound."""
    told = "–" if value is None else ("" if reached else "> ") + short(value)
    return f"<td class='number'>{escape(told)}</td>"


def savings_table(comparison: Comparison) -> str:
    """Return the table of tokens to the level."""
    head = ("run", f"best {UNITS[comparison.measure]}", "tokens", "steps", "seconds", "saved", "with care")
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = [
        f"<tr><td>{escape(row['run'])}</td>{number_cell(row['best'])}"
        f"{tokens_cell(row['tokens'], reached=row['reached'])}{number_cell(row['steps'])}{number_cell(row['seconds'])}"
        f"<td>{escape(row['verdict'])}</td><td>{escape(row['cautions'])}</td></tr>"
        for row in comparison.rows()
    ]
    caption = f"To {comparison.level:.4g} {UNITS[comparison.measure]}"
    return f"<table><caption>{escape(caption)}</caption><tr>{cells}</tr>{''.join(rows)}</table>"


def differing_table(comparison: Comparison) -> str:
    """Return the table of settings in which the curves differ."""
    table = comparison.differing
    if not table:
        return "<p>All settings that are known are the same.</p>"
    head = "".join(f"<th>{escape(curve.name)}</th>" for curve in comparison.curves)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(as_text(value))}</td>' for value in values)}</tr>"
        for name, values in table.items()
    )
    return f"<table><caption>What differs</caption><tr><th></th>{head}</tr>{rows}</table>"


def as_text(value: Any) -> str:
    """Return a setting in words."""
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
