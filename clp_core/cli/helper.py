"""``clp tokenizer`` and ``clp pretrain``: a helper, where none exists."""

from __future__ import annotations

from dataclasses import asdict
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

    def show(_: dict[str, Any]) -> None:
        rows: list[list[Any]] = [
            ["output", report.output],
            ["size", report.size],
            ["bytes_per_token", report.bytes_per_token],
            ["fertility", report.fertility],
            ["measured_on", report.measured_on],
            ["style", report.style],
        ]
        if source := report.source:
            rows += [
                ["source's bytes_per_token", source.bytes_per_token],
                ["source's fertility", source.fertility],
            ]
            for match, figures in (("raw", source.raw), ("canonical", source.canonical)):
                rows += [[f"{match} {name}", value] for name, value in asdict(figures).items()]
        print_table("Tokenizer", ["figure", "value"], rows)

    for warning in report.warnings:
        echo(f"warning: {warning}", err=True)
    emit(report.to_json(), as_json, show)


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
