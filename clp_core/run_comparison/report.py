"""A comparison of runs to send on: one HTML file that needs nothing else, and a table as CSV."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from clp_core.run_comparison.curve import Curve
from clp_core.run_comparison.tokens_saved import Comparison, short
from clp_core.tokenization.scripts import no_formula

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c232b; }
table { border-collapse: collapse; margin: 0 0 1rem; } h2 { font-size: 1rem; margin: 1rem 0 .3rem; }
th, td { border-bottom: 1px solid #d5dbe1; padding: .25rem .7rem; text-align: left; vertical-align: top; }
table.savings td:nth-child(n+2):nth-child(-n+5) { text-align: right; font-variant-numeric: tabular-nums; }
p.answer { font-size: 1.15rem; }
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
    """Write the table of tokens to the level as CSV, one row per curve."""
    import pandas as pd

    table = pd.DataFrame(comparison.rows(), dtype=object)
    table.insert(0, "measure", comparison.measure)
    table.insert(1, "level", comparison.level)
    return csv_of(table)


def points_csv(comparison: Comparison) -> str:
    """Write the points of all curves of a comparison as CSV, one row per point."""
    import pandas as pd

    columns = ["run", "key", "step", "tokens", "bytes", "seconds", comparison.measure]
    rows = [
        [curve.name, curve.key, *map(float, point)]
        for curve in comparison.curves
        for point in curve.points.get(comparison.measure, [])
    ]
    return csv_of(pd.DataFrame(rows, columns=columns, dtype=object))


def csv_of(table: pd.DataFrame) -> str:
    """Write a table as CSV; see ``as_cell``."""
    return str(table.astype(object).map(as_cell).to_csv(index=False, lineterminator="\n"))


def as_cell(value: Any) -> Any:
    """Prepare a cell: text that no spreadsheet takes for a formula, a number in ten digits, empty for ``None``."""
    if isinstance(value, str):
        return no_formula(value)
    if isinstance(value, list):
        return "; ".join(each["code"] for each in value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return "" if value is None else value


def as_html(comparison: Comparison, figure: Figure, overlay: Sequence[Curve] = ()) -> str:
    """Write the whole comparison as one HTML page that needs no network: plotly's script is part of it.

    Args:
        comparison: the curves and what they save.
        figure: its picture, see ``figures.comparison_figure``.
        overlay: curves in the picture that are not compared, whose sources the page names too.
    """
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


def table_html(table: pd.DataFrame, caption: str, kind: str) -> str:
    """Write a table of text as HTML, under a caption; ``kind`` is its class in ``STYLE``."""
    import pandas as pd

    as_is: list[Callable[[object], str]] = [str] * table.shape[1]  # else pandas escapes line ends as Python does
    with pd.option_context("display.max_colwidth", None):  # else pandas cuts longer cells off
        body = table.to_html(index=False, border=0, classes=kind, justify="left", formatters=as_is)
    return f"<h2>{escape(caption)}</h2>\n{body}"


def short_number(value: float | None) -> str:
    """Write a number in four digits."""
    return "–" if value is None else f"{value:.4g}"


def short_tokens(value: float | None, *, reached: bool | None) -> str:
    """Write tokens; those of a curve that never reached the level are a bound."""
    return "–" if value is None else ("" if reached else "> ") + short(value)


def savings_table(comparison: Comparison) -> str:
    """Write the table of tokens to the level."""
    import pandas as pd

    unit = UNITS[comparison.measure]
    table = pd.DataFrame(
        {
            "run": row["run"],
            f"best {unit}": short_number(row["best"]),
            "tokens": short_tokens(row["tokens"], reached=row["reached"]),
            "steps": short_number(row["steps"]),
            "seconds": short_number(row["seconds"]),
            "saved": row["verdict"],
            "with care": row["cautions"],
        }
        for row in comparison.rows()
    )
    return table_html(table, f"To {comparison.level:.4g} {unit}", "savings")


def differing_table(comparison: Comparison) -> str:
    """Write the table of settings in which the curves differ."""
    import pandas as pd

    settings = comparison.differing
    if not settings:
        return "<p>All settings that are known are the same.</p>"
    rows = [[name, *map(as_text, values)] for name, values in settings.items()]
    table = pd.DataFrame(rows, columns=["", *(curve.name for curve in comparison.curves)])
    return table_html(table, "What differs", "differing")


def as_text(value: Any) -> str:
    """Return a setting in words."""
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
