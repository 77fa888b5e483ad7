"""The tables of an experiment: for the terminal, for the documentation, for the notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clp_core.errors import InputError
from clp_core.experiments.records import DOWNSTREAM, Records
from clp_core.experiments.staleness import MADE_BY
from clp_core.experiments.summary import ArmSummary, Reached, Spread, shown, summarise
from clp_core.reports.method_comparison import MethodComparison, MethodScore
from clp_core.run_comparison.tokens_saved import short

NOTHING = "–"
WHEN = ("before", "after")


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        name: what names it, for markers in the documentation.
        title: what it is headed with.
        columns: headings.
        rows: cells.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_json(self) -> list[dict[str, str]]:
        """Return one object a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    @property
    def markdown(self) -> str:
        """The table in Markdown: the first column to the left, the others to the right."""
        lines = [f"| {' | '.join(self.columns)} |", f"|---|{'---:|' * (len(self.columns) - 1)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])


def tables_of(records: Records) -> list[Table]:
    """Return all tables for which something is measured."""
    rows = summarise(records)
    found = [runs_table(records, rows), tokens_table(records, rows), methods_table(records)]
    found += [
        evaluate_table(records),
        overlap_table(records),
        agreement_table(records),
        cloze_table(records),
        retrieval_table(records),
    ]
    return [table for table in found if table.rows]


def runs_table(records: Records, summaries: Sequence[ArmSummary]) -> Table:
    """Return a row an arm: before training, after it, and tokens saved against every baseline."""
    names = [name for name in records.design.baselines if name in records.curves]
    rows = [
        (
            f"`{row.arm.name}`",
            row.heldout[0].told(".3f") if row.heldout else NOTHING,
            row.first.told(".3f"),
            row.best.told(".3f"),
            row.last.told(".3f"),
            *(share_cell(row, name) for name in names),
            f"{row.seconds.low / 60:.1f}",
        )
        for row in summaries
    ]
    told = f"{short(summaries[0].tokens.mean)} tokens; " if summaries else ""
    title = f"{records.design.title}: {told}bits per byte of the held-out text, mean and range over the seeds"
    measured = ("arm", "held-out cosine", "before training", "lowest", "at the end")
    columns = (*measured, *(f"saved against {name}" for name in names), "minutes of the fastest seed")
    return Table("runs", title, columns, tuple(rows))


def tokens_table(records: Records, summaries: Sequence[ArmSummary]) -> Table:
    """Return a row an arm: the tokens after which it has reached each baseline's lowest bits per byte."""
    names = [name for name in records.design.baselines if name in records.curves]
    rows = [
        (f"`{row.arm.name}`", *(tokens_cell(row, name) for name in names), amount(row.best_at)) for row in summaries
    ]
    title = f"{records.design.title}: tokens to each baseline's lowest bits per byte, mean and range over the seeds"
    return Table("tokens", title, ("arm", *(f"to {name}'s lowest" for name in names), "to its own lowest"), tuple(rows))


def reached_of(row: ArmSummary, baseline: str) -> Reached | None:
    """Return how an arm stands against a baseline; ``None`` for the baseline itself."""
    return next((reached for reached in row.reached if reached.baseline == baseline), None)


def share_cell(row: ArmSummary, baseline: str) -> str:
    """Return what an arm saves of a baseline's tokens; what it needs more is negative."""
    found = reached_of(row, baseline)
    if found is None:
        return NOTHING
    share = found.share
    return Spread(tuple(100 * value for value in share.values)).told(".0f", " %") if share else "not reached"


def tokens_cell(row: ArmSummary, baseline: str) -> str:
    """Return where an arm reaches a baseline's lowest score."""
    found = reached_of(row, baseline)
    if found is None:
        return NOTHING
    tokens = found.tokens
    if tokens is None:
        return f"> {short(row.tokens.mean)}"
    return amount(tokens)


def amount(tokens: Spread) -> str:
    """Return a number of tokens, and with several seeds the range."""
    low, high = short(tokens.low), short(tokens.high)
    return short(tokens.mean) + (f" ({low} to {high})" if len(tokens.values) > 1 else "")


def methods_table(records: Records) -> Table:
    """Return a row a method: held-out anchors, and bits per byte before any training."""
    scores = methods_in(records)

    def cell(value: float | None) -> str:
        return NOTHING if value is None else shown(value, ".3f")

    rows = [
        (
            f"`{score.method}`",
            cell(score.heldout.centred_cosine),
            cell(score.heldout.relative_error),
            cell(score.zero_step_bits_per_byte),
            f"{score.seconds:.1f}",
        )
        for score in scores
    ]
    columns = ("method", "held-out cosine", "relative error", "bits per byte before training", "seconds")
    return Table("methods", f"{records.design.title}: the methods before any training", columns, tuple(rows))


def methods_in(records: Records) -> tuple[MethodScore, ...]:
    """Return the scores of the methods, none where these are not measured.

    Raises:
        InputError: the file of that measurement is damaged.
    """
    measured = records.read("methods.json").get("methods")
    if measured is None:
        return ()
    try:
        return MethodComparison.of_json(measured["result"]).scores
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{records.file('methods.json')} is damaged ({error}); delete it and run the experiment again"
        ) from error


def evaluate_table(records: Records) -> Table:
    """Return a row a model that is scored on the held-out text as it is."""
    rows = [
        (f"`{name}`", f"{told['result']['bits_per_byte']:.3f}")
        for name, told in records.read("evaluate.json").items()
        if name != MADE_BY
    ]
    return Table("evaluate", f"{records.design.title}: scores of models", ("model", "bits per byte"), tuple(rows))


def overlap_table(records: Records) -> Table:
    """Return the overlap of all tokenizers as a share of the row's vocabulary (the paper's Table 1)."""
    pairs = records.read("overlap.json").get("overlap", {}).get("result", {}).get("pairs", [])
    sizes, shares = {}, {}
    for pair in pairs:
        for own, other in (("source", "target"), ("target", "source")):
            sizes[pair[own]] = pair[f"{own}_size"]
            shares[pair[own], pair[other]] = pair[f"share_of_{own}"]
    names = list(dict.fromkeys([*(pair["source"] for pair in pairs), *(pair["target"] for pair in pairs)]))
    rows = [
        (
            name,
            f"{sizes[name]:,}",
            *(f"{100 * shares[name, other]:.1f} %" if (name, other) in shares else NOTHING for other in names),
        )
        for name in names
    ]
    title = f"{records.design.title}: tokens in common as a share of the row's vocabulary"
    return Table("overlap", title, ("source", "tokens", *names), tuple(rows))


def agreement_table(records: Records) -> Table:
    """Return the share of nearest neighbours that two models have in common (the paper's Figure 1)."""
    rows = [
        (
            pair,
            f"{100 * told['result']['mean']:.1f} %",
            f"{100 * told['result']['by_chance']:.1f} %",
            f"{told['result']['tokens']:,}",
        )
        for pair, told in records.read("agreement.json").items()
        if pair != MADE_BY
    ]
    title = f"{records.design.title}: share of each token's 10 nearest neighbours in common"
    return Table("agreement", title, ("models", "in common", "by chance", "tokens"), tuple(rows))


def downstream_results(records: Records, what: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what ``clp downstream`` said of every arm, before and after training, one object a seed."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in records.measured_runs:
        told = records.read(DOWNSTREAM, f"{run.key}.json")
        for when in WHEN:
            result = told.get(when, {}).get("result", {}).get(what)
            if result:
                found.setdefault(run.arm.name, {}).setdefault(when, []).append(result)
    return found


def cloze_table(records: Records) -> Table:
    """Return a row an arm: how many cloze questions it answers rightly, and without their sentences."""
    rows = []
    for arm, told in downstream_results(records, "cloze").items():
        cells = [percent([result["accuracy"] for result in told[when]]) for when in WHEN]
        alone = [score["accuracy"] for result in told[WHEN[1]] if (score := result["context_free"])]
        rows.append((f"`{arm}`", *cells, percent(alone) if alone else NOTHING))
    columns = ("arm", "before training", "after", "after, without the sentences")
    return Table("cloze", f"{records.design.title}: cloze questions, by chance 25 %", columns, tuple(rows))


def retrieval_table(records: Records) -> Table:
    """Return a row an arm: how well the rows of missing tokens find their translations."""
    rows = []
    for arm, told in downstream_results(records, "retrieval").items():
        found = {when: [result["missing"] or result["all"] for result in told[when]] for when in WHEN}
        cells = [
            percent([result[figure] for result in found[when]])
            for figure in ("precision_at_1", "precision_at_5")
            for when in WHEN
        ]
        ranks = [Spread(tuple(result["mean_reciprocal_rank"] for result in found[when])).told(".3f") for when in WHEN]
        rows.append((f"`{arm}`", *cells, *ranks))
        chance = found[WHEN[0]][0]["chance"]
    measured = ("precision at 1", "at 5", "mean reciprocal rank")
    columns = ("arm", *(f"{figure}, {when}" for figure in measured for when in ("before", "after")))
    if rows:
        cells = [f"{100 * chance[figure]:.1f} %" for figure in ("precision_at_1", "precision_at_5") for _ in WHEN]
        rows.append(("by chance", *cells, *[f"{chance['mean_reciprocal_rank']:.3f}" for _ in WHEN]))
    title = f"{records.design.title}: rows of missing tokens that find their translations"
    return Table("retrieval", title, columns, tuple(rows))


def percent(shares: Sequence[float]) -> str:
    """Return a share of every seed as percent."""
    return Spread(tuple(100 * share for share in shares)).told(".1f", " %")
