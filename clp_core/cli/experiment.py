"""``clp experiment``."""

from __future__ import annotations

from typing import Any

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress
from clp_core.errors import ClpError
from clp_core.experiments.options import ExperimentOptions
from clp_core.workspace import Workspace


def experiment_command(options: ExperimentOptions, as_json: Json = False) -> None:
    """Do an experiment: what is not measured yet runs as jobs, one file a measurement is kept, tables are printed.

    Ctrl+C ends the command, not its jobs; called again it goes on where it was. What the project's own experiments
    ask for is measured already: an empty --output has all of it measured again.
    """
    from clp_core.experiments.design import read_design
    from clp_core.experiments.figure import draw
    from clp_core.experiments.measurements import measure_all
    from clp_core.experiments.records import Records
    from clp_core.experiments.runner import Runner
    from clp_core.experiments.tables import tables_of

    file, figure = options.file, options.figure
    design, space = read_design(file, options.output), Workspace.current()
    failed: list[str] = []
    if not options.tables:
        try:
            with terminal_progress():
                runner = Runner(design, space)
                done = len(runner.left)
                failed = runner.run_all(options.limit)
                done += measure_all(design, space)
            if not done:
                told = f"all that {file} asks for is measured in {design.folder}; an empty --output measures it again"
                echo(told, err=True)
        except KeyboardInterrupt:
            echo("the runs go on as jobs; the same command keeps what they measure", err=True)
            raise
    records = Records(design)
    found = tables_of(records)
    if options.tables and not found:
        echo(f"nothing of {file} is measured in {design.folder}; without --tables it is", err=True)
    if figure is not None:
        draw(records, figure)
    if records.mixed_precision:
        echo(f"{file}: {records.mixed_precision}", err=True)
    result: dict[str, Any] = {"experiment": design.name, "folder": str(design.folder), "failed": failed}
    result["tables"] = {table.name: table.to_json() for table in found}

    def show(_: dict[str, Any]) -> None:
        for table in found:
            print_table(table.title, list(table.columns), [list(row) for row in table.rows])

    emit(result, as_json, show)
    if failed:
        raise ClpError("; ".join(failed))
