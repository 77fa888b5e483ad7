"""What the training of a model was: the entries of ``clp_training.json``, which lies beside an exported model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.evaluation.obstacle import Obstacle
from clp_core.files.artifacts import TRAINING_FILE
from clp_core.files.json_files import read_json
from clp_core.files.typed_json import typed
from clp_core.reports.licence import Origin


@dataclass(frozen=True)
class EvaluationPoint:
    """One evaluation on the held-out text.

    Attributes:
        step: optimiser steps done.
        tokens: seen by then.
        seconds: of training by then.
        eval_loss: nats per token.
        perplexity: per token; ``None`` where it is beyond the range of numbers.
        bits_per_byte: of the text.
    """

    step: int
    tokens: int | float | None = None
    seconds: int | float | None = None
    eval_loss: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None


@dataclass(frozen=True)
class LossPoint:
    """The training loss at one step, in nats per token."""

    step: int
    tokens: int | float | None = None
    seconds: int | float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class TrainingData:
    """The texts of a run, by name.

    Attributes:
        text: files that were trained on.
        content: digest of these under the tokenizer, ``None`` where it is not known.
        eval_text: the held-out text; empty where there was none.
        eval_content: SHA-256 of that.
    """

    text: tuple[str, ...]
    content: str | None = None
    eval_text: str = ""
    eval_content: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was up to one of its checkpoints.

    Attributes:
        run: its name.
        origin: the model that it began with.
        step: optimiser steps done.
        steps_planned: steps of the whole run; ``None`` where that is not known, as in all that follows.
        tokens: seen.
        seconds: of training, evaluations and checkpoints included.
        data: its texts.
        parameters: of the model.
        step_tokens: tokens per step.
        devices: what it was trained on, in words.
        versions: of packages, by name.
        settings: its options and its plan, without those that the card says otherwise.
        warnings: what a user should know.
        not_comparable: why its bits per byte cannot be compared across tokenizers; empty where they can.
        curve: all evaluations, by step.
        losses: training losses by step, evenly taken where they are many.
    """

    run: str
    origin: Origin
    step: int
    steps_planned: int | None = None
    tokens: int | float | None = None
    seconds: int | float | None = None
    data: TrainingData
    parameters: int | None = None
    step_tokens: int | None = None
    devices: tuple[str, ...]
    versions: Mapping[str, str | None]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    not_comparable: tuple[Obstacle, ...] = ()
    curve: tuple[EvaluationPoint, ...]
    losses: tuple[LossPoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return one of the ``runs`` of ``clp_training.json``."""
        return asdict(self)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> RunFacts:
        """Read one of the ``runs`` of any version; entries that it does not know are passed over.

        Raises:
            ValueError: an entry is missing or of another kind; the text is its name.
        """
        return typed(cls, content, none_is_absent=True)


@dataclass(frozen=True)
class TrainingFile:
    """What ``clp_training.json`` holds: the facts of all runs, the first one first."""

    runs: tuple[RunFacts, ...]


def training_json(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Return what ``clp_training.json`` holds."""
    return {"runs": [run.to_json() for run in runs]}


def read_training_facts(folder: Path) -> tuple[RunFacts, ...]:
    """Return the facts of the runs in a model's folder, the first run first; none where it has no such file.

    Raises:
        InputError: the file is damaged or another program's.
    """
    file = folder / TRAINING_FILE
    if not file.is_file():
        return ()
    try:
        return typed(TrainingFile, read_json(file)).runs
    except ValueError as error:
        raise InputError(
            f"{file} is damaged or foreign: its entry {str(error)!r} is missing or of another kind; export or fetch "
            "the model again, or remove the file, and nothing is told of that training"
        ) from error
