"""What the training of a model was, as its card tells it: data, settings, machine, and the curve on held-out text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from clp_core.errors import InputError
from clp_core.files.json_files import read_state
from clp_core.jobs.job import Job
from clp_core.jobs.metrics import is_evaluation
from clp_core.jobs.training_checkpoints import step_of
from clp_core.reports.licence import bare, origin_of
from clp_core.reports.training_facts import EvaluationPoint, LossPoint, RunFacts, read_training_facts
from clp_core.run_comparison.curve import settings_of, step_tokens_of
from clp_core.tokenization.text_reading import SCORING_FILE
from clp_core.training.slurm_options import CLUSTER_FIELDS

T = TypeVar("T")
MAX_LOSSES = 2000
"""Lines of the training loss in the file of the curve; evaluations are all in it."""
MAX_EARLIER_RUNS = 20
LEFT_OUT = (
    *("model", "text", "eval_text", "prompt", "devices", "device_name", "parameters", "text_tokens", "max_tokens"),
    *("max_steps", "max_minutes", "minutes", "preset", "batch_tokens", "steps", "precision", "keep_last", "only_last"),
    *("save_every", "loss_every", "report_to", "flops_per_token", "peak_flops", "schedule", "gradient_checkpointing"),
    *("compile", "launcher", "processes_per_node", *CLUSTER_FIELDS),
)
"""Settings that the card says otherwise, that leave no mark on the model, or that are a cluster's business alone."""
OF_TEACHERS = ("teacher_weight", "teacher_share")
"""Settings that mean nothing without a teacher."""
CURVE_COLUMNS = ("run", "step", "tokens", "seconds", "loss", "eval_loss", "perplexity", "bits_per_byte")


def run_of_checkpoint(folder: Path) -> Job | None:
    """Return the run that wrote a checkpoint, or ``None`` where a folder is no run's."""
    job = Job(folder.parent.parent)
    return job if folder.parent.name == "checkpoints" and job.kind == "train" else None


def runs_behind(folder: Path) -> tuple[RunFacts, ...]:
    """Return the facts of all training that a model has seen, the first run first; none where it was not trained.

    Args:
        folder: a run's checkpoint, or a folder that was exported from one.

    Raises:
        InputError: what is recorded of a training is damaged.
    """
    facts: list[RunFacts] = []
    job = run_of_checkpoint(folder)
    while job is not None and len(facts) < MAX_EARLIER_RUNS:
        facts.insert(0, facts_of_run(job, step_of(folder)))
        folder = Path(str(job.spec["arguments"]["model"]))
        job = run_of_checkpoint(folder)
    return (*read_training_facts(folder), *facts)


def first_model(job: Job) -> str:
    """Return what a run's training began with, its earlier runs' included: a folder or a Hub id."""
    model = str(job.spec["arguments"]["model"])
    for _ in range(MAX_EARLIER_RUNS):
        earlier = run_of_checkpoint(Path(model))
        if earlier is None:
            break
        model = str(earlier.spec["arguments"]["model"])
    return model


def facts_of_run(job: Job, step: int) -> RunFacts:
    """Return what a run was up to one of its checkpoints; of paths their last part alone.

    Raises:
        InputError: the spec, the plan or the metrics of the run are damaged.
    """
    spec = job.spec
    arguments, plan = spec["arguments"], job.plan
    lines = [line for line in job.metrics() if line["step"] <= step]
    last: Mapping[str, Any] = lines[-1] if lines else {}
    texts = arguments.get("text") or []
    left_out = {*LEFT_OUT, *(() if arguments.get("teacher") else OF_TEACHERS)}
    content = {
        "run": job.name,
        "origin": origin_of(str(arguments["model"])).to_json(),
        "step": step,
        "steps_planned": plan.get("steps"),
        "tokens": last.get("tokens"),
        "seconds": last.get("seconds"),
        "data": {
            "text": bare(list(texts) if isinstance(texts, list | tuple) else [texts]),
            "content": read_state(job.path / "inputs.json").get("data"),
            "eval_text": bare(str(arguments.get("eval_text") or "")),
            "eval_content": spec.get("fingerprints", {}).get("eval_text"),
        },
        "parameters": plan.get("parameters"),
        "step_tokens": step_tokens_of(plan),
        "devices": devices_of(spec, plan),
        "versions": dict(spec.get("versions") or {}),
        "settings": {
            key: bare(value)
            for key, value in settings_of(job).items()
            if key not in left_out and not key.startswith("version of ") and value not in ("", None)
        },
        "warnings": [bare(told) for told in job.warnings],
        "not_comparable": list(read_state(job.path / SCORING_FILE).get("not_comparable") or []),
        "curve": [line | {"perplexity": perplexity(line.get("eval_loss"))} for line in lines if is_evaluation(line)],
        "losses": thinned([line for line in lines if "loss" in line]),
    }
    try:
        return RunFacts.of_json(content)
    except ValueError as error:
        raise InputError(
            f"the files of the run in {job.path} are damaged ({str(error)!r} is missing or of another kind); "
            "restore spec.json, plan.json and metrics.jsonl, or start the run again"
        ) from error


def perplexity(loss: float | None) -> float | None:
    """Return the perplexity of a loss in nats a token, ``None`` where it is beyond numbers."""
    return math.exp(loss) if loss is not None and loss < 700 else None


def thinned(lines: Sequence[T]) -> Sequence[T]:
    """Return lines of the training loss, evenly taken where they are many."""
    stride = max(1, math.ceil(len(lines) / MAX_LOSSES))
    return lines[::stride]


def curve_csv(runs: Sequence[RunFacts]) -> str:
    """Return the curves of all runs as CSV, evaluations and training losses by step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CURVE_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for run in runs:
        points: list[LossPoint | EvaluationPoint] = [*run.losses, *run.curve]
        for point in sorted(points, key=lambda point: point.step):
            known = {key: value for key, value in asdict(point).items() if value is not None}
            writer.writerow({"run": run.run} | known)
    return text.getvalue()


def devices_of(spec: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Return what a run was trained on: the devices it held with what they are, or the machines it asked Slurm for."""
    name = plan.get("device_name")
    held = list(spec.get("devices") or [])
    return [f"{', '.join(held)} ({name})"] if held and name else held or [name] if name else held
