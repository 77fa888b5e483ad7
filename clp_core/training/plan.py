"""The plan that follows from what a run is asked to do: steps, rates, memory. Needs no torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.memory_estimate import Shape
from clp_core.checkpoints.model_config import decoder_config, embedding_rows, max_positions
from clp_core.checkpoints.provenance_reading import missing_rows
from clp_core.data.contamination import LARGEST_TEXT_AT_ONCE, Contamination, find_leak
from clp_core.data.packing import TextCounts, counts_of_beginning, estimated_tokens, stored_length, stream_fingerprint
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.files.hashing import fingerprint
from clp_core.tokenization.text_reading import FIRST, block_start, end_token, resolved_begin
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training import schedule as schedules
from clp_core.training.device_choice import TrainingDevice, has_fast_bf16, mean_peak, place_of, processes_of
from clp_core.training.memory_fit import fit
from clp_core.training.options import ResolvedOptions, TrainOptions
from clp_core.training.schedule import Schedule
from clp_core.training.teacher import check_teacher, teacher_of

MAX_BLOCK = 1024
EPOCHS_OF_SMALL_TEXT = 4
SMALL_TEXT_TOKENS = 10_000_000
LOSS_EVERY = 10
EVALUATIONS = 12
MIN_STEPS_BETWEEN_EVALUATIONS = 10
CHECKPOINT_BYTES_PER_PARAMETER = 12
WEIGHT_BYTES_PER_PARAMETER = 4
FIRST_STAGE_FACTOR = 3.0
"""How much faster embeddings learn while the body is frozen; the authors use 1e-3 beside 3e-4."""
COMPILE_FROM_STEPS = 1000
MOST_PASSES_A_STEP = 20
GUESSED_SHARE_OF_PEAK = 0.35
GUESSED_FLOPS = {"cpu": 3e10, "cuda": 3e13}
"""Operations a second of a CPU core, or of a GPU that is not known: only the first steps of a run by time use it."""
ROTARY = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_dim", "rotary_pct", "rotary_emb_base", "alibi")
LEARNING_RATES = ((50e6, 1e-3), (1e9, 3e-4), (7e9, 1e-4), (math.inf, 5e-5))
BATCH_TOKENS = ((10e6, 4096), (200e6, 32768), (math.inf, 262144))


@dataclass(frozen=True)
class TrainPlan:
    """All settings of a run, chosen.

    Attributes:
        parameters: number of the model's parameters.
        device: ``cpu`` or ``cuda``.
        device_name: what the device is.
        devices: what the run holds while it trains: ``cpu``, or GPUs as ``cuda:0``. None where Slurm gives it its
            machines.
        nodes: machines.
        processes: processes that train together, on all machines.
        sharding: ``none`` (one process), ``ddp`` or ``fsdp``.
        bf16: whether products are computed in bfloat16; weights and sums stay float32.
        checkpointing: whether activations are computed twice to save memory.
        compiled: whether the model goes through torch.compile.
        block_length: tokens a block.
        step_blocks: blocks an optimiser step.
        micro_blocks: blocks that go through the model at once, on each process.
        steps: optimiser steps; of a run by time a guess, which its first steps correct.
        minutes: how long the run may take; 0 where it goes by steps.
        stages: the stages of the schedule, see ``schedule.Stage``.
        learning_rate: peak rate of the body where everything trains.
        warmup_steps: steps until the first peak.
        eval_every: steps between evaluations.
        save_every: steps between checkpoints.
        loss_every: steps between lines of loss.
        text_tokens: tokens of the training text (an estimate for large texts); ``None`` where it is not known.
        tokenizer: a name for the tokenizer's content.
        flops_per_token: operations of forward and backward pass a token, and of a teacher's forward pass.
        peak_flops: operations a second that one device can do at most; ``None`` where it is not known.
        teacher: what the run follows besides the text, a folder or a Hub id; empty for none.
        begin: where the begin-of-text token stands: ``every`` block and scored window, or the ``first`` window only.
        memory_bytes: memory the run is expected to need on its device.
        disk_bytes: disk the checkpoints are expected to need, the one being written included.
        warnings: what the user should know before paying for the run.
    """

    parameters: int
    device: str
    device_name: str
    devices: tuple[str, ...]
    nodes: int
    processes: int
    sharding: str
    bf16: bool
    checkpointing: bool
    compiled: bool
    block_length: int
    step_blocks: int
    micro_blocks: int
    steps: int
    minutes: float
    stages: tuple[Mapping[str, Any], ...]
    learning_rate: float
    warmup_steps: int
    eval_every: int
    save_every: int
    loss_every: int
    text_tokens: int | None
    tokenizer: str
    flops_per_token: float
    peak_flops: float | None
    memory_bytes: int
    disk_bytes: int
    teacher: str = ""
    begin: str = FIRST
    warnings: tuple[str, ...] = ()

    @property
    def step_tokens(self) -> int:
        """Tokens a step."""
        return self.block_length * self.step_blocks

    @property
    def tokens(self) -> int:
        """Tokens the run will see."""
        return self.steps * self.step_tokens

    @property
    def epochs(self) -> float | None:
        """Passes over the training text; ``None`` where its size is not known."""
        if self.text_tokens is None:
            return None
        of_text = self.steps * self.step_blocks * (self.block_length - (self.begin != FIRST))
        return of_text / max(self.text_tokens, 1)

    @property
    def schedule(self) -> Schedule:
        """The rates by step."""
        return Schedule.of_json(self.stages)

    @classmethod
    def of_spec(cls, plan: Mapping[str, Any]) -> TrainPlan:
        """Return the plan that a job's spec holds."""
        lists = {name: tuple(plan[name]) for name in ("devices", "stages", "warnings")}
        return cls(**{**plan, **lists})

    def to_json(self) -> dict[str, Any]:
        """Return the plan for the job's spec."""
        return asdict(self)

    def with_steps(self, options: TrainOptions, steps: int) -> TrainPlan:
        """Return the plan with another number of steps, and all that follows from it."""
        return replace(self, **rhythm_of(options, steps, self.schedule_name, self.learning_rate))

    @property
    def schedule_name(self) -> str:
        """The name of the schedule that was chosen."""
        first = self.schedule.stages[0]
        if first.body_rate:
            return "plain"
        return "new-rows" if first.rows == schedules.MISSING_ROWS else "two-stage"


@dataclass(frozen=True)
class Keyed:
    """A value that caches know by a key for its content."""

    key: Any
    value: Any = field(compare=False)

    @classmethod
    def text(cls, texts: Texts) -> Keyed:
        """Key a local text by path, size and time of its files, and by how it is read."""
        return cls((stream_fingerprint(texts), texts.field, texts.split_at), texts)


@lru_cache(maxsize=4)
def open_vocabulary(folder: Path, content: str, rows: int | None, apart: bool) -> Vocabulary:  # noqa: ARG001
    """Open the tokenizer of a model, once per content of its folder; see ``Vocabulary.open``.

    Args:
        folder: the model.
        content: its fingerprint.
        rows: its embedding rows.
        apart: whether to read a new tokenizer in another process.
    """
    return Vocabulary.open(folder, rows=rows, apart=apart)


@lru_cache(maxsize=8)
def count_beginning(text: Keyed, vocabulary: Keyed, control_strings: str) -> tuple[TextCounts, bool]:
    """Count the beginning of a text once per content; see ``counts_of_beginning``."""
    return counts_of_beginning(text.value, vocabulary.value, control_strings)


@lru_cache(maxsize=8)
def find_leak_once(text: Keyed, held_out: Keyed, cache: Path | None, ignored: tuple[str, ...]) -> Contamination:
    """Search a training text for a held-out text once per pair of texts; see ``find_leak``."""
    return find_leak(text.value, held_out.value, cache, ignored)


def by_size(parameters: int, table: Sequence[tuple[float, float]]) -> float:
    """Return the value of the first row whose bound the number of parameters does not reach."""
    return next(value for bound, value in table if parameters < bound)


def evaluation_rhythm(steps: int) -> int:
    """Return the steps between evaluations of a run of so many steps."""
    return max(MIN_STEPS_BETWEEN_EVALUATIONS, math.ceil(steps / EVALUATIONS))


def early_steps(eval_every: int, early: int) -> tuple[int, ...]:
    """Return the steps before the first regular evaluation after which the text is scored too, ascending.

    Args:
        eval_every: step of the first regular evaluation.
        early: how many are wanted; there are fewer where halving comes down to one step.
    """
    halves = {eval_every >> i for i in range(1, early + 1)}
    return tuple(sorted(halves - {0}))


def rhythm_of(options: TrainOptions, steps: int, schedule: str, rate: float) -> dict[str, Any]:
    """Return what follows from the number of steps: rates, evaluations, checkpoints, lines."""
    shares = (options.warmup_share, options.final_rate_share)
    embedding_rate = options.embedding_rate or rate
    if schedule == "plain":
        made = schedules.plain(steps, rate, embedding_rate, *shares)
    else:
        first_steps = min(steps, max(1, round(options.first_stage_share * steps)))
        first_rate = options.first_stage_rate or FIRST_STAGE_FACTOR * rate
        rows = schedules.MISSING_ROWS if schedule == "new-rows" else schedules.ALL_ROWS
        made = schedules.staged(steps, first_steps, first_rate, rate, embedding_rate, *shares, rows=rows)
    eval_every = options.eval_every or evaluation_rhythm(steps)
    return {
        "steps": steps,
        "stages": tuple(made.to_json()),
        "learning_rate": rate,
        "warmup_steps": made.stages[0].warmup_steps,
        "eval_every": eval_every,
        "save_every": options.save_every or eval_every,
        "loss_every": max(1, min(LOSS_EVERY, steps // 60)),
    }


def plan(resolved: ResolvedOptions, folder: Path, cache: Path | None = None) -> TrainPlan:
    """Choose what the options leave open, by the model in a folder and the device found.

    What is read of texts and tokenizer is remembered by their content, so that a plan that differs in settings alone
    reads neither again.

    Args:
        resolved: options of the run.
        folder: the model's.
        cache: where the search for contamination is kept, which the run itself reads; ``None``: nowhere.

    Raises:
        InputError: a text is missing, the block is longer than the model's positions, or memory does not suffice.
    """
    options = resolved.options
    texts = Texts.open(options.text, options.text_field)
    held_out = open_held_out(options)
    checkpoint = Checkpoint.open(folder)
    # The page plans in the server's process, which stays free of torch.
    vocabulary = open_vocabulary(folder, fingerprint(folder), embedding_rows(checkpoint), "torch" not in sys.modules)
    start = block_start(vocabulary, options.begin)
    text_tokens, warnings = survey(options, vocabulary, texts, held_out)
    teacher = teacher_of(options.teacher, folder) if options.teacher else ""
    teacher_shape, teacher_positions = check_teacher(teacher, vocabulary) if teacher else (None, None)
    block_length = block_length_of(resolved, checkpoint.config, warnings, teacher_positions)
    shape = Shape.of_checkpoint(checkpoint, vocabulary.n_ids)
    device = place_of(options)
    bf16 = has_fast_bf16(device) if options.precision == "auto" else options.precision == "bf16"
    if bf16 and device.kind == "cuda" and not has_fast_bf16(device):
        warnings.append(f"--precision bf16: {emulated_warning(device.name)}")
    processes = processes_of(options, device)
    batch_tokens = options.batch_tokens or int(by_size(shape.parameters, BATCH_TOKENS))
    step_blocks = max(1, round(batch_tokens / block_length / processes)) * processes
    fitted = fit(options, shape, device, processes, block_length, step_blocks // processes, teacher_shape, bf16=bf16)
    flops = shape.flops_per_token(block_length)
    flops += teacher_shape.flops_per_token(block_length) / 3 if teacher_shape else 0  # its forward pass alone
    peak = mean_peak(device, bf16=bf16)
    step_tokens = block_length * step_blocks
    read_tokens = stored_length(block_length, start) * step_blocks
    steps = steps_of(options, text_tokens, step_tokens, flops, device, peak, read_tokens)
    rate = options.learning_rate or by_size(shape.parameters, LEARNING_RATES)
    bytes_kept = CHECKPOINT_BYTES_PER_PARAMETER * (options.keep_last + 1)
    bytes_kept += 0 if options.only_last else WEIGHT_BYTES_PER_PARAMETER
    if texts.is_local and texts.text_bytes <= LARGEST_TEXT_AT_ONCE:
        ignored = tuple(vocabulary.control_strings)
        warnings += find_leak_once(Keyed.text(texts), Keyed.text(held_out), cache, ignored).warnings
    warnings += size_warnings(options, step_tokens, text_tokens)
    is_single_gpu = device.kind == "cuda" and processes == 1
    compiled = is_single_gpu and steps >= COMPILE_FROM_STEPS if options.compile == "auto" else options.compile == "on"
    if compiled and fitted["sharding"] == "fsdp":
        raise InputError("--compile on and --sharding fsdp do not go together here; leave one of them")
    return TrainPlan(
        parameters=shape.parameters,
        device=device.kind,
        device_name=device.name,
        devices=device.names,
        nodes=device.nodes,
        processes=processes,
        bf16=bf16,
        compiled=compiled,
        block_length=block_length,
        step_blocks=step_blocks,
        minutes=options.max_minutes,
        text_tokens=text_tokens,
        tokenizer=vocabulary.content,
        flops_per_token=flops,
        peak_flops=peak,
        disk_bytes=shape.parameters * bytes_kept,
        teacher=teacher,
        begin=resolved_begin(vocabulary, options.begin),
        warnings=tuple(warnings),
        **fitted,
        **rhythm_of(options, steps, schedule_of(options, folder), rate),
    )


def emulated_warning(name: str) -> str:
    """Describe what bfloat16 costs on a GPU without it."""
    return f"{name} has no bfloat16 and emulates it, which is slower than float32; choose --precision float32"


def survey(
    options: TrainOptions, vocabulary: Vocabulary, texts: Texts, held_out: Texts
) -> tuple[int | None, list[str]]:
    """Estimate the tokens of the training text, and warn of what its beginning and the held-out text's contain.

    Returns:
        The tokens, ``None`` where the size of the text is not known; and the warnings.
    """
    warnings = list(vocabulary.warnings)
    if end_token(vocabulary) is None:
        warnings.append(
            "the tokenizer has neither an end-of-text nor a separator token: documents are packed into blocks with "
            "nothing between them, and no token predicts where one ends"
        )
    keyed, text_tokens = Keyed((vocabulary.content, vocabulary.n_ids), vocabulary), None
    if texts.is_local:
        counts, is_whole = count_beginning(Keyed.text(texts), keyed, options.control_strings)
        text_tokens = estimated_tokens(texts, counts, is_whole)
        warnings += counts_warnings("training", counts, is_whole=is_whole)
    counts, is_whole = count_beginning(Keyed.text(held_out), keyed, options.control_strings)
    return text_tokens, warnings + counts_warnings("held-out", counts, is_whole=is_whole)


def counts_warnings(name: str, counts: TextCounts, *, is_whole: bool) -> list[str]:
    """Say in which text, or in the beginning of which text, something was counted that a user should know of."""
    place = f"{name} text" if is_whole else f"beginning of the {name} text"
    return [f"{place}: {warning}" for warning in counts.warnings]


def open_held_out(options: TrainOptions) -> Texts:
    """Open the held-out text, which is read whole and known by its bytes.

    Raises:
        InputError: it is no file.
    """
    if not Path(options.eval_text).expanduser().is_file():
        raise InputError(f"--eval-text {options.eval_text}: there is no such file; name one file of held-out text")
    return Texts.open([options.eval_text], options.text_field)


def block_length_of(
    resolved: ResolvedOptions,
    config: Mapping[str, Any],
    warnings: list[str],
    teacher_positions: int | None = None,
) -> int:
    """Choose the tokens per block, and warn of more than the model has seen at once.

    A length that the user gave is used or refused; that of a preset is cut to the model's positions.

    Raises:
        InputError: the model has no position embeddings for so many, or its teacher has not.
    """
    length = resolved.options.block_length
    given = length if "block_length" in resolved.given else 0
    if teacher_positions is not None and given > teacher_positions:
        raise InputError(
            f"--block-length {given} is longer than the teacher's {teacher_positions} positions; give no more, or "
            "another --teacher"
        )
    positions = max_positions(dict(config)) or MAX_BLOCK
    if given > positions:
        if not any(decoder_config(config).get(name) for name in ROTARY):
            raise InputError(f"--block-length {given} is longer than the model's {positions} positions")
        warnings.append(
            f"blocks of {given:,} tokens are longer than the model's {positions:,} positions: it has not learnt such "
            "distances, and held-out text is scored in windows of its positions"
        )
    return given or min(positions, length or MAX_BLOCK, teacher_positions or MAX_BLOCK)


def size_warnings(options: TrainOptions, step_tokens: int, text_tokens: int | None) -> list[str]:
    """Return what should be known of the size of a step.

    Raises:
        InputError: it is far larger than the text.
    """
    found = []
    if options.batch_tokens and step_tokens != options.batch_tokens:
        found.append(f"{options.batch_tokens:,} tokens a step become {step_tokens:,}: whole blocks for every process")
    if text_tokens is not None and step_tokens > text_tokens:
        told = f"a step of {step_tokens:,} tokens is larger than the training text of about {text_tokens:,}"
        if step_tokens > MOST_PASSES_A_STEP * text_tokens:
            raise InputError(f"{told}; give fewer --batch-tokens or more text")
        found.append(f"{told}, which it reads more than once")
    return found


def schedule_of(options: TrainOptions, folder: Path) -> str:
    """Return the name of the schedule.

    Raises:
        InputError: missing rows are to train alone, and nothing says which they are.
    """
    has_provenance = (folder / PROVENANCE_FILE).is_file()
    if options.schedule == "new-rows":
        if not has_provenance or not np.any(missing_rows(folder)):
            raise InputError(
                f"--schedule new-rows: {folder} holds no provenance of missing rows; train what `clp transfer` wrote, "
                "or choose --schedule two-stage"
            )
        return options.schedule
    return options.schedule


def steps_of(
    options: TrainOptions,
    text_tokens: int | None,
    step_tokens: int,
    flops: float,
    device: TrainingDevice,
    peak: float | None,
    read_tokens: int = 0,
) -> int:
    """Return the number of steps of a budget.

    Args:
        options: they name the budget, if there is one.
        text_tokens: tokens of the training text, ``None`` where they are not known.
        step_tokens: tokens of a step.
        flops: operations per token.
        device: where the run trains.
        peak: operations per second of one device, ``None`` where they are not known.
        read_tokens: tokens of the text that a step reads, its start tokens left out; 0: all of the step's.

    Raises:
        InputError: there is no budget, and the size of the text is not known.
    """
    if options.max_steps:
        return options.max_steps
    if options.max_minutes:
        cores = device.count if device.kind == "cuda" else psutil.cpu_count(logical=False) or 1
        each = peak * GUESSED_SHARE_OF_PEAK if peak else GUESSED_FLOPS[device.kind]
        return max(1, round(60 * options.max_minutes * cores * each / (flops * step_tokens)))
    if text_tokens is None and not options.max_tokens:
        raise InputError(
            "the size of a text of the Hub is not known before it is read; give --max-tokens or --max-steps"
        )
    epochs = EPOCHS_OF_SMALL_TEXT if (text_tokens or math.inf) < SMALL_TEXT_TOKENS else 1
    if options.max_tokens:
        return math.ceil(options.max_tokens / step_tokens)
    return math.ceil(epochs * (text_tokens or 0) / (read_tokens or step_tokens))
