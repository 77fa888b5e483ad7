"""The form of the page Train: what to train on, a preset, a budget, and all settings of another run that is cloned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import streamlit as st

from clp_core.data.text_sources import HUB_PREFIX
from clp_core.environment.gpus import list_gpus
from clp_core.errors import InputError
from clp_core.hub.repo_id import is_hub_id
from clp_core.jobs import Job, JobStore
from clp_core.options import MISSING, help_of
from clp_core.training.options import BUDGETS, PRESETS, TrainOptions
from clp_core.training.slurm_options import CLUSTER_FIELDS
from clp_core.training.teacher import HELPER, teacher_of
from clp_core.workspace import ModelEntry, Workspace
from components import slurm_form
from components.messages import plain
from components.models import choose_model, folder_of, training_texts
from components.navigation import remember
from components.path_confinement import confined

FIRST_PRESET = "quick"
LARGEST_NUMBER = (1 << 53) - 1
"""The largest whole number that a browser holds exactly, and a field takes."""
BUDGET_LABELS = ("What the preset says", "Tokens", "Steps", "Minutes")
DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(TrainOptions) if item.default is not MISSING}
LEAST = {item.name: item.metadata["minimum"] for item in fields(TrainOptions)}
CHOICES = {item.name: list(item.metadata["choices"]) for item in fields(TrainOptions) if item.metadata["choices"]}


@dataclass(frozen=True)
class FormValues:
    """Values of the form.

    Attributes:
        options: what would run.
        folder: the model's folder.
    """

    options: TrainOptions
    folder: Path


def cloned_run(space: Workspace) -> Job | None:
    """Return the run in the address whose settings the form is to begin with, and say so; ``None`` without one."""
    asked = st.query_params.get("clone")
    if not asked:
        return None
    try:
        job = JobStore(space.jobs).get(asked)
    except InputError as error:
        st.warning(plain(str(error)), icon=":material/warning:")
        return None
    if job.kind != "train":
        st.warning(plain(f"{job.id} is no training run."), icon=":material/warning:")
        return None
    st.info(plain(f"The settings of {job.name}. Change what should differ."), icon=":material/content_copy:")
    return job


def form(space: Workspace, entries: list[ModelEntry], job: Job | None) -> FormValues | None:
    """Show the form; return what it holds, or ``None`` while something is missing.

    Raises:
        InputError: a setting is refused.
    """
    cloned, of = settings_of(job) if job is not None else {}, job.id if job is not None else "new"
    model = model_field(entries, job, cloned)
    folder = folder_of(model)
    text, eval_text = text_fields(space, cloned, of)
    preset = preset_field(cloned, of)
    given = DEFAULTS | dict(PRESETS[preset].settings) | (cloned if preset == cloned.get("preset") else {})
    of = f"{of}_{preset}"
    limits = budget(given, preset, of)
    default_name = f"{job.name} again" if job is not None else f"train {Path(model).name}"
    name = st.text_input("Name of the run", default_name, key=f"name_{of}_{model}", help=help_of(TrainOptions, "name"))
    where = slurm_form.fields(given, of)
    more = more_settings(given, of, here=not where)
    if not text or not eval_text:
        return None
    options = TrainOptions(
        model=str(folder), text=text, eval_text=eval_text, name=name.strip(), **limits, **more, **where
    )
    if options.teacher:
        confine_teacher(teacher_of(options.teacher, folder), space)
    return FormValues(by_preset(options, preset), folder)


def settings_of(job: Job) -> dict[str, Any]:
    """Return the settings of a run that still exist, and name the others."""
    settings, refused = TrainOptions.usable_part(job.spec["arguments"])
    if refused:
        names = ", ".join(refused)
        st.warning(
            plain(f"Settings of that run that are not valid here have their defaults: {names}."),
            icon=":material/warning:",
        )
    return settings


def confine_teacher(teacher: str, space: Workspace) -> None:
    """Refuse a teacher outside of where pages may read: a report or a spec of others may name any folder.

    Raises:
        OutsideError: it lies there.
    """
    if Path(teacher).is_dir() or not is_hub_id(teacher):
        confined(teacher, space)


def by_preset(options: TrainOptions, preset: str) -> TrainOptions:
    """Return the options that name the preset in place of its settings, where that says the same."""
    same = [name for name, value in PRESETS[preset].settings.items() if getattr(options, name) == value]
    named = replace(options, preset=preset, **{name: DEFAULTS[name] for name in same})
    return named if named.resolved().options == replace(options, preset=preset) else options


def text_fields(space: Workspace, cloned: Mapping[str, Any], of: str) -> tuple[tuple[str, ...], str]:
    """Let the user choose training and held-out text; files and folders lie where pages may read.

    Raises:
        OutsideError: a path that was typed does not.
    """
    earlier = [*cloned.get("text", ()), *([cloned["eval_text"]] if cloned.get("eval_text") else [])]
    texts = labelled([*map(str, training_texts()), *earlier])
    label_of = {path: label for label, path in texts.items()}
    train_names = [name for name in texts if "valid" not in name] or list(texts)
    files = [name for name, path in texts.items() if Path(path).is_file()]
    eval_names = [name for name in files if "valid" in name] + [name for name in files if "valid" not in name]
    begin = [label_of[text] for text in cloned.get("text", ())] or train_names[:1]
    scored = label_of.get(cloned.get("eval_text", ""))
    first, second = st.columns(2)
    chosen = first.multiselect(
        "Training text",
        list(texts),
        default=begin,
        key=f"text_{of}",
        accept_new_options=True,
        help=help_of(TrainOptions, "text"),
    )
    eval_text = second.selectbox(
        "Held-out text",
        eval_names,
        index=eval_names.index(scored) if scored in eval_names else 0 if eval_names else None,
        key=f"eval_{of}",
        help=help_of(TrainOptions, "eval_text"),
    )
    found = []
    for name in chosen:
        text = texts.get(name, name)
        found.append(text if text.startswith(HUB_PREFIX) else as_confined(text, space))
    return tuple(found), as_confined(texts[eval_text], space) if eval_text else ""


def as_confined(text: str, space: Workspace) -> str:
    """Return a path as it is named, once it is known to lie where pages may read.

    Raises:
        OutsideError: it does not; the spec of a cloned run may name any file.
    """
    resolved = confined(text, space, deep=True)
    return text if Path(text).is_absolute() else str(resolved)


def labelled(paths: Sequence[str]) -> dict[str, str]:
    """Return paths by what a list shows of them: the file's name, or all of the path where two have the same."""
    found = list(dict.fromkeys(paths))
    names = [Path(path).name for path in found]
    return {name if names.count(name) == 1 else path: path for name, path in zip(names, found, strict=True)}


def model_field(entries: list[ModelEntry], job: Job | None, cloned: Mapping[str, Any]) -> str:
    """Let the user choose the model; of a cloned run it is that run's until another one is chosen."""
    targets = [entry.name for entry in entries if entry.kind == "target"]
    names = [*targets, *[entry.name for entry in entries if entry.name not in targets]]
    if job is not None and st.session_state.get("clone_seen") != job.id:
        st.session_state["clone_seen"] = job.id
        of_workspace = {str(entry.folder): entry.name for entry in entries}
        if model := cloned.get("model"):
            remember("model", of_workspace.get(model, model))
    return choose_model("Model", "model", names, targets[-1] if targets else names[0], help_of(TrainOptions, "model"))


def preset_field(cloned: Mapping[str, Any], of: str) -> str:
    """Let the user choose a preset, with the reason for it."""
    names = list(PRESETS)
    chosen = st.selectbox(
        "Preset",
        names,
        index=names.index(cloned.get("preset", FIRST_PRESET)),
        format_func=lambda name: PRESETS[name].title,
        key=f"preset_{of}",
        help="settings that belong together; all of them can be changed below",
    )
    preset = chosen or FIRST_PRESET
    st.caption(plain(PRESETS[preset].reason))
    return preset


def budget(given: Mapping[str, Any], preset: str, of: str) -> dict[str, Any]:
    """Let the user choose how long to train."""
    by_preset_alone = {name: PRESETS[preset].settings.get(name, DEFAULTS[name]) for name in BUDGETS}
    own = {name: given[name] for name in BUDGETS}
    set_by_user = [name for name in BUDGETS if own[name]] if own != by_preset_alone else []
    index = 1 + BUDGETS.index(set_by_user[0]) if set_by_user else 0
    chosen = st.radio("Budget", BUDGET_LABELS, index=index, key=f"budget_{of}", horizontal=True)
    if chosen == "Tokens":
        value = min(int(own["max_tokens"] or 1_000_000), LARGEST_NUMBER)
        return {
            "max_tokens": int(st.number_input("Tokens", min_value=1, value=value, step=100_000, key=f"tokens_{of}"))
        }
    if chosen == "Steps":
        value = min(int(own["max_steps"] or 1_000), LARGEST_NUMBER)
        return {"max_steps": int(st.number_input("Steps", min_value=1, value=value, step=100, key=f"steps_{of}"))}
    if chosen == "Minutes":
        minutes = float(own["max_minutes"] or 30.0)
        about = help_of(TrainOptions, "max_minutes")
        return {
            "max_minutes": st.number_input("Minutes", 0.01, value=max(minutes, 0.01), key=f"minutes_{of}", help=about)
        }
    return by_preset_alone


def more_settings(given: Mapping[str, Any], of: str, *, here: bool) -> dict[str, Any]:
    """Let the user change the settings that have a default; those of this machine, where the run is on it."""
    hidden = ("name", "preset", "launcher", *BUDGETS, *CLUSTER_FIELDS)
    changed = any(given[name] != DEFAULTS[name] for name in DEFAULTS if name not in hidden)

    def about(name: str) -> dict[str, Any]:
        return {"key": f"{name}_{of}", "help": help_of(TrainOptions, name)}

    def count(place: Any, label: str, name: str) -> int:
        value = min(int(given[name]), LARGEST_NUMBER)
        return int(place.number_input(label, int(LEAST[name]), value=value, **about(name)))

    def rate(place: Any, label: str, name: str) -> float:
        return float(place.number_input(label, 0.0, 0.99, min(float(given[name]), 0.99), format="%.6f", **about(name)))

    def share(place: Any, label: str, name: str) -> float:
        return float(place.number_input(label, 0.0, 1.0, float(given[name]), **about(name)))

    def one_of(place: Any, label: str, name: str) -> str:
        return str(place.selectbox(label, CHOICES[name], index=CHOICES[name].index(given[name]), **about(name)))

    with st.expander("More settings", expanded=changed):
        schedule, data, machine, keeping = st.tabs(["Rates", "Data", "Machine", "Scores and checkpoints"])
        with schedule:
            a, b, c = st.columns(3)
            settings: dict[str, Any] = {
                "schedule": one_of(a, "Schedule", "schedule"),
                "first_stage_share": share(b, "First stage's share", "first_stage_share"),
                "first_stage_rate": rate(c, "First stage's rate", "first_stage_rate"),
                "learning_rate": rate(a, "Learning rate", "learning_rate"),
                "embedding_rate": rate(b, "Rate of the embeddings", "embedding_rate"),
                "final_rate_share": share(c, "Rate left at the end", "final_rate_share"),
                "warmup_share": share(a, "Warm-up share", "warmup_share"),
                "weight_decay": b.number_input(
                    "Weight decay", 0.0, value=given["weight_decay"], **about("weight_decay")
                ),
            }
            settings |= teacher_fields(given, of)
        with data:
            a, b, c = st.columns(3)
            settings |= {
                "batch_tokens": count(a, "Tokens a step", "batch_tokens"),
                "block_length": count(b, "Block length", "block_length"),
                "micro_blocks": count(c, "Blocks at once", "micro_blocks"),
                "text_field": a.text_input("Field of the text", given["text_field"], **about("text_field")),
                "seed": count(b, "Seed", "seed"),
                "streaming": c.checkbox("Stream the text", given["streaming"], **about("streaming")),
                "begin": one_of(a, "Begin-of-text token", "begin"),
                "control_strings": one_of(b, "Control strings", "control_strings"),
            }
        with machine:
            a, b, c = st.columns(3)
            if here:
                devices = ["auto", "cpu", "cuda", *dict.fromkeys(f"cuda:{gpu.index}" for gpu in list_gpus())]
                devices += [] if given["device"] in devices else [given["device"]]
                index = devices.index(given["device"])
                settings["device"] = a.selectbox("Device", devices, index=index, **about("device"))
                settings["processes_per_node"] = count(b, "Processes on the CPU", "processes_per_node")
            settings |= {
                "sharding": one_of(c, "Sharding", "sharding"),
                "precision": one_of(a, "Precision", "precision"),
                "gradient_checkpointing": one_of(b, "Gradient checkpointing", "gradient_checkpointing"),
                "compile": one_of(c, "Compile", "compile"),
            }
        with keeping:
            a, b, c = st.columns(3)
            settings |= {
                "eval_every": count(a, "Evaluate every", "eval_every"),
                "save_every": count(b, "Checkpoint every", "save_every"),
                "keep_last": count(c, "Checkpoints to keep", "keep_last"),
                "early_evals": count(a, "Early evaluations", "early_evals"),
                "prompt": lines(st.text_area("Prompts of the samples, one a line", joined(given), **about("prompt"))),
                "only_last": a.checkbox("Keep the newest only", given["only_last"], **about("only_last")),
                "report_to": lines(b.text_input("Report to", " ".join(given["report_to"]), **about("report_to")), " "),
            }
    return settings


def teacher_fields(given: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Let the user choose whom the run follows besides its text, and how far."""
    told = {"": "none", HELPER: "helper of its transfer"}
    others = [] if given["teacher"] in told else [given["teacher"]]
    a, b, c = st.columns(3)
    settings: dict[str, Any] = {
        "teacher": a.selectbox(
            "Teacher",
            [*told, *others],
            index=[*told, *others].index(given["teacher"]),
            format_func=lambda name: told.get(name, Path(name).name),
            key=f"teacher_{of}",
            help=help_of(TrainOptions, "teacher"),
        )
    }
    if settings["teacher"]:
        for place, label, name in (
            (b, "Its part at first", "teacher_weight"),
            (c, "Share of steps to let go", "teacher_share"),
        ):
            about = help_of(TrainOptions, name)
            settings[name] = place.number_input(label, 0.0, 1.0, float(given[name]), key=f"{name}_{of}", help=about)
    return settings


def joined(given: Mapping[str, Any]) -> str:
    """Return the prompts as lines."""
    return "\n".join(given["prompt"])


def lines(text: str, separator: str = "\n") -> tuple[str, ...]:
    """Return the parts of a text that are not empty."""
    return tuple(part.strip() for part in text.split(separator) if part.strip())
