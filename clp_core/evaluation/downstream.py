"""What a target model can do, measured offline: cloze questions, and word pairs found again in its embeddings."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clp_core.data.text_sources import DEFAULT_FIELD
from clp_core.environment.devices import DEVICES
from clp_core.environment.memory_errors import memory_explained
from clp_core.errors import InputError
from clp_core.options import Options, option

if TYPE_CHECKING:
    from clp_core.checkpoints.checkpoint import Checkpoint
    from clp_core.evaluation.cloze import ClozeScore, Question
    from clp_core.evaluation.word_translation import Retrieval

log = logging.getLogger(__name__)

MAX_QUESTIONS = 100_000


@dataclass(frozen=True)
class Proportion:
    """Proportion of right answers to independent questions, with its interval.

    Attributes:
        right: number of right answers.
        n: number of questions.
    """

    right: int
    n: int

    @property
    def value(self) -> float:
        """Right answers over questions; NaN where there are none."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; it has a width even where no answer, or every one, is right."""
        if not self.n:
            return 0.0, 1.0
        from scipy.stats import binomtest  # importing it takes most of a second

        interval = binomtest(self.right, self.n).proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def to_json(self) -> dict[str, Any]:
        """Figures of the command line."""
        return {"n": self.n, "right": self.right, "accuracy": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class DownstreamOptions(Options):
    """What is measured of a model."""

    COMMAND: ClassVar[tuple[str, ...]] = ("downstream",)
    PLACED: ClassVar[tuple[str, ...]] = ("model",)

    model: str = option(help="target model, or a checkpoint trained from it: a folder or a Hub id")
    text: tuple[str, ...] = option(
        (), help="held-out text for cloze questions: file, folder or hub:ORG/NAME; may be given again"
    )
    text_field: str = option(DEFAULT_FIELD, help="field of JSON objects, or column of tables, that holds the text")
    words: str = option("", help="file of word pairs, a line each: target word, a tab, source word")
    source: str = option("", help="source model that the words are found in; by default the one the target names")
    questions: int = option(500, help="cloze questions to ask", minimum=1, maximum=MAX_QUESTIONS)
    seed: int = option(42, help="seed of the questions", minimum=0)
    device: str = option("auto", help="where the model runs; auto: a GPU where there is one", choices=DEVICES)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing for a measurement."""
        if not self.text and not self.words:
            yield "", "nothing to measure; give --text FILE for cloze questions, --words FILE for retrieval"
        if self.source and not self.words:
            yield "source", "only with --words FILE; give both, or leave it out"


@dataclass(frozen=True)
class DownstreamScores:
    """What was measured of a model.

    Attributes:
        cloze: answers to cloze questions, where a text was given.
        retrieval: word pairs found, where pairs were given.
        warnings: what a reader of the figures should know.
    """

    cloze: ClozeScore | None
    retrieval: Retrieval | None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        parts = {"cloze": self.cloze, "retrieval": self.retrieval}
        return {name: part.to_json() if part else None for name, part in parts.items()}


def measure(options: DownstreamOptions) -> DownstreamScores:
    """Measure what a model can do.

    Raises:
        InputError: a model, the text or the word pairs cannot be used.
    """
    from clp_core.checkpoints.checkpoint import Checkpoint
    from clp_core.data.text_sources import Texts
    from clp_core.evaluation.cloze import make_questions
    from clp_core.progress import report_progress

    checkpoint = Checkpoint.open(options.model)
    report_progress("reading the text and the words")
    texts = Texts.open(options.text, options.text_field) if options.text else None
    questions = make_questions(texts, options.questions, options.seed) if texts else []
    retrieval = find_words(checkpoint, options) if options.words else None
    cloze = ask(checkpoint, questions, options.device) if questions else None
    warnings = cloze.warnings if cloze else []
    if 0 < len(questions) < options.questions:
        warnings.append(f"the text gives {len(questions)} cloze questions only, {options.questions} were asked for")
    if retrieval and not (retrieval.missing or retrieval.copied):
        warnings.append("the model holds no provenance: missing and copied tokens cannot be told apart")
    return DownstreamScores(cloze, retrieval, tuple(warnings))


def ask(checkpoint: Checkpoint, questions: Sequence[Question], device: str = "auto") -> ClozeScore:
    """Load a model and let it answer cloze questions.

    Raises:
        InputError: it cannot be loaded, does not fit its tokenizer, or can take none of the questions.
    """
    from clp_core.checkpoints.model_config import max_positions
    from clp_core.evaluation.bits_per_byte import load_model
    from clp_core.evaluation.cloze import answer_questions
    from clp_core.tokenization.vocabulary import Vocabulary

    model = load_model(checkpoint.folder, device)
    vocabulary = Vocabulary.open(checkpoint.folder, rows=model.get_input_embeddings().weight.shape[0])
    for warning in vocabulary.warnings:
        log.warning("%s", warning)
    with memory_explained(f"answering with {checkpoint.folder.name}", model.device.type):
        return answer_questions(model, vocabulary, questions, max_positions(checkpoint.config))


def find_words(checkpoint: Checkpoint, options: DownstreamOptions) -> Retrieval:
    """Look for word pairs between a target and its source.

    Raises:
        InputError: the word pairs or the source cannot be used, or no source is known.
    """
    from clp_core.checkpoints.checkpoint import Checkpoint
    from clp_core.evaluation.word_translation import read_pairs, retrieve
    from clp_core.files.artifacts import REPORT_FILE
    from clp_core.files.json_files import read_json

    pairs = read_pairs(options.words)
    source = options.source or read_json(checkpoint.folder / REPORT_FILE).get("source")
    if not isinstance(source, str) or not source:
        raise InputError(f"{checkpoint.folder} does not name the source it was made from; give --source MODEL")
    return retrieve(checkpoint, Checkpoint.open(source), pairs)
