"""Whether what was measured is what an experiment asks for: a file that was changed since is measured anew.

Models and texts are compared by the last part of their names, as paths of other machines are not kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from clp_core.experiments.design import OWN_TRAIN_FIELDS, Design, Run
from clp_core.initializers import initializer
from clp_core.initializers.base import parse_settings
from clp_core.options import flag_of
from clp_core.training.options import TrainOptions
from clp_core.training.teacher import HELPER
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import AUTO
from clp_core.workspace import Workspace

MADE_BY = "made_by"
"""What a record tells of itself, beside what is measured."""


def run_differs(design: Design, run: Run, told: Mapping[str, Any]) -> list[str]:
    """Return in what the run that a record tells of is another than the experiment asks for.

    Args:
        design: the experiment.
        run: one of its runs.
        told: what was kept of it.
    """
    options = asdict(design.train_options(run, Path(), Workspace(Path())))
    kept = told.get("arguments", {})
    asked = {name: value for name, value in options.items() if name not in OWN_TRAIN_FIELDS} | {"seed": run.seed}
    asked["teacher"] = name_of(design.helper if options["teacher"] == HELPER else options["teacher"])
    asked |= {"text": names_of(options["text"]), "eval_text": name_of(options["eval_text"])}
    known = {item.name: item.default for item in fields(TrainOptions)} | kept  # an older record lacks newer options
    found = [name for name, value in asked.items() if plain(known[name]) != plain(value)]
    made = told.get("transfer", {})
    wanted: dict[str, Any] = {"source": name_of(design.source), "helper": name_of(design.helper), "match": design.match}
    wanted |= {"seed": run.seed}
    found += [name for name, value in wanted.items() if made.get(name) != value]
    if not is_method(run.arm.method, made):
        found.append("method")
    return found


def is_method(asked: str, made: Mapping[str, Any]) -> bool:
    """Say whether a transfer's report is of a method as an experiment names it."""
    method, *settings = asked.split(":")
    if method == AUTO:
        return bool(made.get("auto"))
    resolved = initializer(method).resolve(parse_settings(settings))
    return not made.get("auto") and made.get("method") == method and made.get("settings") == {method: resolved}


def measure_differs(commands: Mapping[str, Sequence[str]], told: Mapping[str, Any]) -> bool:
    """Say whether a record tells of other commands than these.

    Args:
        commands: arguments of ``clp``, by what they measure. Of ``clp downstream`` the model is left out, which is a
            run's own, and the word pairs, which stand last and may be missing here.
        told: what was kept of them.
    """

    def differs(asked: Sequence[str], kept: Sequence[str]) -> bool:
        if asked[0] == "downstream":
            asked, kept = asked[2:], kept[2:][: len(asked) - 2]
        elif list(asked[:1]) == list(kept[:1]) == list(CompareMethodsOptions.COMMAND):
            return given_in(asked[1:]) != given_in(kept[1:])
        return names_of(asked) != names_of(kept)

    kept = {name: shlex.split(entry["command"])[1:] for name, entry in told.items() if name != MADE_BY}
    return kept.keys() != commands.keys() or any(differs(commands[name], kept[name]) for name in commands)


def given_in(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options in arguments of ``clp compare-methods`` that are not their defaults, models by their names."""
    flags = {flag_of(item.name): item for item in fields(CompareMethodsOptions)}
    given = dict(zip(arguments[::2], map(name_of, arguments[1::2]), strict=False))
    return {flag: value for flag, value in given.items() if flag not in flags or value != str(flags[flag].default)}


def name_of(reference: str) -> str:
    """Return the last part of a path or of a Hub id."""
    return Path(reference).name


def names_of(references: Sequence[str]) -> list[str]:
    """Return the last part of each."""
    return [name_of(reference) for reference in references]


def plain(value: Any) -> Any:
    """Return a value as JSON would hold it."""
    return list(value) if isinstance(value, tuple) else value
