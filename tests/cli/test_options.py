"""Options of all commands: what is refused, how errors read on the command line, in files and on pages."""

import dataclasses
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import typer
from hypothesis import given
from hypothesis import strategies as st_values
from support.commands import clp, refused
from typer.testing import CliRunner

from clp_core.cli.app import app, jobs_app
from clp_core.cli.app_options import AppOptions
from clp_core.cli.output import metavar_of, options_command
from clp_core.errors import InputError
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
from clp_core.jobs import JobStore
from clp_core.options import MISSING, OptionsError, command_of, flag_of, like, option
from clp_core.playground.answers import GenerateOptions
from clp_core.playground.options import PlaygroundOptions
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push_options import PushOptions
from clp_core.run_comparison.options import CompareRunsOptions, ImportOptions
from clp_core.submission import submit_method_comparison
from clp_core.training.options import TrainOptions
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from components import messages

OPTIONS = (
    OverlapOptions,
    TransferOptions,
    CompareMethodsOptions,
    InspectOptions,
    PrepareOptions,
    TrainOptions,
    EvaluateOptions,
    AppOptions,
    ExperimentOptions,
    NeighborsOptions,
    AgreementOptions,
    NearDuplicatesOptions,
    ProjectOptions,
    DownstreamOptions,
    PushOptions,
    GenerateOptions,
    PlaygroundOptions,
    TokenizerOptions,
    PretrainOptions,
    ExportOptions,
    CompareRunsOptions,
    ImportOptions,
)
COMMANDS = {" ".join(options.COMMAND): options for options in OPTIONS}
WITHOUT_OPTIONS = {"demo", "jobs list", "jobs show", "jobs stop", "jobs resume", "jobs rename", "jobs remove"}
VALID = {"output": "x.parquet", "repo": "owner/name", "file": __file__, "text": ("t.txt",), "checkpoint": "best"}
CLASSES = pytest.mark.parametrize("options", list(COMMANDS.values()), ids=list(COMMANDS))


def fields_of(options, *hints):
    return [item for item in dataclasses.fields(options) if item.init and item.type in hints]


def needed(options):
    """Values with which the options are valid."""
    values = {}
    for item in dataclasses.fields(options):
        if item.init and (item.default is MISSING or (options is DownstreamOptions and item.name == "text")):
            values[item.name] = VALID.get(item.name, ("x", "y") if item.type.startswith("tuple") else "x")
    return values


def refusal(options, **values):
    with pytest.raises(OptionsError) as error:
        options(**(needed(options) | values))
    return str(error.value)


def test_every_command_with_options_is_checked_here():
    named = {command.name or command.callback.__name__ for command in app.registered_commands}
    named |= {f"jobs {command.name}" for command in jobs_app.registered_commands}
    assert named == set(COMMANDS) | WITHOUT_OPTIONS


@CLASSES
def test_numbers_beyond_their_bounds_are_refused_by_flag(options):
    options(**needed(options))
    for item in fields_of(options, "int", "float", "float | None"):
        bounds = item.metadata
        wrong = [math.nan, math.inf, -math.inf, True, "3", [1], 10**400]
        wrong += [] if item.type == "float | None" else [None]
        wrong += [2**70, 1.5] if item.type == "int" else []
        wrong += [bounds["minimum"] - 1] if bounds["minimum"] is not None else []
        wrong += [bounds["maximum"] + 1] if bounds["maximum"] is not None else []
        wrong += [bounds[name] for name in ("above", "below") if bounds[name] is not None]
        for value in wrong:
            assert refusal(options, **{item.name: value}).startswith(f"{flag_of(item.name)}: "), value


@CLASSES
def test_words_switches_and_lists_of_another_kind_are_refused_by_flag(options):
    for item in fields_of(options, "str", "bool", "tuple[str, ...]"):
        wrong = {"str": [3, None, ["a"], True, "a\0b"], "bool": ["yes", 1, None]}.get(item.type, ["ab", None, [3]])
        wrong += ["no such word"] if item.metadata["choices"] else []
        wrong += ["", " "] if item.type == "str" and item.default != "" else []
        wrong += [[]] if item.type.startswith("tuple") and item.default is MISSING else []
        wrong += [[""]] if item.type.startswith("tuple") and not item.metadata["allow_empty"] else []
        for value in wrong:
            assert refusal(options, **{item.name: value}).startswith(f"{flag_of(item.name)}: "), value


@pytest.mark.parametrize("command", COMMANDS)
def test_command_names_every_flag_that_is_wrong_before_it_opens_anything(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = COMMANDS[command]
    positional = options.PLACED
    arguments, wrong = command.split(), []
    for item in dataclasses.fields(options):
        if not item.init:
            continue
        bad = str(2**70) if item.type == "int" else "nan" if item.type.startswith("float") else ""
        bad = "no such word" if item.metadata["choices"] else bad
        if bad:
            wrong.append(flag_of(item.name))
            arguments += [wrong[-1], bad]
    for name, value in needed(options).items():
        for part in value if isinstance(value, tuple) else [value]:
            arguments += [part] if name in positional else [flag_of(name), part]
    if wrong:
        line = refused(*arguments)
        assert all(f" {flag}: " in line for flag in wrong)
        assert line.count("; ") >= len(wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "m", "--seed", "many"], "--seed: 'many' is not a whole number; "),
        (["generate", "m", "--seed", "1e400"], "--seed: '1e400' is not a whole number"),
        (["generate", "m", "--top-p", "much"], "--top-p: 'much' is not a number; "),
        (["generate", "m", "--temperature", "1e400"], "--temperature: inf is not a finite number; give one"),
        (["generate", "m", "--temperature", "1e-30"], "--temperature: 1e-30 is too small; give 0, or 0.001"),
        (["generate", ""], "MODELS: the value is empty; needed: models"),
        (["generate"], "MODELS: a value is missing; models"),
        (["project", "m"], "--output: a value is missing; parquet file to write"),
        (["prepare", " "], "MODEL: the value is empty; needed: model: a folder or a Hub id"),
        (["inspect", "m", "a", "-k", "0"], "-k: 0 is too small; give 1 or more"),
        (["jobs", "compare", "a", "a"], "BASELINE RUN...: name a baseline and at least one other run"),
        (["jobs", "compare", "a", "b", "--level", "0"], "--level: 0.0 is too small; give more than 0"),
        (["jobs", "export", "a", "--output", "o", "--checkpoint", "²"], "--checkpoint: '²' is not valid; use best"),
        (["push", "m", "m"], "REPO: 'm' is not the name of a repository; give owner/name"),
        (["push", "m", "o/m", "--language", "NO"], "--language: 'NO' is not valid; use the code of a language"),
        (["compare-methods", "--source", "s", "--helper", "h", "--methods", "clp,x"], "--methods: 'x' is unknown"),
        (["transfer", "--source", "s", "--helper", "h", "--output", "o", "--setting", "k=1", "--setting", "k=2",
          "--method", "clp-topk"], "--setting: k is set twice; set it once"),
        (["app", "--port", "0"], "--port: 0 is too small; give 1 or more"),
    ],
)  # fmt: skip
def test_errors_name_the_flag_what_is_wrong_and_what_to_do(arguments, message):
    assert message in refused(*arguments)


def test_unknown_option_names_where_options_are_listed():
    assert "--sed" in refused("generate", "m", "--sed", "3")
    assert "--help" in refused("generate", "m", "--sed", "3")


def test_all_problems_are_named_at_once():
    with pytest.raises(OptionsError) as error:
        TrainOptions("m", ("t",), "v", max_steps=-1, learning_rate=2.0)
    assert error.value.fields == ("max_steps", "learning_rate")
    message = "--max-steps: -1 is too small; give 0 or more. --learning-rate: 2.0 is too large; give less than 1"
    assert str(error.value) == message


@given(st_values.integers(0, 2**63 - 1))
def test_whole_numbers_are_exact_however_they_are_written(value):
    content = {"models": ["m"], "seed": str(value)}
    assert GenerateOptions.of_text(content).seed == value
    assert GenerateOptions.of_text(content | {"seed": f"{value}.0"}).seed == value
    assert GenerateOptions.of_text(content | {"seed": f"{value}e0"}).seed == value


def test_whole_floats_become_whole_numbers():
    options = TrainOptions("m", ["t"], "v", max_tokens=2e5)
    assert (options.max_tokens, type(options.max_tokens), options.text) == (200_000, int, ("t",))
    assert type(TrainOptions("m", ("t",), "v", weight_decay=0).weight_decay) is float


@pytest.mark.parametrize("text", ["3e-4", "1E-3", ".5", "0.1", "1_0e-2", "+0.25"])
def test_texts_are_numbers_where_numbers_are_needed(text):
    content = {"model": "m", "text": ["t"], "eval_text": "v", "name": text}
    options = TrainOptions.of_text(content | {"learning_rate": text})
    assert (options.learning_rate, options.name) == (float(text), text)
    with pytest.raises(OptionsError, match=r"--learning-rate: .* is not a number"):
        TrainOptions.of_json(content | {"learning_rate": text})


def test_texts_are_switches_only_where_switches_are_needed():
    content = {"model": "m", "text": ["t"], "eval_text": "v", "compile": "off", "name": "no"}
    for word, value in (("yes", True), ("on", True), ("True", True), ("no", False), ("OFF", False), ("false", False)):
        options = TrainOptions.of_text(content | {"streaming": word})
        assert (options.streaming, options.compile, options.name) == (value, "off", "no")
    with pytest.raises(OptionsError, match="--streaming: 'perhaps' is neither true nor false"):
        TrainOptions.of_text(content | {"streaming": "perhaps"})


@CLASSES
def test_options_survive_their_json_and_lacking_fields_have_their_defaults(options):
    made = options(**needed(options))
    content = json.loads(json.dumps(dataclasses.asdict(made), default=str))
    content = {item.name: content[item.name] for item in dataclasses.fields(options) if item.init}
    assert options.of_json(content) == made
    assert options.of_json({name: content[name] for name in needed(options)}) == made
    for wrong in (content | {"from_the_future": 1}, [content], "x", None, content | {3: 4}):
        with pytest.raises(InputError):
            options.of_json(wrong)


@CLASSES
def test_arguments_give_the_same_options_back(options):
    made, more = [], {}
    for item in fields_of(options, "int", "float", "bool", "str", "tuple[str, ...]"):
        if item.type in ("int", "float") and item.name not in ("max_minutes", "max_tokens", "vocab_size"):
            bounds = item.metadata
            is_share = item.type == "float" and (bounds["below"] == 1 or bounds["maximum"] == 1)
            more[item.name] = 0.5 if is_share else max(item.default, 16)
        elif item.type == "bool":
            more[item.name] = True
        elif item.type == "str" and item.metadata["choices"]:
            more[item.name] = item.metadata["choices"][-1]
    more |= {"launcher": "slurm", "processes_per_node": 1, "method": "clp", "teacher": "m", "preset": "default"}
    more = {name: value for name, value in more.items() if hasattr(options, name)}
    more |= {"method": "pca"} if options is ProjectOptions else {}
    more |= {"port": 80, "folds": 3, "seed": 7}
    wanted = options(**(needed(options) | {name: more[name] for name in more if hasattr(options, name)}))
    command = typer.Typer()
    options_command(command, options)(lambda options: made.append(options))
    result = CliRunner().invoke(command, shlex.split(command_of(wanted))[1 + len(options.COMMAND) :])
    assert result.exit_code == 0, result.output
    assert made == [wanted]


@CLASSES
def test_every_field_has_help_and_stands_in_the_help_of_its_command(options):
    command = typer.Typer()
    options_command(command, options)(lambda options: None)
    shown = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for item in dataclasses.fields(options):
        if item.init:
            assert item.metadata["help"]
            assert (metavar_of(item) if item.name in options.PLACED else flag_of(item.name)) in shown


def test_pages_name_fields_in_place_of_flags(monkeypatch):
    shown = []
    monkeypatch.setattr(st, "error", lambda text, icon: shown.append(text.replace("\\", "")))
    with messages.errors_as_messages():
        TrainOptions("m", ("t",), "v", max_steps=5, max_tokens=5)
    with messages.errors_as_messages():
        TrainOptions("m", ("t",), "v", learning_rate=2.0)
    with messages.errors_as_messages():
        raise InputError("--text is missing")
    assert shown == [
        "Max tokens: this and max steps exclude each other; give one of them",
        "Learning rate: 2.0 is too large; give less than 1",
        "--text is missing",
    ]


def test_largest_seed_of_a_run_is_the_largest_of_the_generator_that_transformers_seeds():
    largest = TrainOptions("m", ("t",), "v", seed=2**32 - 1).seed
    np.random.RandomState(largest)
    with pytest.raises(ValueError, match="Seed must be between"):
        np.random.RandomState(largest + 1)
    assert refusal(TrainOptions, seed=largest + 1).startswith(f"--seed: {2**32} is too large; give {largest} or less")


@pytest.mark.parametrize("field", ["time_limit", "device", "checkpoint"])
def test_numbers_within_texts_are_refused_before_python_refuses_to_read_them(field):
    given = {"time_limit": {"launcher": "slurm", "time_limit": "9" * 5000}, "device": {"device": "cuda:" + "9" * 5000}}
    options = ExportOptions if field == "checkpoint" else TrainOptions
    message = refusal(options, **given.get(field, {field: "9" * 5000}))
    assert message.startswith(f"{flag_of(field)}: '")


def test_comparison_of_methods_is_refused_before_there_is_a_job(workspace):
    with pytest.raises(OptionsError, match="--match: 'fuzzy' is unknown; use one of raw, canonical"):
        submit_method_comparison(workspace, CompareMethodsOptions("source", "helper", match="fuzzy"))
    assert JobStore(workspace.jobs).jobs() == []


def test_field_like_another_has_its_default_help_and_bounds():
    seed = like(TransferOptions, "seed")
    assert (seed.default, seed.metadata["minimum"], seed.metadata["help"]) == (
        42, 0, "seed of random rows and of the held-out choice",
    )  # fmt: skip
    assert like(TransferOptions, "seed", minimum=3).metadata["minimum"] == 3
    assert option(1, help="x").default == 1


def test_file_names_that_are_not_utf_8_pass_the_options_and_stop_at_jobs():
    name = "gr\udcf6.txt"  # refused with the cure for file names, see test_text_forms
    assert EvaluateOptions("m", (name,)).text == (name,)
    assert Path(ImportOptions(Path(__file__)).file) == Path(__file__)


def test_help_is_shown_without_an_error():
    for command in COMMANDS:
        assert clp(*command.split(), "--help").returncode == 0
