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
        scores, advice = compare_methods(options, cache)
    result: dict[str, Any] = {"methods": [score.to_json() for score in scores], "advice": advice}
    if options.figure is not None:
        from clp_core.figures import methods_chart

        with whole_file(options.figure) as part:
            methods_chart(result["methods"]).write_html(part)

    def show(found: dict[str, Any]) -> None:
        rows = [
            [
                m["method"],
                m["heldout"]["centred_cosine"],
                m["heldout"]["relative_error"],
                m["zero_step_bits_per_byte"],
                m["seconds"],
                m["peak_bytes"] / 1e6 if m["peak_bytes"] is not None else None,
            ]
            for m in found["methods"]
        ]
        columns = ["method", "cosine", "error", "bits/byte", "seconds", "MB"]
        print_table("Methods", columns, rows)
        for m in found["methods"]:
            if m["note"]:
                echo(f"{m['method']}: {m['note']}")
        echo(found["advice"])

    emit(result, as_json, show)
