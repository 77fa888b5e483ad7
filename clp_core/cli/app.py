"""The command line: ``clp ...`` and ``python -m clp_core ...``.

With ``--json`` a command prints one JSON object as the last line of its output; logs and progress go to stderr. The
exit code is 0 on success, 1 where a job failed, 2 on bad arguments or bad input, with one line that says what is wrong.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from clp_core.cli.app_options import AppOptions
from clp_core.cli.downstream import downstream_command
from clp_core.cli.experiment import experiment_command
from clp_core.cli.explore import agreement_command, near_duplicates_command, neighbors_command, project_command
from clp_core.cli.helper import pretrain_command, tokenizer_command
from clp_core.cli.hub import export_command, push_command
from clp_core.cli.jobs import jobs_app
from clp_core.cli.methods import compare_methods_command
from clp_core.cli.output import (
    Json,
    PrintableRecord,
    echo,
    emit,
    options_command,
    print_table,
    terminal_progress,
    written,
)
from clp_core.cli.playground import generate_command, playground_command
from clp_core.cli.train import tell_run
from clp_core.errors import ClpError, InputError, library_failure, system_failure
from clp_core.evaluation.downstream import DownstreamOptions
from clp_core.evaluation.options import EvaluateOptions
from clp_core.experiments.options import ExperimentOptions
from clp_core.geometry.explore_options import (
    AgreementOptions,
    InspectOptions,
    NearDuplicatesOptions,
    NeighborsOptions,
    OverlapOptions,
    PrepareOptions,
)
from clp_core.geometry.project_options import ProjectOptions
from clp_core.helper.pretrain_options import PretrainOptions
from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.jobs.arguments import named_words, refuse_undecodable
from clp_core.options import shown
from clp_core.playground.answers import GenerateOptions
from clp_core.playground.options import PlaygroundOptions
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push_options import PushOptions
from clp_core.reports.transfer_report import HealthSummary
from clp_core.training.options import TrainOptions
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from clp_core.workspace import Workspace

EVERY_ADDRESS = ("0.0.0.0", "::")

app = typer.Typer(
    name="clp",
    help="Carry a language model into a new language, and see where every number comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(jobs_app, name="jobs")
options_command(app, CompareMethodsOptions)(compare_methods_command)
options_command(app, ExperimentOptions)(experiment_command)
options_command(app, NeighborsOptions)(neighbors_command)
options_command(app, AgreementOptions)(agreement_command)
options_command(app, NearDuplicatesOptions)(near_duplicates_command)
options_command(app, ProjectOptions)(project_command)
options_command(app, DownstreamOptions)(downstream_command)
options_command(jobs_app, ExportOptions)(export_command)
options_command(app, PushOptions)(push_command)
options_command(app, GenerateOptions)(generate_command)
options_command(app, PlaygroundOptions)(playground_command)
options_command(app, TokenizerOptions)(tokenizer_command)
options_command(app, PretrainOptions)(pretrain_command)


@options_command(app, OverlapOptions)
def overlap_command(options: OverlapOptions, as_json: Json = False) -> None:
    """Compare vocabularies: tokens in common, as shares of source and of target."""
    from clp_core.data.text_sources import Texts
    from clp_core.hub.resolve import locate
    from clp_core.tokenization.overlap_matrix import overlap_pairs
    from clp_core.tokenization.text_coverage import measure_text
    from clp_core.tokenization.vocabulary import Vocabulary

    documents = Texts.open([options.text], options.text_field) if options.text is not None else None
    vocabularies = [Vocabulary.open(locate(name, weights=False), name) for name in options.tokenizers]
    pairs = []
    for found in overlap_pairs(vocabularies, options.match):
        pair: dict[str, Any] = {
            "source": found.source.name,
            "target": found.target.name,
            "source_size": found.source.size,
            "target_size": found.target.size,
            "overlap": found.size,
            "share_of_source": found.share_of_source,
            "share_of_target": found.share_of_target,
        }
        if documents is not None:
            pair["text"] = measure_text(found, "\n".join(documents)).figures
        pairs.append(pair)
    columns = ["source", "target", "source_size", "target_size", "overlap", "share_of_source", "share_of_target"]

    def show(result: dict[str, Any]) -> None:
        print_table(
            f"Overlap ({options.match})", columns, [[pair[column] for column in columns] for pair in result["pairs"]]
        )
        for pair in result["pairs"]:
            if "text" in pair:
                print_table(
                    f"{pair['source']} -> {pair['target']} on the text",
                    ["figure", "value"],
                    list(map(list, pair["text"].items())),
                )

    warnings = [warning for vocabulary in vocabularies for warning in vocabulary.warnings]
    for warning in warnings:
        echo(f"warning: {warning}", err=True)
    emit({"pairs": pairs, "warnings": warnings}, as_json, show)


@options_command(app, TransferOptions)
def transfer_command(options: TransferOptions, as_json: Json = False) -> None:
    """Write a target model: the source's body, the helper's tokenizer, new embedding rows."""
    from clp_core.geometry.embedding_cache import leave_prepared
    from clp_core.transfer.pipeline import transfer

    with terminal_progress():
        report = transfer(options)
    leave_prepared(Workspace.current(), report.output, report.source, report.helper)

    def show(_: dict[str, Any]) -> None:
        rows: list[list[Any]] = [
            ["output", report.output],
            ["method", report.method],
            ["overlap", report.overlap],
            ["missing", report.missing],
            ["seconds", report.seconds],
            ["held-out centred cosine", report.heldout.centred_cosine],
            ["held-out relative error", report.heldout.relative_error],
            *health_rows(report.health, ""),
            *(health_rows(report.health.output, " (output)") if report.health.output else ()),
        ]
        if report.zero_step:
            rows.append(["bits per byte before training", report.zero_step.bits_per_byte])
        if report.check:
            rows.append(["checked", report.check.described])
        print_table("Transfer", ["figure", "value"], rows)

    for warning in report.warnings:
        echo(f"warning: {warning}", err=True)
    emit(report.to_json(), as_json, show)


def health_rows(health: HealthSummary, side: str) -> list[list[Any]]:
    """Return the health figures of one matrix as rows of a table; ``side`` stands behind their names."""
    return [
        [f"rows at risk{side}", health.rows_at_risk],
        [f"too long{side}", health.too_long],
        [f"cancelled{side}", health.cancelled],
        [f"collapsed{side}", health.collapsed],
        [f"median of effective anchors{side}", health.n_eff_median],
        [f"largest norm ratio{side}", health.norm_ratio_max],
    ]


@options_command(app, InspectOptions)
def inspect_command(options: InspectOptions, as_json: Json = False) -> None:
    """Say for tokens of a target model where their rows come from."""
    from clp_core.hub.resolve import locate
    from clp_core.transfer.explanation import Explainer

    explainer = Explainer.open(locate(str(options.folder)))
    found = [explainer.explain(explainer.vocabulary.find(token), options.k) for token in options.tokens]

    def show(result: dict[str, Any]) -> None:
        for token in result["tokens"]:
            figures = ", ".join(
                f"{key} {written(token[key])}"
                for key in ("status", "method", "source_id", "n_eff", "cancellation", "norm_ratio")
            )
            echo(f"{token['token']!r} (id {token['id']}): {figures}")
            if token["anchors"]:
                columns = ["anchor", "id", "weight", "cosine", "source row"]
                print_table("", columns, [list(anchor.values()) for anchor in token["anchors"]])

    emit({"tokens": [explanation.to_json() for explanation in found]}, as_json, show)


@options_command(app, PrepareOptions)
def prepare_command(options: PrepareOptions, as_json: Json = False) -> None:
    """Make what the pages need of a model: its tokenizer and its embedding rows, in the workspace's cache."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.hub.resolve import locate

    prepared = prepare(locate(options.model), Workspace.current().cache)
    emit({"output": str(prepared.path), **prepared.meta}, as_json, lambda found: echo(found["output"]))


@options_command(app, TrainOptions)
def train_command(
    options: TrainOptions,
    detach: Annotated[bool, typer.Option("--detach", help="return at once; the run goes on")] = False,
    show_script: Annotated[
        bool, typer.Option("--show-script", help="with Slurm: print the script that would run, and start nothing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model on, as a job that outlives this terminal when detached."""
    from clp_core.training.submit import preview_script, submit_train

    if show_script:
        script = preview_script(Workspace.current(), options)
        emit({"script": script}, as_json, lambda found: echo(found["script"], nl=False))
        return
    tell_run(submit_train(Workspace.current(), options), detach=detach, as_json=as_json)


@options_command(app, EvaluateOptions)
def evaluate_command(options: EvaluateOptions, as_json: Json = False) -> None:
    """Score a model on a text: loss, perplexity and bits per byte."""
    from clp_core.evaluation.bits_per_byte import ScoringModel

    model = ScoringModel.open(options.model, options.device)
    found = model.evaluate(options.text, options.text_field, options.begin, options.control_strings, both=True)
    if found.failure:
        raise ClpError(found.failure)
    result = found.to_json()
    if options.sample:
        result["sample"] = model.sample(options.prompt)
    result["warnings"] = [*found.notes, *found.warnings]
    for warning in result["warnings"]:
        echo(f"warning: {warning}", err=True)

    def show(shown: dict[str, Any]) -> None:
        rows = {name: value for name, value in shown.items() if name != "warnings"}
        rows["control_strings"] = sum(found.counts.control.values())
        rows["not_comparable"] = ", ".join(obstacle.code for obstacle in found.not_comparable) or None
        print_table("Evaluation", ["figure", "value"], list(map(list, rows.items())))

    emit(result, as_json, show)


@app.command()
def demo(as_json: Json = False) -> None:
    """Unpack the packaged demo into the workspace: an English source, a German helper, German text."""
    from clp_core.demo import unpack

    result = unpack(Workspace.current())
    emit(result, as_json, lambda found: echo("\n".join(f"{key}: {value}" for key, value in found.items())))


@options_command(app, AppOptions)
def app_command(options: AppOptions) -> None:
    """Start the web app."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "serve.py").is_file():
        raise InputError(f"the pages are not installed beside {root}; run `clp app` from a checkout (make install)")
    refuse_strangers(options.address, options.host, root)
    arguments = [sys.executable, "-m", "streamlit", "run", str(root / "serve.py"), f"--server.port={options.port}"]
    arguments.append(f"--server.address={options.address}")
    arguments += [f"--server.allowedHosts={name}" for name in hosts_of(options.address, options.host)]
    if options.headless:
        arguments.append("--server.headless=true")
    os.environ["CLP_WORKSPACE"] = str(Workspace.current().root)
    os.chdir(root)  # streamlit reads .streamlit/config.toml from here
    os.execv(sys.executable, arguments)


def hosts_of(address: str, named: Iterable[str]) -> list[str]:
    """List the names under which browsers may ask: this machine's own, an address of its own, and those given."""
    own = () if address in EVERY_ADDRESS else (address,)
    return list(dict.fromkeys(("127.0.0.1", "localhost", *own, *named)))


def refuse_strangers(address: str, hosts: Sequence[str], root: Path) -> None:
    """Refuse to answer on an address that others reach, unless logging in is configured.

    Raises:
        InputError: it is not, or no host name is given under which browsers may ask.
    """
    try:
        if address == "localhost" or ipaddress.ip_address(address).is_loopback:
            return
    except ValueError as error:
        raise InputError(f"--address: {address!r} is not an IP address; give one, such as 127.0.0.1") from error
    secrets = [place / ".streamlit" / "secrets.toml" for place in (root, Path.home())]
    if not any(re.search(r"^\s*\[auth\b", path.read_text(), re.MULTILINE) for path in secrets if path.is_file()):
        raise InputError(
            f"--address: {address} is reached by others and the app can start processes; configure [auth] in "
            f"{secrets[0]}, or stay on 127.0.0.1 and tunnel: ssh -L 8501:127.0.0.1:8501 {socket.gethostname()}"
        )
    if not hosts:
        raise InputError("--address: it needs --host, the name that browsers use for this machine; others are refused")


def end_on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Turn SIGTERM into an orderly end, so that nothing half-written stays."""
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors become one line on stderr.

    Args:
        argv: what follows ``clp``; by default the arguments of this process.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        refuse_undecodable(named_words(arguments))
        code = app(args=arguments, prog_name="clp", standalone_mode=False)
    except ClpError as error:
        return fail(str(error), error.exit_code)
    except OSError as error:
        return fail(system_failure(error), 2)
    except BaseException as error:
        from clp_core.environment.memory_errors import explanation, is_out_of_memory  # starts psutil

        if told := explanation(error) if is_out_of_memory(error) else library_failure(error):
            return fail(told, 1)
        if not hasattr(error, "format_message"):  # a usage error of typer has it
            raise
        return fail(usage_problem(error), 2)
    if code:  # typer returns 130 for Ctrl+C here, and 0 for --help
        return fail("interrupted; nothing half-written was kept", int(code))
    return 0


def usage_problem(error: Any) -> str:
    """Word a usage error of typer as those of the options: the flag, what is wrong, and what to do."""
    parameter = getattr(error, "param", None)
    if parameter is None:
        return f"{error.format_message()} `clp --help` lists the commands, `clp COMMAND --help` their options"
    place = parameter.opts[-1] if parameter.opts[-1].startswith("-") else parameter.metavar or parameter.name.upper()
    wrong = error.message.rstrip(".") or "a value is missing"
    if hasattr(error.__cause__, "errors"):  # typer lets pydantic read numbers
        first = error.__cause__.errors()[0]
        wrong = f"{shown(first['input'])} is not {'a number' if 'float' in first['type'] else 'a whole number'}"
    return f"{place}: {wrong}; {getattr(parameter, 'help', '') or 'see --help'}"


def fail(message: str, code: int) -> int:
    """Print one line on stderr; return the exit code."""
    echo("clp: " + " ".join(message.split()), err=True)
    return code


def run() -> NoReturn:
    """Be the process of one command: set up logging and signals, run it, and exit."""
    logging.setLogRecordFactory(PrintableRecord)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "faiss.loader", "faiss", "filelock", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, end_on_signal)
    raise SystemExit(main())


if __name__ == "__main__":
    run()
