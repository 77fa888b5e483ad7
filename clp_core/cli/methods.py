"""``clp compare-methods``."""

from __future__ import annotations

from typing import Any

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress
from clp_core.files.atomic import check_writable, whole_file
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.workspace import Workspace


def compare_methods_command(options: CompareMethodsOptions, as_json: Json = False) -> None:
    """Score all methods on one pair, before any training."""
    from clp_core.transfer.method_comparison import compare_methods

    if options.figure is not None:
        check_writable(options.figure)
    cache = Workspace.current().cache if options.keep_rows else None
    with terminal_progress():
        found = compare_methods(options, cache)
    if options.figure is not None:
        from clp_core.figures import methods_chart

        with whole_file(options.figure) as part:
            methods_chart(found.scores).write_html(part)

    def show(_: dict[str, Any]) -> None:
        rows = [
            [
                score.method,
                score.heldout.centred_cosine,
                score.heldout.relative_error,
                score.zero_step_bits_per_byte,
                score.seconds,
                score.peak_bytes / 1e6 if score.peak_bytes is not None else None,
            ]
            for score in found.scores
        ]
        print_table("Methods", ["method", "cosine", "error", "bits/byte", "seconds", "MB"], rows)
        for score in found.scores:
            if score.note:
                echo(f"{score.method}: {score.note}")
        echo(found.advice)

    emit(found.to_json(), as_json, show)
