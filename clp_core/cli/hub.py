"""``clp push`` and ``clp jobs export``: take a model away."""

from __future__ import annotations

from typing import Any

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push_options import PushOptions
from clp_core.workspace import Workspace


def export_command(options: ExportOptions, as_json: Json = False) -> None:
    """Write a run's checkpoint as a plain model folder, without optimiser and run state."""
    from clp_core.geometry.embedding_cache import leave_prepared
    from clp_core.publishing.export import export

    with terminal_progress():
        result = export(options, Workspace.current())
    leave_prepared(Workspace.current(), result["output"])
    emit(result, as_json, lambda found: print_table("Exported", ["figure", "value"], list(map(list, found.items()))))


def push_command(options: PushOptions, as_json: Json = False) -> None:
    """Push a model to the Hub with a card; --dry-run says what would be pushed."""
    from clp_core.publishing.push import push

    with terminal_progress():
        result = push(options, Workspace.current())

    def show(_: dict[str, Any]) -> None:
        if result.dry_run:
            state = {True: "exists", False: "is new", None: "cannot be seen from here"}[result.exists]
            echo(f"{result.repo} ({result.visibility}) {state}; nothing was pushed")
            print_table("Files", ["file", "bytes"], [[file.name, file.bytes] for file in result.files])
            if result.left_out:
                print_table("Left out", ["file", "reason"], [[file.name, file.reason] for file in result.left_out])
            echo(result.card)
        else:
            echo(f"{result.url} ({result.visibility}), commit {result.commit}")

    for told in [*result.notes, *(f"not yet: {problem}" for problem in result.problems)]:
        echo(told, err=True)
    emit(result.to_json(), as_json, show)
