"""Options and presets of ``clp train``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from clp_core.evaluation.options import EvaluateOptions
from clp_core.options import MISSING, Options, flag_of, like, option
from clp_core.training.schedule import SCHEDULES
from clp_core.training.slurm_options import LAUNCHERS, LEAST_SIGNAL_S, MOST_SIGNAL_S, NAME, cluster_problems

PRECISIONS = ("auto", "float32", "bf16")
SWITCHES = ("auto", "on", "off")
SHARDINGS = ("auto", "none", "ddp", "fsdp")
REPORTERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet_ml": "comet_ml",
    "trackio": "trackio",
    "swanlab": "swanlab",
    "clearml": "clearml",
    "neptune": "neptune",
}
"""The Trainer's own integrations, and the package each needs."""
BUDGETS = ("max_tokens", "max_steps", "max_minutes")
"""Fields of which one may say how long a run is."""
LEAST_BLOCK = 8
MAX_MINUTES = 10.0 * 365 * 24 * 60
MAX_MEMORY_GB = 1e6
MAX_SEED = 2**32 - 1
"""Largest seed of transformers' ``set_seed``, which seeds numpy's old generator too."""
TEACHER_CURE = "give more than 0 and at most 1; for no teacher leave out --teacher"
NAME_CURE = "use a name as `sinfo` and `sacctmgr` show them"
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,4}(,[0-9]{1,4})*)?")


@dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Attributes:
        title: what a list shows.
        reason: when to take it, and why these values.
        settings: fields of ``TrainOptions``; what the user gives beside the preset counts more.
    """

    title: str
    reason: str
    settings: Mapping[str, Any]


PRESETS = {
    "default": Preset(
        "Sound default",
        "Length, batch and rate by the model's size, the text and the device; everything trains from the first step.",
        {},
    ),
    "quick": Preset(
        "Quick look: 300 steps",
        "Long enough to rank methods and to see that data and model fit together.",
        {"max_steps": 300},
    ),
    "taught": Preset(
        "Helper as teacher",
        "The run follows its helper besides the text, most at first and not at all at the end: fewer tokens to the "
        "same score where the helper is about as good as the run is to become. For a model that a transfer wrote.",
        {"teacher": "helper"},
    ),
    "published": Preset(
        "Published recipe",
        "What the authors give for a 410M model: blocks of 512, rate 3e-4 falling on a cosine to 3e-5, 10 % warm-up.",
        {"block_length": 512, "learning_rate": 3e-4, "final_rate_share": 0.1},
    ),
    "published-two-stage": Preset(
        "Published recipe, embeddings first",
        "The same, with the embeddings alone at 1e-3 for the first 10 % of the steps: the body is not pulled about by "
        "rows that are still far off.",
        {
            "schedule": "two-stage",
            "block_length": 512,
            "learning_rate": 3e-4,
            "final_rate_share": 0.1,
            "first_stage_rate": 1e-3,
        },
    ),
    "new-rows": Preset(
        "Missing rows first",
        "Only rows that the transfer had to initialise train for the first 20 % of the steps; copied rows and body "
        "stay bit for bit the source's until then.",
        {"schedule": "new-rows", "first_stage_share": 0.2},
    ),
    "only-new-rows": Preset(
        "Missing rows alone",
        "Nothing but the missing rows trains, so the source's rows and body stay as they are: little forgetting, and "
        "less gain.",
        {"schedule": "new-rows", "first_stage_share": 1.0},
    ),
}


@dataclass(frozen=True)
class TrainOptions(Options):
    """Options of a training run; 0 means: choose what suits the model and the device."""

    COMMAND: ClassVar[tuple[str, ...]] = ("train",)

    model: str = option(help="model to go on with: a folder or a Hub id")
    text: tuple[str, ...] = option(
        help="training text: a file (.txt with one document per line, .json, .jsonl, .csv, .tsv, .parquet; also .gz, "
        ".xz, .zst, .bz2), a folder of these, or hub:ORG/NAME[:CONFIG][:SPLIT]; may be given more than once"
    )
    eval_text: str = option(help="held-out text for loss and bits per byte: a file")
    name: str = option("", help="name of the run, shown in lists and charts")
    preset: str = option("default", help="settings that belong together; others count more", choices=tuple(PRESETS))
    max_tokens: int = option(0, help="train on this many tokens (rounded up to whole steps)", minimum=0)
    max_steps: int = option(
        0,
        help="train for this many steps; without a budget, four passes over a small text, one over large",
        minimum=0,
    )
    max_minutes: float = option(
        0.0,
        help="train for about this long: the steps that fit are found out by the first ones",
        minimum=0.0,
        maximum=MAX_MINUTES,
    )
    schedule: str = option(
        "plain",
        help="plain: everything at once; two-stage: embeddings alone first; new-rows: missing rows alone first",
        choices=SCHEDULES,
    )
    first_stage_share: float = option(
        0.1,
        help="share of the steps in the first stage of two",
        above=0.0,
        maximum=1.0,
        cure="give more than 0 and at most 1; --schedule plain has no first stage",
    )
    first_stage_rate: float = option(
        0.0,
        help="peak rate of the embeddings in the first stage; 0: three times the learning rate",
        minimum=0.0,
        below=1.0,
    )
    learning_rate: float = option(
        0.0, help="peak of the cosine schedule; 0: by the model's size", minimum=0.0, below=1.0
    )
    embedding_rate: float = option(
        0.0, help="peak rate of the embeddings while everything trains; 0: the learning rate", minimum=0.0, below=1.0
    )
    final_rate_share: float = option(0.0, help="share of the peak rate that is left at the end", minimum=0.0, below=1.0)
    warmup_share: float = option(
        0.1, help="share of a stage's steps in which the rate rises to its peak", minimum=0.0, below=1.0
    )
    weight_decay: float = option(0.1, help="AdamW weight decay", minimum=0.0, maximum=1000.0)
    teacher: str = option(
        "",
        help="model with the same tokenizer whose expectations the run follows besides the text, most at first: a "
        "folder, a Hub id, or helper for that of the model's transfer",
    )
    teacher_weight: float = option(
        1.0, help="the teacher's part at the first step, 0 to 1", above=0.0, maximum=1.0, cure=TEACHER_CURE
    )
    teacher_share: float = option(
        1.0, help="share of the steps over which its part falls to 0", above=0.0, maximum=1.0, cure=TEACHER_CURE
    )
    block_length: int = option(0, help="tokens a block; 0: the model's positions, at most 1,024", minimum=0)
    batch_tokens: int = option(0, help="tokens a step; 0: by the model's size", minimum=0)
    micro_blocks: int = option(0, help="blocks at once on a device; 0: what its memory holds", minimum=0)
    text_field: str = like(EvaluateOptions, "text_field")
    begin: str = like(EvaluateOptions, "begin")
    control_strings: str = like(EvaluateOptions, "control_strings")
    streaming: bool = option(
        False, help="tokenise while training, in the order of the text, and keep nothing on disk; for texts beyond it"
    )
    eval_every: int = option(
        0, help="steps between evaluations; 0: twelve in the run, at least 10 steps apart", minimum=0
    )
    early_evals: int = option(
        0,
        help="evaluations more before the first one, each at half the step of the next: a good start shows there",
        minimum=0,
    )
    save_every: int = option(0, help="steps between checkpoints; 0: at every evaluation", minimum=0)
    keep_last: int = option(
        2,
        help="checkpoints to keep, the newest ones",
        minimum=1,
        cure="give 1 or more: a run resumes from its newest checkpoint",
    )
    only_last: bool = option(False, help="keep no checkpoint for having the least bits per byte")
    prompt: tuple[str, ...] = option(
        (), help="what samples at every evaluation go on from; repeatable", allow_empty=True
    )
    seed: int = option(42, help="seed of the order of the data", minimum=0, maximum=MAX_SEED)
    device: str = option(
        "auto",
        help="where to train: auto, cpu, cuda (all GPUs) or some of them by nvidia-smi's numbers, such as cuda:0,2",
        pattern=DEVICE,
        cure="use auto, cpu, cuda or cuda:0,2",
    )
    precision: str = option(
        "auto",
        help="of the products; auto: bf16 on GPUs that have it and on CPUs with matrix units for it",
        choices=PRECISIONS,
    )
    sharding: str = option(
        "auto",
        help="of several processes: ddp (each holds the model) or fsdp (each holds a part); auto: fsdp where the model "
        "does not fit on one",
        choices=SHARDINGS,
    )
    gradient_checkpointing: str = option(
        "auto", help="compute activations twice to save memory; auto: where they do not fit", choices=SWITCHES
    )
    compile: str = option(
        "auto", help="torch.compile; auto: on a single GPU for 1,000 steps or more, where it pays", choices=SWITCHES
    )
    report_to: tuple[str, ...] = option(
        (), help="also send metrics to one of the Trainer's integrations, such as tensorboard or wandb"
    )
    launcher: str = option("local", help="who starts the run: this machine, or Slurm on others", choices=LAUNCHERS)
    nodes: int = option(1, help="with Slurm: machines", minimum=1)
    gpus_per_node: int = option(
        1, help="with Slurm: GPUs on each machine, one process each; 0: train on CPUs", minimum=0
    )
    processes_per_node: int = option(
        1, help="on CPUs: processes that train together on each machine; on GPUs there is one a GPU", minimum=1
    )
    cpus_per_process: int = option(2, help="with Slurm: cores for each process", minimum=1)
    memory_gb: float = option(
        0.0,
        help="with Slurm: memory of one GPU in GB (on CPUs: for one process), checked before the start; 0: not known",
        minimum=0.0,
        maximum=MAX_MEMORY_GB,
    )
    time_limit: str = option("", help="with Slurm: minutes, 12:00:00 or 2-00:00:00; empty: the partition's own limit")
    partition: str = option("", help="with Slurm: partition; empty: the default one", pattern=NAME, cure=NAME_CURE)
    account: str = option("", help="with Slurm: account that pays", pattern=NAME, cure=NAME_CURE)
    sbatch: tuple[str, ...] = option(
        (), help="with Slurm: another option of sbatch, as in --sbatch=--mem=64G; may be given more than once"
    )
    script: str = option("", help="with Slurm: file of an edited script, used as it is; --show-script prints one")
    signal_before_s: int = option(
        300,
        help="with Slurm: seconds before the time limit at which the run saves and goes back to the queue",
        minimum=LEAST_SIGNAL_S,
        maximum=MOST_SIGNAL_S,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what does not go together, or would have no effect."""
        budgets = [name for name in BUDGETS if getattr(self, name)]
        if len(budgets) > 1:
            first, second = budgets[:2]
            yield first, f"this and {flag_of(second)} exclude each other; give one of them"
        for name in ("teacher_weight", "teacher_share"):
            if getattr(self, name) != 1 and not (self.teacher or "teacher" in PRESETS[self.preset].settings):
                yield name, "no effect without --teacher; name a teacher, or leave it out"
        if 0 < self.block_length < LEAST_BLOCK:
            yield "block_length", f"{self.block_length} is too small; give {LEAST_BLOCK} or more, or 0 for the model's"
        for name in self.report_to:
            if problem := reporter_problem(name):
                yield "report_to", problem
        changed = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        yield from cluster_problems(self, changed)

    def beside_preset(self, given: Collection[str]) -> TrainOptions:
        """Return the options without the preset's name where a field that was given differs from the preset's.

        Args:
            given: names of the fields that the user has named.
        """
        settings = PRESETS[self.preset].settings
        if all(getattr(self, name) == value for name, value in settings.items() if name in given):
            return self
        others = {name: value for name, value in settings.items() if name not in given}
        return replace(self, preset="default", **others)

    def resolved(self) -> ResolvedOptions:
        """Resolve the preset: its settings are in force where the user has left the default."""
        defaults = {item.name: item.default for item in fields(self) if item.default is not MISSING}
        given = {item.name for item in fields(self)} - {
            name for name, default in defaults.items() if getattr(self, name) == default
        }
        has_budget = any(getattr(self, name) for name in BUDGETS)
        of_preset = {
            name: value
            for name, value in PRESETS[self.preset].settings.items()
            if name not in given and not (name in BUDGETS and has_budget)
        }
        return ResolvedOptions(replace(self, **of_preset), frozenset(given))


@dataclass(frozen=True)
class ResolvedOptions:
    """Options of a run with the settings of its preset in force; made by ``TrainOptions.resolved`` alone.

    Attributes:
        options: the options, the preset's settings among them.
        given: names of the fields that the user gave, the preset's own left out.
    """

    options: TrainOptions
    given: frozenset[str]

    @property
    def as_given(self) -> TrainOptions:
        """The options as the user gave them, which name the preset in place of its settings."""
        others: dict[str, Any] = {
            item.name: item.default for item in fields(self.options) if item.name not in self.given
        }
        return replace(self.options, **others)


def reporter_problem(name: str) -> str:
    """Explain why metrics cannot be sent to an integration; empty where they can."""
    package = REPORTERS.get(name)
    if package is None:
        return f"{name!r} is unknown; use one of {', '.join(REPORTERS)}"
    if importlib.util.find_spec(package) is None:
        return f"{name} needs the package {package}; pip install {package}"
    return ""
