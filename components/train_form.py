"""The form of the page Train: a budget, the settings, and all of them from another run where one is cloned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import streamlit as st

from clp_core.cluster import CLUSTER_FIELDS
from clp_core.errors import InputError
from clp_core.jobs import Job, JobStore
from clp_core.options import MISSING, help_of
from clp_core.training_plan import PRECISIONS, TrainOptions, list_gpus
from clp_core.workspace import ModelEntry, Workspace
from components import slurm_form
from components.messages import plain
from components.models import choose_model, folder_of
from components.models import texts as texts_here
from components.navigation import remember

QUICK_STEPS = 300
BUDGETS = ("Quick look: 300 steps", "Sound default: four passes over a small text, one over a large", "Tokens", "Steps")
DEFAULTS = {item.name: item.default for item in fields(TrainOptions) if item.default is not MISSING}


@dataclass(frozen=True)
class Filled:
    """What the form holds.

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


def settings_of(job: Job | None) -> dict[str, Any]:
    """Return what the form begins with: the settings of a run, or the defaults."""
    return DEFAULTS | (dict(job.spec["arguments"]) if job is not None else {})


def form(space: Workspace, entries: list[ModelEntry], job: Job | None) -> Filled | None:
    """Show the form; return what it holds, or ``None`` while something is missing.

    Raises:
        InputError: a setting is refused.
    """
    given, of = settings_of(job), job.id if job is not None else "new"
    model = model_field(entries, job, given)
    folder = folder_of(model)
    texts = labelled([*map(str, texts_here()), *given.get("text", ()), *([given["eval_text"]] if job else [])])
    label_of = {path: label for label, path in texts.items()}
    first, second = st.columns(2)
    train_names = [name for name in texts if "valid" not in name] or list(texts)
    eval_names = [name for name in texts if "valid" in name] + [name for name in texts if "valid" not in name]
    begin = [label_of[text] for text in given.get("text", ())] or train_names[:1]
    scored = label_of[given["eval_text"]] if job else eval_names[0]
    text = first.multiselect(
        "Training text", list(texts), default=begin, key=f"text_{of}", help=help_of(TrainOptions, "text")
    )
    eval_text = second.selectbox(
        "Held-out text",
        eval_names,
        index=eval_names.index(scored),
        key=f"eval_{of}",
        help=help_of(TrainOptions, "eval_text"),
    )
    limits = budget(given, of)
    default_name = f"{job.name} again" if job is not None else f"train {Path(model).name}"
    name = st.text_input("Name of the run", default_name, key=f"name_{of}_{model}", help=help_of(TrainOptions, "name"))
    where = slurm_form.fields(given, of)
    more = more_settings(given, of, here=not where)
    if not text or not eval_text:
        return None
    options = TrainOptions(
        model=str(folder),
        text=tuple(texts[name] for name in text),
        eval_text=texts[eval_text],
        name=name.strip(),
        **limits,
        **more,
        **where,
    )
    return Filled(options, folder)


def labelled(paths: Sequence[str]) -> dict[str, str]:
    """Return paths by what a list shows of them: the file's name, or all of the path where two have the same."""
    found = list(dict.fromkeys(paths))
    names = [Path(path).name for path in found]
    return {name if names.count(name) == 1 else path: path for name, path in zip(names, found, strict=True)}


def model_field(entries: list[ModelEntry], job: Job | None, given: Mapping[str, Any]) -> str:
    """Let the user choose the model; of a cloned run it is that run's until another one is chosen."""
    targets = [entry.name for entry in entries if entry.kind == "target"]
    names = [*targets, *[entry.name for entry in entries if entry.name not in targets]]
    if job is not None and st.session_state.get("clone_seen") != job.id:
        st.session_state["clone_seen"] = job.id
        of_workspace = {str(entry.folder): entry.name for entry in entries}
        remember("model", of_workspace.get(given["model"], given["model"]))
    return choose_model("Model", "model", names, targets[-1] if targets else names[0], help_of(TrainOptions, "model"))


def budget(given: Mapping[str, Any], of: str) -> dict[str, int]:
    """Let the user choose how long to train."""
    if given["max_tokens"]:
        index = 2
    elif given["max_steps"]:
        index = 0 if given["max_steps"] == QUICK_STEPS else 3
    else:
        index = 0 if of == "new" else 1
    chosen = st.radio("Budget", BUDGETS, index=index, key=f"budget_{of}")
    if chosen == BUDGETS[0]:
        return {"max_steps": QUICK_STEPS}
    if chosen == "Tokens":
        value = given["max_tokens"] or 1_000_000
        return {
            "max_tokens": int(st.number_input("Tokens", min_value=1, value=value, step=100_000, key=f"tokens_{of}"))
        }
    if chosen == "Steps":
        value = given["max_steps"] or 1_000
        return {"max_steps": int(st.number_input("Steps", min_value=1, value=value, step=100, key=f"steps_{of}"))}
    return {}


def more_settings(given: Mapping[str, Any], of: str, *, here: bool) -> dict[str, Any]:
    """Let the user change the settings that have a default; the device, where the run is on this machine."""
    elsewhere = ("name", "max_steps", "max_tokens", "launcher", *CLUSTER_FIELDS)
    changed = any(given[name] != DEFAULTS[name] for name in DEFAULTS if name not in elsewhere)

    def about(name: str) -> dict[str, Any]:
        return {"key": f"{name}_{of}", "help": help_of(TrainOptions, name)}

    def count(place: Any, label: str, name: str) -> int:
        return int(place.number_input(label, 1 if name == "keep_last" else 0, value=int(given[name]), **about(name)))

    with st.expander("More settings", expanded=changed):
        a, b, c = st.columns(3)
        rate = a.number_input(
            "Learning rate", 0.0, 0.99, given["learning_rate"], format="%.6f", **about("learning_rate")
        )
        return {
            "learning_rate": rate,
            "batch_tokens": count(b, "Tokens a step", "batch_tokens"),
            "block_length": count(c, "Block length", "block_length"),
            "warmup_share": a.number_input("Warm-up share", 0.0, 0.99, given["warmup_share"], **about("warmup_share")),
            "weight_decay": b.number_input("Weight decay", 0.0, value=given["weight_decay"], **about("weight_decay")),
            "eval_every": count(c, "Evaluate every", "eval_every"),
            "save_every": count(a, "Checkpoint every", "save_every"),
            "keep_last": count(b, "Checkpoints to keep", "keep_last"),
            "seed": count(c, "Seed", "seed"),
            "device": device_field(a, given, about("device")) if here else "auto",
            "precision": b.selectbox(
                "Precision", PRECISIONS, index=PRECISIONS.index(given["precision"]), **about("precision")
            ),
            "prompt": c.text_input("Prompt of the samples", given["prompt"], **about("prompt")),
            "only_last": a.checkbox("Keep the newest only", given["only_last"], **about("only_last")),
        }


def device_field(place: Any, given: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Let the user choose a device of this machine."""
    devices = ["auto", "cpu", "cuda", *[f"cuda:{gpu.index}" for gpu in list_gpus()]]
    devices += [] if given["device"] in devices else [given["device"]]
    return str(place.selectbox("Device", devices, index=devices.index(given["device"]), **about))
