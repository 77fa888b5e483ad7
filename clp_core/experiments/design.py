"""What an experiment is: a YAML file that names a pair, texts, arms and seeds.

::

    title: The paper's experiment on the demo pair
    order: 1                          # place among those that the app offers; without one they come last
    source: demo-source-en            # a model of the workspace, a path from this file, or a Hub id
    helper: demo-helper-de
    train_text: [demo-train-de.txt]   # texts of the workspace, or paths from this file
    eval_text: demo-valid-de.txt
    seeds: [1, 2, 3]
    baselines: [scratch, clp]         # arms whose best score the others are to reach
    train: {max_tokens: 2048000}      # options of `clp train` for every run
    arms:
      scratch: {method: scratch}
      clp: {method: clp}
      taught: {method: auto, train: {teacher: helper}, about: "auto, and the helper (or another model) as a teacher"}
    methods: {folds: 5}               # score methods before any training; names: [...] chooses among them
    overlap: {tokenizers: [...]}      # vocabularies to compare, two by two
    agreement: [[model, model]]       # share of nearest neighbours that two models of one tokenizer have in common
    downstream: {questions: 500, words: de-en-words.tsv, arms: [clp, taught]}
    evaluate: [demo-helper-de]        # models to score on the held-out text, a teacher for one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clp_core.errors import InputError
from clp_core.evaluation.downstream import DownstreamOptions
from clp_core.evaluation.options import EvaluateOptions
from clp_core.experiments.yaml_file import read_yaml
from clp_core.files.slug import ascii_slug
from clp_core.geometry.explore_options import AgreementOptions, OverlapOptions
from clp_core.options import Options, OptionsError, like, option
from clp_core.training.options import MAX_SEED, TrainOptions
from clp_core.training.teacher import HELPER
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from clp_core.workspace import Workspace

OWN_TRAIN_FIELDS = ("model", "text", "eval_text", "seed", "name")
"""Options of a run that the experiment itself sets."""
OWN_FIELDS = ("file", "output")
"""Fields of a design that its file does not hold."""
P = TypeVar("P", bound=Options)


@dataclass(frozen=True)
class Arm(Options):
    """One way to make and train a target model."""

    name: str = option(help="what tables and charts call it", hidden=True)
    method: str = option(help="method of the transfer, with settings as in linear:neighbours=16")
    train: dict[str, Any] | None = option(None, help="options of `clp train` in which it differs from the others")
    seeds: tuple[int, ...] = option(
        (), help="seeds of its runs; empty: those of the experiment", minimum=0, maximum=MAX_SEED
    )
    about: str = option("", help="what it is, in a few words")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the name and the seeds."""
        if ascii_slug(self.name) != self.name:
            yield "name", f"{self.name!r} is not valid; use small letters, digits and hyphens"
        yield from twice("seeds", self.seeds)


@dataclass(frozen=True)
class MethodsSection(Options):
    """What ``clp compare-methods`` scores."""

    names: tuple[str, ...] = option((), help="methods to score, with settings as in clp-topk:k=8; empty: all")
    folds: int = like(CompareMethodsOptions, "folds")


@dataclass(frozen=True)
class OverlapSection(Options):
    """What ``clp overlap`` compares."""

    tokenizers: tuple[str, ...] = like(OverlapOptions, "tokenizers")
    match: str = like(OverlapOptions, "match")


@dataclass(frozen=True)
class DownstreamSection(Options):
    """What ``clp downstream`` measures of the runs."""

    questions: int = like(DownstreamOptions, "questions")
    words: str = like(DownstreamOptions, "words")
    arms: tuple[str, ...] = option((), help="arms whose runs are measured; empty: all")


@dataclass(frozen=True)
class Run:
    """One run of an arm."""

    arm: Arm
    seed: int

    @property
    def key(self) -> str:
        """What names it in files and addresses."""
        return f"{self.arm.name}-s{self.seed}"


@dataclass(frozen=True)
class Design(Options):
    """An experiment as its file describes it."""

    file: Path = option(help="the file", hidden=True)
    title: str = option(help="what the experiment is called")
    order: int = option(1000, help="place among the experiments that the app offers, the least first")
    source: str = option("", help="source model")
    helper: str = option("", help="helper model")
    match: str = like(TransferOptions, "match")
    train_text: tuple[str, ...] = option((), help="training texts")
    eval_text: str = option("", help="held-out text")
    seeds: tuple[int, ...] = option(
        (1, 2, 3),
        help="seeds of the transfer and of the order of the text, one run each",
        minimum=0,
        maximum=MAX_SEED,
    )
    baselines: tuple[str, ...] = option((), help="arms whose best score the others are to reach")
    train: dict[str, Any] | None = option(None, help="options of `clp train` for every run")
    arms: tuple[Arm, ...] = option((), help="the ways to compare")
    methods: MethodsSection | None = option(None, help="what `clp compare-methods` scores")
    overlap: OverlapSection | None = option(None, help="what `clp overlap` compares")
    agreement: tuple[tuple[str, str], ...] = option(
        (), help="pairs of models whose neighbours are compared, as in [[one, other]]"
    )
    downstream: DownstreamSection | None = option(None, help="what `clp downstream` measures of the runs")
    evaluate: tuple[str, ...] = option((), help="models that `clp evaluate` scores on the held-out text")
    output: Path | None = option(None, help="folder of the raw measurements; else that beside the file", hidden=True)

    @property
    def name(self) -> str:
        """What names it: that of its file."""
        return self.file.stem

    @property
    def folder(self) -> Path:
        """Where its raw measurements lie: beside its file, or where they were asked for."""
        return self.output or self.file.parent / self.name

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that every arm has one before any has two."""
        seeds = dict.fromkeys(seed for arm in self.arms for seed in (arm.seeds or self.seeds))
        return [Run(arm, seed) for seed in seeds for arm in self.arms if seed in (arm.seeds or self.seeds)]

    def model(self, reference: str, workspace: Workspace) -> str:
        """Return a model or tokenizer that the file names: of the workspace, by its path from the file, or a Hub id."""
        return first_place(reference, workspace.models, workspace.tokenizers, self.file.parent)

    def text(self, reference: str, workspace: Workspace) -> str:
        """Return a text that the file names: of the workspace, or by its path from the file."""
        return first_place(reference, workspace.texts, self.file.parent)

    def paths(self, workspace: Workspace) -> list[str]:
        """Return the models and texts that the file names, as far as they lie on this machine."""
        models = [self.source, self.helper, *(self.overlap.tokenizers if self.overlap else ())]
        models += [*self.evaluate, *(model for pair in self.agreement for model in pair)]
        models += [(settings or {}).get("teacher", "") for settings in (self.train, *(arm.train for arm in self.arms))]
        texts = [*self.train_text, self.eval_text, self.downstream.words if self.downstream else ""]
        places = [self.model(name, workspace) for name in models if name]
        places += [self.text(name, workspace) for name in texts if name]
        return [place for place in places if Path(place).is_absolute()]

    def train_options(self, run: Run, model: Path, workspace: Workspace) -> TrainOptions:
        """Make the options of a run.

        Raises:
            OptionsError: some are refused.
        """
        settings = {**(self.train or {}), **(run.arm.train or {})}
        if isinstance(settings.get("teacher"), str) and settings["teacher"] != HELPER:
            settings["teacher"] = self.model(settings["teacher"], workspace)
        own = {
            "model": str(model),
            "text": tuple(self.text(text, workspace) for text in self.train_text),
            "eval_text": self.text(self.eval_text, workspace),
            "name": f"{self.name} {run.arm.name} seed {run.seed}",
            "seed": run.seed,
        }
        return TrainOptions.of_text({**settings, **own})

    @property
    def needs_pair(self) -> bool:
        """Whether something of it needs a source and a helper."""
        return bool(self.arms) or self.methods is not None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what cannot be run, before anything is."""
        missing = list(self.missing())
        yield from missing
        for name in ("seeds", "baselines", "evaluate"):
            yield from twice(name, getattr(self, name))
        yield from self.unknown_arms("baselines", self.baselines)
        if self.downstream is not None:
            yield from twice("downstream.arms", self.downstream.arms)
            yield from self.unknown_arms("downstream.arms", self.downstream.arms)
        if not missing:
            yield from self.refused_by_commands()

    def missing(self) -> Iterator[tuple[str, str]]:
        """Yield what the file lacks."""
        for name in ("source", "helper", "eval_text") if self.needs_pair else ():
            if not getattr(self, name):
                yield name, "a value is missing; arms and methods need it"
        for name in ("train_text", "seeds") if self.arms else ():
            if not getattr(self, name):
                yield name, "a value is missing; arms need it"
        if self.evaluate and not self.eval_text:
            yield "eval_text", "a value is missing; evaluate needs it"
        if self.downstream is not None and not self.arms:
            yield "downstream", "it measures the runs of arms, and there are none; give arms, or leave it out"
        if not (self.needs_pair or self.overlap or self.agreement or self.evaluate):
            yield "", "nothing is to be done; give arms, methods, overlap, agreement or evaluate"

    def unknown_arms(self, place: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the names that are not those of arms."""
        known = [arm.name for arm in self.arms]
        for name in names:
            if name not in known:
                yield place, f"{name} is not an arm; there are {', '.join(known) or 'none'}"

    def refused_by_commands(self) -> Iterator[tuple[str, str]]:
        """Yield what the commands that do the experiment would refuse."""
        values: dict[str, Any]
        if not self.arms:
            yield from self.refused_training()
        pair = {"source": self.source, "helper": self.helper, "match": self.match}
        for arm in self.arms:
            yield from self.refused_training(arm)
            method, *settings = arm.method.split(":")
            values = pair | {"output": arm.name, "method": method, "setting": tuple(settings)}
            yield from refused(TransferOptions, values, f"arms.{arm.name}.method")
        if self.methods is not None:
            values = pair | {"text": self.eval_text, "folds": self.methods.folds}
            yield from refused(
                CompareMethodsOptions, values | {"methods": ",".join(self.methods.names)}, "methods.names"
            )
        if self.overlap is not None:
            values = {"tokenizers": self.overlap.tokenizers, "match": self.overlap.match}
            yield from refused(OverlapOptions, values, "overlap.tokenizers")
        for one, other in self.agreement:
            yield from refused(AgreementOptions, {"first": one, "second": other}, "agreement")
        for model in self.evaluate:
            yield from refused(EvaluateOptions, {"model": model, "text": (self.eval_text,)}, "evaluate")

    def refused_training(self, arm: Arm | None = None) -> Iterator[tuple[str, str]]:
        """Yield what ``clp train`` would refuse of the options of an arm, or of those for all arms."""
        every, own = self.train or {}, (arm.train if arm else None) or {}

        def place(name: str) -> str:
            return f"arms.{arm.name}.train.{name}" if arm and name in own else f"train.{name}"

        settings = {**every, **own}
        for name in OWN_TRAIN_FIELDS:
            if name in settings:
                yield place(name), "the experiment itself sets this; leave it out"
        names = {"model": "model", "text": ("text",), "eval_text": "text"}
        try:
            TrainOptions.of_text(
                {name: value for name, value in settings.items() if name not in OWN_TRAIN_FIELDS} | names
            )
        except OptionsError as error:
            yield from error.named(place)


def refused(options: type[Options], values: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Yield what the options of a command refuse.

    Args:
        options: the class.
        values: its values, which were validated one by one as parts of the file.
        place: where those stand in the file that only the options can judge.
    """
    try:
        options(**values)
    except OptionsError as error:
        for name, text in error.named(str):
            has_no_place = name == "target_vectors"
            yield (
                place,
                "it needs word vectors, which no experiment has; choose another method" if has_no_place else text,
            )


def twice(place: str, values: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the values that a list holds more than once."""
    for value in dict.fromkeys(values):
        if values.count(value) > 1:
            yield place, f"{value} is listed twice; list it once"


def first_place(reference: str, *roots: Path) -> str:
    """Return the first place below the roots that is there, or the reference as it is."""
    return next((str((root / reference).resolve()) for root in roots if (root / reference).exists()), reference)


def read_design(path: str | Path, output: Path | None = None) -> Design:
    """Read an experiment from its file.

    Args:
        path: the file.
        output: folder of its raw measurements; ``None`` for the one beside the file.

    Raises:
        InputError: there is no such file, or something in it is not valid.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise InputError(f"there is no file {path}; name the YAML file of an experiment")
    try:
        content = read_yaml(file)
        if not isinstance(content, dict):
            raise InputError("it holds no settings; an experiment has title, source, helper, arms and so on")
        parts = parts_of(content)
        own = {"file": file, "output": output.absolute() if output else None}
        return Design.of_text({**content, **parts, **own})
    except OptionsError as error:
        raise InputError(f"{path}: {error.worded(str)}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parts_of(content: dict[Any, Any]) -> dict[str, Any]:
    """Make the parts of an experiment that are tables.

    Raises:
        InputError: one of them is not valid.
    """
    for name in OWN_FIELDS:
        if name in content:
            raise InputError(f"{name}: this name is unknown; leave it out")
    parts: dict[str, Any] = {}
    if "arms" in content:
        arms = content["arms"]
        if not isinstance(arms, dict):
            raise InputError("arms: this is not a table of names and arms; write it as in arms: {clp: {method: clp}}")
        parts["arms"] = tuple(
            part_of(Arm, f"arms.{name}", content_of(name, settings)) for name, settings in arms.items()
        )
    for name, kind in (("methods", MethodsSection), ("overlap", OverlapSection), ("downstream", DownstreamSection)):
        if content.get(name) is not None:
            parts[name] = part_of(kind, name, content[name])
    return parts


def content_of(name: Any, settings: Any) -> Any:
    """Return the values of an arm with its name.

    Raises:
        InputError: it has no name, or they hold another one.
    """
    if not name:
        raise InputError("arms: the name of an arm is empty; use small letters, digits and hyphens")
    if not isinstance(settings, dict):
        return settings
    if "name" in settings:
        raise InputError(f"arms.{name}.name: this name is unknown; the arm is called {name} already")
    return {**settings, "name": name}


def part_of(kind: type[P], place: str, content: Any) -> P:
    """Make a part of an experiment.

    Raises:
        InputError: it is not valid; its place is named.
    """
    try:
        return kind.of_text(content)
    except OptionsError as error:
        problems = error.named(lambda name: f"{place}.{name}")
        raise InputError(". ".join(f"{name or place}: {text}" for name, text in problems)) from error
