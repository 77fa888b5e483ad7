"""``clp experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clp_core.cli_output import Json, emit, print_table, terminal_progress
from clp_core.errors import ClpError, InputError
from clp_core.workspace import Workspace

FIGURES = (".html", ".svg", ".png")


def experiment_command(
    file: Annotated[Path, typer.Argument(help="YAML file of the experiment", metavar="FILE")],
    limit: Annotated[int, typer.Option(help="do no more than so many runs now; 0: all", min=0)] = 0,
    tables: Annotated[bool, typer.Option("--tables", help="run nothing; tables of what is measured already")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="folder of the raw measurements; beside FILE unless given", metavar="FOLDER"),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="draw the arms over their seeds into this file: .html, or .svg and .png by kaleido"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Do an experiment: what is not measured yet runs as jobs, one file a measurement is kept, tables are printed.

    Ctrl+C ends the command, not its jobs; called again it goes on where it was. What the project's own experiments
    ask for is measured already: an empty --output has all of it measured again.
    """
    from clp_core.experiment.design import read_design
    from clp_core.experiment.drawing import draw
    from clp_core.experiment.measures import measure_all
    from clp_core.experiment.records import Records
    from clp_core.experiment.runner import Runner
    from clp_core.experiment.tables import tables_of

    check_places(figure, output)
    design, space = read_design(file, output), Workspace.current()
    failed: list[str] = []
    if not tables:
        try:
            with terminal_progress():
                runner = Runner(design, space)
                done = len(runner.left)
                failed = runner.run_all(limit)
                done += measure_all(design, space)
            if not done:
                told = f"all that {file} asks for is measured in {design.folder}; an empty --output measures it again"
                typer.echo(told, err=True)
        except KeyboardInterrupt:
            typer.echo("the runs go on as jobs; the same command keeps what they measure", err=True)
            raise
    records = Records(design)
    found = tables_of(records)
    if tables and not found:
        typer.echo(f"nothing of {file} is measured in {design.folder}; without --tables it is", err=True)
    if figure is not None:
        draw(records, figure)
    if records.mixed_precision:
        typer.echo(f"{file}: {records.mixed_precision}", err=True)
    result: dict[str, Any] = {"experiment": design.name, "folder": str(design.folder), "failed": failed}
    result["tables"] = {table.name: table.as_json() for table in found}

    def show(_: dict[str, Any]) -> None:
        for table in found:
            print_table(table.title, list(table.columns), [list(row) for row in table.rows])

    emit(result, as_json, show)
    if failed:
        raise ClpError("; ".join(failed))


def check_places(figure: Path | None, output: Path | None) -> None:
    """Refuse places where nothing can be written, before hours of work.

    Raises:
        InputError: what is wrong with one, and what to name instead.
    """
    if figure is not None and not figure.absolute().parent.is_dir():
        raise InputError(f"--figure: there is no folder {figure.absolute().parent}; make it first")
    if figure is not None and figure.suffix not in FIGURES:
        raise InputError(f"--figure {figure}: give a file that ends in one of {', '.join(FIGURES)}")
    if output is not None and output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is no folder; name a new one, or one that holds measurements")
