"""What all commands share: results as tables or as one JSON object, and options made of dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.options import MISSING, Options, OptionsError, flag_of
from clp_core.progress import HEART, JOB_ENVIRONMENT
from clp_core.tokenization.scripts import BIDI_CONTROLS, printable

ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *map(ord, BIDI_CONTROLS))}
"""Control characters that JSON may hold as they are, and terminals obey."""
Json = Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")]


def sane(value: Any) -> Any:
    """Return a value for JSON: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: sane(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [sane(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text in which names, tokens and messages of others may stand, so that none of it steers the terminal."""
    typer.echo(printable(text), err=err, nl=nl)


class PrintableRecord(logging.LogRecord):
    """A log record whose message does not steer the terminal."""

    def getMessage(self) -> str:  # noqa: N802 - the name that logging calls
        """Fill in the message."""
        return printable(super().getMessage())


def emit(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Print a result, as JSON or as tables; in a job, also leave it in the job's directory."""
    if JOB_ENVIRONMENT in os.environ:
        write_json(Path(os.environ[JOB_ENVIRONMENT]) / "result.json", sane(result))
    if as_json or show is None:
        typer.echo(json.dumps(sane(result), ensure_ascii=False).translate(ESCAPED))
    else:
        show(result)


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table; numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for i, column in enumerate(columns):
        numeric = any(isinstance(row[i], int | float) for row in rows)
        table.add_column(Text(printable(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(written(value)) for value in row])
    Console().print(table, markup=False)


def written(value: Any) -> str:
    """Return a table cell as text; a dash where there is no value, or none that is finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


@contextlib.contextmanager
def terminal_progress() -> Iterator[None]:
    """Show a long action as progress bars on a terminal's stderr: what, how far, bytes, and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal or JOB_ENVIRONMENT in os.environ:
        yield
        return
    described = TextColumn("{task.description}", markup=False)
    columns = (described, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[size]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def listen(phase: str, fraction: float | None, done: int | None, total: int | None) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(printable(phase), total=1.0, size="")
            size = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB" if done is not None and total is not None else ""
            bars.update(tasks[phase], completed=fraction, size=size)

        HEART.listener = listen
        try:
            yield
        finally:
            HEART.listener = None


def options_command(app: typer.Typer, options: type[Options]) -> Callable[..., Any]:
    """Make the command of an option class: each field an option, with its help and default, required ones first.

    Args:
        app: what the command belongs to.
        options: the class; its ``COMMAND`` names the command, its ``PLACED`` the fields that are given by their place.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options)
        fields = [item for item in dataclasses.fields(options) if item.init]
        fields.sort(key=lambda item: item.default is not MISSING)
        parameters = [
            parameter_of(item, hints[item.name], is_positional=item.name in options.PLACED) for item in fields
        ]
        extra = [p for p in inspect.signature(run, eval_str=True).parameters.values() if p.name != "options"]

        def command(*, context: typer.Context, **given: Any) -> None:
            values = {item.name: given.pop(item.name) for item in fields}
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            try:
                made = options(**values)
            except OptionsError as error:
                places = {item.name: metavar_of(item) for item in fields if item.name in options.PLACED}
                raise InputError(error.worded(lambda field: places.get(field) or flag_of(field))) from error
            if hasattr(made, "beside_preset"):
                made = made.beside_preset([name for name in values if was_typed(context, name)])
            run(made, **given)

        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in extra]
        typed = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        command.__signature__ = inspect.Signature([typed, *parameters, *keyword_only])  # type: ignore[attr-defined]
        command.__doc__ = run.__doc__
        command.__name__ = run.__name__
        command.__annotations__ = {p.name: p.annotation for p in [typed, *parameters, *keyword_only]}
        return app.command(options.COMMAND[-1])(command)

    return decorate


def parameter_of(item: dataclasses.Field[Any], hint: Any, *, is_positional: bool) -> inspect.Parameter:
    """Make the parameter of a command from a field of an option class."""
    hint = list[str] if hint == tuple[str, ...] else hint
    text = item.metadata["help"]
    if is_positional:
        about: Any = typer.Argument(help=text, metavar=metavar_of(item))
    elif item.metadata["choices"]:
        about = typer.Option(help=f"{text} ({', '.join(item.metadata['choices'])})")
    elif hint is bool or len(item.name) == 1:
        about = typer.Option(flag_of(item.name), help=text)
    else:
        about = typer.Option(help=text, metavar=item.metadata["metavar"] or None)
    default = inspect.Parameter.empty if item.default is MISSING else item.default
    return inspect.Parameter(
        item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, about]
    )


def metavar_of(item: dataclasses.Field[Any]) -> str:
    """Name a positional value in help and errors."""
    return item.metadata["metavar"] or item.name.upper()


def was_typed(context: typer.Context, name: str) -> bool:
    """Say whether the user has named an option, be it with its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
