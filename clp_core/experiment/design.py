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

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clp_core.choices import AUTO
from clp_core.errors import InputError
from clp_core.initializers import initializer
from clp_core.initializers.base import parse_settings
from clp_core.jobs.store import slug_of
from clp_core.teacher import HELPER
from clp_core.train_options import TrainOptions
from clp_core.workspace import Workspace

OWN_TRAIN_FIELDS = ("model", "text", "eval_text", "seed", "name")
"""Options of a run that the experiment itself sets."""
LISTS = ("train_text", "seeds", "baselines", "evaluate")


@dataclass(frozen=True)
class Arm:
    """One way to make and train a target model.

    Attributes:
        name: what tables and charts call it.
        method: method of the transfer, with settings as in ``linear:neighbours=16``.
        train: options of ``clp train`` in which it differs from the others.
        seeds: seeds of its runs; empty means those of the experiment.
        about: what it is, in a few words.
    """

    name: str
    method: str
    train: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    about: str = ""


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
class Design:
    """An experiment as its file describes it.

    Attributes:
        file: the file.
        title: what it is called.
        order: place among the experiments that the app offers, the least first.
        source: source model.
        helper: helper model.
        match: how tokens are compared.
        train_text: training texts.
        eval_text: held-out text.
        seeds: seed of the transfer and of the order of the text, one run each.
        baselines: arms whose best score the others are to reach.
        train: options of ``clp train`` for every run.
        arms: the ways to compare.
        methods: what ``clp compare-methods`` is asked: ``names``, ``folds``; ``None`` for nothing.
        overlap: what ``clp overlap`` is asked: ``tokenizers``, ``match``.
        agreement: pairs of models whose neighbours are compared.
        downstream: what ``clp downstream`` is asked: ``questions``, ``words``, ``arms``.
        evaluate: models that ``clp evaluate`` scores on the held-out text.
        output: folder of the raw measurements; ``None`` for the one beside the file.
    """

    file: Path
    title: str
    order: int = 1000
    source: str = ""
    helper: str = ""
    match: str = "raw"
    train_text: tuple[str, ...] = ()
    eval_text: str = ""
    seeds: tuple[int, ...] = (1, 2, 3)
    baselines: tuple[str, ...] = ()
    train: Mapping[str, Any] = field(default_factory=dict)
    arms: tuple[Arm, ...] = ()
    methods: Mapping[str, Any] | None = None
    overlap: Mapping[str, Any] | None = None
    agreement: tuple[tuple[str, str], ...] = ()
    downstream: Mapping[str, Any] | None = None
    evaluate: tuple[str, ...] = ()
    output: Path | None = None

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
        return found(reference, workspace.models, workspace.tokenizers, self.file.parent)

    def text(self, reference: str, workspace: Workspace) -> str:
        """Return a text that the file names: of the workspace, or by its path from the file."""
        return found(reference, workspace.texts, self.file.parent)

    def paths(self, workspace: Workspace) -> list[str]:
        """Return the models and texts that the file names, as far as they lie on this machine."""
        models = [self.source, self.helper, *(self.overlap or {}).get("tokenizers", ())]
        models += [*self.evaluate, *(model for pair in self.agreement for model in pair)]
        models += [settings.get("teacher", "") for settings in (self.train, *(arm.train for arm in self.arms))]
        texts = [*self.train_text, self.eval_text, (self.downstream or {}).get("words", "")]
        places = [self.model(name, workspace) for name in models if name]
        places += [self.text(name, workspace) for name in texts if name]
        return [place for place in places if Path(place).is_absolute()]

    def train_options(self, run: Run, model: Path, workspace: Workspace) -> TrainOptions:
        """Return what a run is asked to do."""
        settings = {**self.train, **run.arm.train}
        if settings.get("teacher", HELPER) != HELPER:
            settings["teacher"] = self.model(settings["teacher"], workspace)
        listed = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
        return TrainOptions(
            model=str(model),
            text=tuple(self.text(text, workspace) for text in self.train_text),
            eval_text=self.text(self.eval_text, workspace),
            name=f"{self.name} {run.arm.name} seed {run.seed}",
            seed=run.seed,
            **{**settings, **listed},
        )


def found(reference: str, *roots: Path) -> str:
    """Return the first place below the roots that is there, or the reference as it is."""
    return next((str((root / reference).resolve()) for root in roots if (root / reference).exists()), reference)


def read_design(path: str | Path, output: Path | None = None) -> Design:
    """Read an experiment from its file.

    Args:
        path: the file.
        output: folder of its raw measurements; ``None`` for the one beside the file.

    Raises:
        InputError: there is no such file, or something in it cannot be meant.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise InputError(f"there is no file {path}; name the YAML file of an experiment")
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict):
        raise InputError(f"{path} holds no settings; an experiment has title, source, helper, arms and so on")
    known = [item.name for item in dataclasses.fields(Design) if item.name not in ("file", "output")]
    refuse_unknown(path, "", told, known)
    if "title" not in told:
        raise InputError(f"{path}: title is missing")
    if not isinstance(told.get("order", 0), int):
        raise InputError(f"{path}: order is a whole number, the place among the experiments that the app offers")
    lists = {name: listed(path, name, told) for name in LISTS if name in told}
    lists["arms"] = tuple(arm_of(path, name, settings) for name, settings in mapping(path, "arms", told).items())
    lists["agreement"] = tuple(tuple(pair) for pair in listed(path, "agreement", told))
    design = Design(file, **{**told, **lists}, output=output.absolute() if output else None)
    check(path, design)
    return design


def mapping(path: str | Path, name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of the file, an empty one where it is left out.

    Raises:
        InputError: it is something else.
    """
    value = told.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} is no table of names and values")
    return value


def listed(path: str | Path, name: str, told: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a list of the file, an empty one where it is left out.

    Raises:
        InputError: it is something else.
    """
    value = told.get(name) or []
    if not isinstance(value, list):
        raise InputError(f"{path}: {name} is no list, as in {name}: [{value}]")
    return tuple(value)


def refuse_unknown(path: str | Path, where: str, told: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse names that mean nothing.

    Raises:
        InputError: there is one.
    """
    for name in told:
        if name not in known:
            raise InputError(f"{path}: {where}{name} is unknown; there are {', '.join(known)}")


def arm_of(path: str | Path, name: str, settings: object) -> Arm:
    """Return an arm of the file.

    Raises:
        InputError: it cannot be meant.
    """
    if not isinstance(settings, dict) or "method" not in settings:
        raise InputError(f"{path}: the arm {name} names no method, as in {{method: clp}}")
    refuse_unknown(path, f"arms.{name}.", settings, ["method", "train", "seeds", "about"])
    if slug_of(str(name)) != name:
        raise InputError(f"{path}: the arm {name} needs a name of small letters, digits and hyphens")
    method, *given = str(settings["method"]).split(":")
    if method != AUTO:
        initializer(method).resolve(parse_settings(given))
    seeds = tuple(settings.get("seeds") or ())
    return Arm(name, str(settings["method"]), mapping(path, "train", settings), seeds, str(settings.get("about", "")))


def check(path: str | Path, design: Design) -> None:
    """Refuse what cannot be run, before anything is.

    Raises:
        InputError: there is such a thing.
    """
    names = [arm.name for arm in design.arms]
    for baseline in design.baselines:
        if baseline not in names:
            raise InputError(f"{path}: the baseline {baseline} is no arm; there are {', '.join(names)}")
    for where, settings in (("train", design.train), *((f"arms.{arm.name}.train", arm.train) for arm in design.arms)):
        fields = [item.name for item in dataclasses.fields(TrainOptions) if item.name not in OWN_TRAIN_FIELDS]
        refuse_unknown(path, f"{where}.", settings, fields)
    refuse_unknown(path, "methods.", design.methods or {}, ["names", "folds"])
    refuse_unknown(path, "overlap.", design.overlap or {}, ["tokenizers", "match"])
    refuse_unknown(path, "downstream.", design.downstream or {}, ["questions", "words", "arms"])
    needs_pair = bool(design.arms) or design.methods is not None
    for name in ("source", "helper", "eval_text") if needs_pair else ():
        if not getattr(design, name):
            raise InputError(f"{path}: {name} is missing")
    if design.arms and not (design.train_text and design.seeds):
        raise InputError(f"{path}: arms need train_text and seeds")
    if design.evaluate and not design.eval_text:
        raise InputError(f"{path}: evaluate needs eval_text")
    if any(len(pair) != 2 for pair in design.agreement):
        raise InputError(f"{path}: agreement lists pairs of models, as in [[one, other]]")
    if not (needs_pair or design.overlap or design.agreement or design.evaluate):
        raise InputError(f"{path} asks for nothing: give arms, methods, overlap, agreement or evaluate")
    for run in design.runs:
        try:
            design.train_options(run, Path("model"), Workspace(Path("workspace")))
        except (InputError, TypeError) as error:
            raise InputError(f"{path}: arm {run.arm.name}: {error}") from error
