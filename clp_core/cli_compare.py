"""``clp compare-methods``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clp_core.cli_output import Json, emit, print_table, terminal_progress
from clp_core.documents import DEFAULT_FIELD
from clp_core.errors import InputError
from clp_core.options import help_of
from clp_core.transfer_options import TransferOptions
from clp_core.workspace import Workspace


def compare_command(
    source: Annotated[str, typer.Option(help="source model: a folder or a Hub id")],
    helper: Annotated[str, typer.Option(help="helper model: a folder or a Hub id")],
    methods: Annotated[
        str, typer.Option(help="methods, by commas, maybe with settings (clp-topk:k=8); empty: all")
    ] = "",
    text: Annotated[str, typer.Option(help="text on which to score each target before any training")] = "",
    text_field: Annotated[str, typer.Option(help=help_of(TransferOptions, "text_field"))] = DEFAULT_FIELD,
    match: Annotated[str, typer.Option(help="raw or canonical")] = "raw",
    seed: Annotated[int, typer.Option(help="seed", min=0)] = 42,
    folds: Annotated[int, typer.Option(help="how often another tenth of the anchors is hidden", min=1, max=10)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where large products are done")] = "auto",
    target_vectors: Annotated[str, typer.Option(help="for static-vectors, as in transfer")] = "",
    source_vectors: Annotated[str, typer.Option(help="for static-vectors, as in transfer")] = "",
    dictionary: Annotated[str, typer.Option(help="for static-vectors, as in transfer")] = "",
    keep_rows: Annotated[
        bool, typer.Option("--keep-rows", help="keep each method's new rows in the workspace, for the page on tokens")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="write the figure to this .html file")] = None,
    as_json: Json = False,
) -> None:
    """Score all methods on one pair, before any training."""
    from clp_core.compare import compare_methods

    names = [name.strip() for name in methods.split(",") if name.strip()]
    options = TransferOptions(
        source,
        helper,
        output="(none)",
        match=match,
        seed=seed,
        eval_text=text,
        text_field=text_field,
        device=device,
        target_vectors=target_vectors,
        source_vectors=source_vectors,
        dictionary=dictionary,
    )
    if figure is not None and not figure.absolute().parent.is_dir():
        raise InputError(f"there is no folder {figure.absolute().parent}; make it first")
    cache = Workspace.current().cache if keep_rows else None
    with terminal_progress():
        scores, advice = compare_methods(options, names, folds, cache)
    result: dict[str, Any] = {"methods": [score.as_json() for score in scores], "advice": advice}
    if figure is not None:
        from clp_core.figures import methods_chart

        methods_chart(result["methods"]).write_html(figure)

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
                typer.echo(f"{m['method']}: {m['note']}")
        typer.echo(found["advice"])

    emit(result, as_json, show)
