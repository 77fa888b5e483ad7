"""``clp tokenizer`` and ``clp pretrain``: a helper, where none exists."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress
from clp_core.cli.train import tell_run
from clp_core.helper.pretrain_options import PretrainOptions
from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.workspace import Workspace


def tokenizer_command(options: TokenizerOptions, as_json: Json = False) -> None:
    """Train a tokenizer on text of the target language."""
    from clp_core.helper.tokenizer_training import train_tokenizer

    with terminal_progress():
        report = train_tokenizer(options)

    def show(result: dict[str, Any]) -> None:
        rows = [
            [key, result[key]] for key in ("output", "size", "bytes_per_token", "fertility", "measured_on", "style")
        ]
        source = result["source"]
        if source is not None:
            rows += [[f"source's {key}", source[key]] for key in ("bytes_per_token", "fertility")]
            for match in ("raw", "canonical"):
                rows += [[f"{match} {key}", value] for key, value in source[match].items()]
        print_table("Tokenizer", ["figure", "value"], rows)

    for warning in report["warnings"]:
        echo(f"warning: {warning}", err=True)
    emit(report, as_json, show)


def pretrain_command(
    options: PretrainOptions,
    detach: Annotated[bool, typer.Option("--detach", help="return at once; the run goes on")] = False,
    as_json: Json = False,
) -> None:
    """Make a small helper from random weights and train it, as a run like any other."""
    from clp_core.helper.pretraining import start_helper

    with terminal_progress():
        started = start_helper(Workspace.current(), options)
    for warning in started.warnings:
        echo(f"warning: {warning}", err=True)
    more = {"plan": started.plan.to_json(), "warnings": list(started.warnings)}
    tell_run(started.job, detach=detach, as_json=as_json, more=more)
