"""The part of the page Train that is about a cluster: what to ask of Slurm, and the script that it gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import streamlit as st

from clp_core.jobs import Job
from clp_core.jobs.slurm.control import is_available
from clp_core.jobs.slurm.launcher import SCRIPT_FILE
from clp_core.options import help_of
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan
from clp_core.training.slurm_options import CLUSTER_FIELDS
from clp_core.training.slurm_script import checked_script, render
from clp_core.workspace import Workspace

PLACES = {"local": "This machine", "slurm": "Slurm"}
GPUS, CPUS = "GPUs", "CPUs"
SCRIPT_HEIGHT = 420


def fields(given: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Let the user choose this machine or Slurm, where there is one, and what to ask of it; the options that differ."""
    if not is_available():
        if given["launcher"] == "slurm":
            st.warning(
                "That run went through Slurm. There is no sbatch on this machine's PATH, so this one would run here.",
                icon=":material/warning:",
            )
        return {}
    index = list(PLACES).index(given["launcher"])
    place = st.radio(
        "Where", list(PLACES), index=index, format_func=PLACES.__getitem__, horizontal=True, key=f"launcher_{of}"
    )
    return {"launcher": "slurm"} | asked(given, of) if place == "slurm" else {}


def asked(given: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Let the user say what to ask of Slurm."""

    def about(name: str) -> dict[str, Any]:
        return {"key": f"{name}_{of}", "help": help_of(TrainOptions, name).removeprefix("with Slurm: ").capitalize()}

    def count(place: Any, label: str, name: str, least: int = 1) -> int:
        return int(place.number_input(label, least, value=max(least, int(given[name])), **about(name)))

    a, b, c = st.columns(3)
    values: dict[str, Any] = {"nodes": count(a, "Machines", "nodes")}
    kind = b.selectbox("Train on", [GPUS, CPUS], index=0 if given["gpus_per_node"] else 1, key=f"kind_{of}")
    if kind == GPUS:
        values["gpus_per_node"] = count(c, "GPUs a machine", "gpus_per_node")
    else:
        values["gpus_per_node"] = 0
        values["processes_per_node"] = count(c, "Processes a machine", "processes_per_node")
    values["time_limit"] = a.text_input(
        "Time limit", given["time_limit"], placeholder="12:00:00", **about("time_limit")
    )
    values["partition"] = b.text_input("Partition", given["partition"], **about("partition"))
    values["account"] = c.text_input("Account", given["account"], **about("account"))
    values["cpus_per_process"] = count(a, "Cores a process", "cpus_per_process")
    values["memory_gb"] = b.number_input("Memory, GB", 0.0, value=float(given["memory_gb"]), **about("memory_gb"))
    values["signal_before_s"] = count(c, "Save before the limit, s", "signal_before_s", 10)
    lines = st.text_area(
        "More options of sbatch, one a line",
        "\n".join(given["sbatch"]),
        height=80,
        placeholder="--mem=64G\n--constraint=a100",
        key=f"sbatch_{of}",
    )
    values["sbatch"] = tuple(line.strip() for line in lines.splitlines() if line.strip())
    values |= {name: values[name].strip() for name in ("time_limit", "partition", "account")}
    return {name: values[name] for name in (*CLUSTER_FIELDS, "processes_per_node") if name in values}


def script_area(options: TrainOptions, chosen: TrainPlan, space: Workspace, cloned: Job | None) -> str:
    """Show the script that Slurm will get, and let the user edit it; return it if it is edited, else nothing.

    Raises:
        InputError: the script cannot be used.
    """
    rendered = render(options, chosen, space)
    begun = edited_script_of(cloned)
    of = hashlib.sha256((begun or rendered).encode()).hexdigest()[:12]
    st.caption(f"This is what Slurm will get; the run keeps it as `{SCRIPT_FILE}`:")
    if not st.toggle("Edit the script", bool(begun), key=f"edit_{cloned.id if cloned else 'new'}"):
        st.code(rendered, language="bash", height=SCRIPT_HEIGHT)
        return ""
    text = st.text_area("Script", begun or rendered, height=SCRIPT_HEIGHT, key=f"script_{of}")
    if begun:
        st.caption(
            "As it was edited for the cloned run. What you change in the form changes the plan, not this script."
        )
    script = checked_script(text)
    return script if script != rendered else ""


def edited_script_of(job: Job | None) -> str:
    """Return the script of a run, if a user had edited it; else nothing."""
    file = job.path / SCRIPT_FILE if job is not None else None
    if job is None or file is None or not job.spec["arguments"].get("script") or not file.is_file():
        return ""
    return file.read_text(encoding="utf-8")
