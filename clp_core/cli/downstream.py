"""``clp downstream``."""

from __future__ import annotations

from typing import Any

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress
from clp_core.evaluation.downstream import DownstreamOptions


def downstream_command(options: DownstreamOptions, as_json: Json = False) -> None:
    """Measure what a model can do: cloze questions on a held-out text, word pairs found in its embeddings."""
    from clp_core.evaluation.downstream import measure

    with terminal_progress():
        found = measure(options)

    def show(result: dict[str, Any]) -> None:
        if result["cloze"]:
            show_cloze(result["cloze"])
        if result["retrieval"]:
            show_retrieval(result["retrieval"])

    for warning in found.warnings:
        echo(f"warning: {warning}", err=True)
    emit(found.to_json(), as_json, show)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.1f} %"


def show_cloze(cloze: dict[str, Any]) -> None:
    """Print the answers to cloze questions."""
    rows = [
        [name, percent(score["accuracy"]), " to ".join(map(percent, score["interval"]))]
        for name, score in (("in the sentence", cloze), ("without the sentence", cloze["context_free"]))
        if score
    ]
    title = f"Cloze questions: {cloze['n']:,} answered (chance: {percent(cloze['chance'])})"
    print_table(title, ["words scored", "right", "95 % interval"], rows)
    echo(f"Compare with other models where the questions are the same: {cloze['questions']}")


def show_retrieval(retrieval: dict[str, Any]) -> None:
    """Print the word pairs found."""
    rows = []
    for name in ("all", "missing", "copied"):
        part = retrieval[name]
        if part:
            rows += [[name, part["tokens"], *figures_of(part)], ["  by chance", "", *figures_of(part["chance"])]]
    title = f"Word pairs: {retrieval['pairs']:,} of {retrieval['listed']:,}, {retrieval['candidates']:,} candidates"
    print_table(title, ["tokens", "count", "precision@1", "precision@5", "mean reciprocal rank"], rows)


def figures_of(ranks: dict[str, Any]) -> list[str]:
    """Return the figures of ranks as text."""
    precisions = [percent(ranks[name]) for name in ("precision_at_1", "precision_at_5")]
    return [*precisions, f"{ranks['mean_reciprocal_rank']:.3f}"]
