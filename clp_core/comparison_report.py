"""A comparison of runs to send on: one HTML file that needs nothing else, and a table as CSV."""

from __future__ import annotations

import csv
import html
import io
from datetime import datetime, timezone
from typing import Any

from clp_core.figures.runs import MEASURES, comparison_figure
from clp_core.savings import Comparison, short

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


def answer(comparison: Comparison) -> str:
    """Return what a comparison says, in one sentence."""
    measure = {"bits_per_byte": "bits per byte", "eval_loss": "held-out loss"}[comparison.measure]
    best = comparison.best
    if best is not None and (share := best.share()) is not None and share > 0:
        more = "more than " if best.is_bound else ""
        return (
            f"{best.run.name} saves {more}{100 * share:.0f} % of the tokens that {comparison.baseline.name} needs to "
            f"reach {comparison.level:.4g} {measure}."
        )
    if best is not None:
        return f"No run reaches {comparison.level:.4g} {measure} with fewer tokens than {comparison.baseline.name}."
    return f"Nothing to tell yet: no run that can be compared has reached {comparison.level:.4g} {measure}."


def as_csv(comparison: Comparison) -> str:
    """Return the table of tokens to the level, and the points of all curves below it, as CSV."""
    out = io.StringIO()
    rows = comparison.rows()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["measure", "level", *rows[0]])
    for row in rows:
        writer.writerow([comparison.measure, comparison.level, *[as_cell(value) for value in row.values()]])
    writer.writerow([])
    writer.writerow(["run", "key", "step", "tokens", "bytes", "seconds", comparison.measure])
    for curve in comparison.curves:
        for point in curve.points.get(comparison.measure, []):
            writer.writerow([as_cell(curve.name), curve.key, *["" if x != x else repr(float(x)) for x in point]])
    return out.getvalue()


def as_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value


def as_html(comparison: Comparison, axis: str = "tokens", *, log_x: bool = True) -> str:
    """Return the whole comparison as one HTML page, plotly's script included."""
    figure = comparison_figure(comparison, axis, log_x=log_x)
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
        + "; ".join(escape(f"{curve.name}: {curve.origin}, {curve.key}") for curve in comparison.curves)
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
    head = ("run", f"best {MEASURES[comparison.measure]}", "tokens to the level", "saved", "with care")
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    rows = [
        f"<tr><td>{escape(row['run'])}</td>{number_cell(row['best'])}"
        f"{tokens_cell(row['tokens'], reached=row['reached'])}"
        f"<td>{escape(row['verdict'])}</td><td>{escape(row['cautions'])}</td></tr>"
        for row in comparison.rows()
    ]
    caption = f"Tokens to {comparison.level:.4g} {MEASURES[comparison.measure]}"
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
