"""What the page Runs shows of one run: its state, its figures, what it says, and what may be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from clp_core.errors import ClpError
from clp_core.figures import AXES, MEASURES, curves
from clp_core.files.json_files import parsed_json
from clp_core.jobs import Job, JobStore
from clp_core.jobs.run_metrics import RunMetrics, metrics_of_run
from clp_core.jobs.training_checkpoints import resumable_checkpoint, step_of
from clp_core.run_comparison.curve import Curve, curve_of_run, differing, settings_of, step_tokens_of
from clp_core.training.alerts import alerts_of
from clp_core.training.submit import resume
from clp_core.training.throughput import pace, seconds_left
from components.jobs import badge
from components.messages import cards, number, plain, question, share
from components.models import workspace

SYSTEM = ("tokens_per_s", "mfu", "memory", "busy", "lr", "lr_embeddings", "teacher_weight", "grad_norm", "perplexity")
TOLD_BELOW = ("failed", "lost")
"""States whose reason stands in a message of its own."""
SHOWN_SAMPLES = 12
SAMPLE_BYTES = 64_000
LOG_BYTES = 16_000


def metrics_of(job: Job) -> RunMetrics:
    """Return what was read of a run, with what is new since the last time."""
    return kept_metrics(str(job.path)).read()


@st.cache_resource(max_entries=500, show_spinner=False)
def kept_metrics(folder: str) -> RunMetrics:
    """Keep the reader of a run, which goes on where it stopped."""
    return metrics_of_run(Job(Path(folder)))


def labels_of(jobs: Sequence[Job]) -> dict[str, str]:
    """Return each run's name by its id, with the end of the id where two have the same."""
    names = [job.name for job in jobs]
    return {job.id: job.name if names.count(job.name) == 1 else f"{job.name} ({job.id[-4:]})" for job in jobs}


def duration(seconds: float | None) -> str:
    """Return seconds in the unit a reader would use."""
    if seconds is None:
        return "–"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return number(seconds / size, 1, unit)
    return number(seconds, 0, "s")


def headline(job: Job, metrics: RunMetrics) -> None:
    """Answer the page's question for one run."""
    evaluations = metrics.points("bits_per_byte")
    now = f"{number(metrics.step)} of {number(job.plan.get('steps'))} steps"
    if not len(evaluations):
        question("How is it going?", f"Nothing is measured on the held-out text yet; {now} done.")
        return
    first, last = evaluations[0], evaluations[-1]
    gain = f", from {number(first[-1], 3)} at the start" if len(evaluations) > 1 else ""
    at = "" if last[0] == metrics.step else f" at step {number(last[0])}"
    question("How is it going?", f"**{number(last[-1], 3)}** bits per byte on held-out text{at}{gain}; {now} done.")


def state_row(job: Job, metrics: RunMetrics) -> None:
    """Show the state with its reason, how much is done, and the buttons that change it."""
    status, steps = job.status(), job.plan.get("steps")
    state, bar, act = st.columns([2, 4, 2], vertical_alignment="center")
    with state:
        badge(job, with_reason=status.state not in TOLD_BELOW)
        if status.attempt > 1:
            st.caption(f"attempt {status.attempt}")
        if slurm_job := job.launcher.facts(job).get("slurm_job"):
            st.caption(f"Slurm job {slurm_job}")
    with bar:
        phase = str(job.heartbeat().get("phase") or "") if status.state in ("running", "stopping") else ""
        told = f"{number(metrics.step)} of {number(steps)} steps"
        share_done = 0.0 if steps is None else min(1.0, metrics.step / max(steps, 1))
        st.progress(share_done, text=plain(" · ".join(filter(None, (told, phase)))))
    with act:
        if not status.is_over:
            buttons_of_a_living_run(job)
        elif status.state != "finished" and st.button("Resume", icon=":material/play_arrow:", key=f"resume_{job.id}"):
            try:
                resume(workspace(), job)
            except ClpError as error:
                st.error(plain(str(error)), icon=":material/error:")
            else:
                st.rerun()


def buttons_of_a_living_run(job: Job) -> None:
    """Offer to stop a run, and once that was asked, to end it at once."""
    if not job.stop_asked or job.requeue_asked:
        label = "Leave the queue" if job.status().state == "queued" else "Stop and save"
        st.button(label, icon=":material/stop:", key=f"stop_{job.id}", on_click=job.ask_stop)
    else:
        st.button(
            "End at once",
            icon=":material/cancel:",
            key=f"kill_{job.id}",
            disabled=job.kill_asked,
            help="without saving; what is left is the newest checkpoint",
            on_click=job.ask_stop,
            kwargs={"kill": True},
        )


def show_alerts(job: Job, metrics: RunMetrics) -> None:
    """Show what is wrong, or may soon be."""
    status = job.status()
    if status.state in TOLD_BELOW:
        newest = resumable_checkpoint(job.path / "checkpoints")
        begins = "No checkpoint is complete: it begins again."
        left = f"Resume goes on from step {step_of(newest)}." if newest else begins
        st.error(plain(f"{status.state}: {status.reason}. {left}"), icon=":material/error:")
    for told in alerts_of(job, status, metrics):
        st.warning(plain(told), icon=":material/warning:")
    for told in obstacles_of(job, metrics):
        st.warning(plain(told), icon=":material/warning:")


def obstacles_of(job: Job, metrics: RunMetrics) -> list[str]:
    """Sentences on what keeps a run's bits per byte from being compared; those its warnings have are left out."""
    sentences = [
        f"{each['reason']}: bits per byte cannot be compared with other tokenizers'."
        for each in curve_of_run(job, metrics).not_comparable
    ]
    known = " ".join(job.warnings)
    return [sentence for sentence in sentences if sentence.partition(": bits per byte")[0] not in known]


def comparability(job: Job, metrics: RunMetrics) -> str:
    """Say whether a run's bits per byte can be compared across tokenizers."""
    codes = ", ".join(each["code"].replace("_", " ") for each in curve_of_run(job, metrics).not_comparable)
    return f"not comparable across tokenizers ({codes})" if codes else "comparable across tokenizers"


def figures_row(job: Job, metrics: RunMetrics) -> None:
    """Show the run's figures as cards."""
    step_tokens, tokens, seconds = (
        step_tokens_of(job.plan),
        metrics.last.get("tokens") or 0,
        metrics.last.get("seconds") or 0,
    )
    left = seconds_left(job, metrics.step, seconds) if job.status().state == "running" else None
    cards(
        {
            "Bits per byte": (
                number(metrics.latest("bits_per_byte"), 3),
                f"held-out text; {comparability(job, metrics)}; "
                f"{share(metrics.latest('unknown_share'), 2)} of its tokens are unknown",
            ),
            "Held-out loss": (
                number(metrics.latest("eval_loss"), 3),
                f"nats a token; perplexity {number(metrics.latest('perplexity'), 1)}",
            ),
            "Training loss": (number(metrics.latest("loss"), 3), "nats a token, mean of the last steps"),
            "Tokens seen": (number(None if step_tokens is None else metrics.step * step_tokens), ""),
            "Time left": (
                duration(left),
                f"at {number(pace(tokens, seconds), 0, 'tokens/s')}, its pace so far, all included"
                + (f"; {share(metrics.latest('mfu'))} of the device's peak" if metrics.latest("mfu") else ""),
            ),
        }
    )


def charts(runs: Mapping[str, RunMetrics], axis: str, *, log_y: bool, smoothing: float) -> None:
    """Draw bits per byte and training loss of all chosen runs, and below on demand their system figures."""
    for column, measure in zip(st.columns(2), ("bits_per_byte", "loss"), strict=True):
        if not any(len(run.points(measure)) for run in runs.values()):
            column.caption(f"No {MEASURES[measure]} yet: the first comes once the model is loaded.")
            continue
        column.plotly_chart(
            curves(runs, measure, axis, log_y=log_y, smoothing=smoothing),
            key=f"curve_{measure}",
            alt=f"{MEASURES[measure]} by {AXES[axis]} of {', '.join(runs)}",
        )


def system_charts(runs: Mapping[str, RunMetrics], axis: str) -> None:
    """Draw what the machine did and what the optimiser did."""
    known = [measure for measure in SYSTEM if any(len(run.points(measure)) for run in runs.values())]
    if not known:
        st.caption("Nothing is measured yet.")
    for first in range(0, len(known), 3):
        for column, measure in zip(st.columns(3), known[first : first + 3], strict=False):
            column.plotly_chart(
                curves(runs, measure, axis, height=240),
                key=f"system_{measure}",
                alt=f"{MEASURES[measure]} by {AXES[axis]} of {', '.join(runs)}",
            )


def samples(job: Job) -> None:
    """Show what the model said at its evaluations, the latest first; of one step the last attempt's."""
    file = job.path / "samples.jsonl"
    if not file.is_file():
        st.caption("No sample yet: one is written at every evaluation.")
        return
    with open(file, "rb") as opened:
        opened.seek(max(0, file.stat().st_size - SAMPLE_BYTES))
        lines = opened.read().decode("utf-8", errors="replace").splitlines()
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for line in lines:
        try:
            sample = parsed_json(line)
            found[int(sample["step"]), str(sample["prompt"])] = sample
        except (ValueError, TypeError, KeyError):
            continue  # cut off by the window, or by a crash
    newest = sorted(found.values(), key=lambda sample: sample["step"], reverse=True)[:SHOWN_SAMPLES]
    rows = [(sample["step"], sample["tokens"], sample["prompt"] or "–", sample["text"]) for sample in newest]
    st.dataframe(
        pd.DataFrame(rows, columns=["step", "tokens", "prompt", "sample"]),
        hide_index=True,
        row_height=70,
        column_config={
            "step": st.column_config.NumberColumn(width=70),
            "tokens": st.column_config.NumberColumn(width=100),
            "prompt": st.column_config.TextColumn(width="small"),
            "sample": st.column_config.TextColumn(width="large"),
        },
        alt="What the model wrote after the prompt at its evaluations",
    )
    st.caption("Temperature 0.8, the 50 likeliest tokens, always the same seed.")


def log_tail(job: Job) -> None:
    """Show the end of the log, scrolled to its last line as it grows."""
    with st.container(height=260, autoscroll=True):
        st.code(job.log_tail(LOG_BYTES) or "(empty)", language="text", wrap_lines=True)


def settings(jobs: Sequence[Job], labels: Mapping[str, str]) -> None:
    """Show the command and the settings of one run, or in what several differ."""
    st.code(jobs[0].command, language="bash", wrap_lines=True)
    if len(jobs) == 1:
        rows = [(name, as_text(value)) for name, value in settings_of(jobs[0]).items()]
        table = pd.DataFrame(rows, columns=["setting", "value"])
        st.dataframe(table, hide_index=True, alt="Settings of the run")
        return
    found = differing([Curve(job.id, job.name, {}, {}, settings_of(job)) for job in jobs])
    if not found:
        st.caption("These runs have the same settings.")
        return
    table = pd.DataFrame(
        [(name, *map(as_text, values)) for name, values in found.items()],
        columns=["setting", *[labels[job.id] for job in jobs]],
    )
    st.caption("What differs:")
    st.dataframe(table, hide_index=True, alt="Settings in which the runs differ")


def as_text(value: Any) -> str:
    """Return a setting in words."""
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def more_actions(job: Job) -> None:
    """Offer what may be done with a run beside stopping it: clone, rename, delete."""
    with st.popover("More", icon=":material/more_vert:"):
        st.page_link(
            "pages/train.py",
            label="Clone with changed settings",
            icon=":material/content_copy:",
            query_params={"clone": job.id},
        )
        name = st.text_input("Name", job.name, key=f"rename_{job.id}_{job.name}")
        st.button(
            "Rename",
            icon=":material/edit:",
            disabled=name == job.name,
            key=f"do_rename_{job.id}",
            on_click=rename_run,
            args=(job, name),
        )
        is_over = job.status().is_over
        if st.button(
            "Delete", icon=":material/delete:", disabled=not is_over, help="once it is over", key=f"delete_{job.id}"
        ):
            confirm_removal(job)


def rename_run(job: Job, name: str) -> None:
    """Give a run another name; a callback, so that all that shows names is drawn with the new one."""
    try:
        job.rename(name)
    except ClpError as error:
        st.toast(plain(str(error)), icon=":material/error:")
        return
    st.session_state.pop("widget_run", None)


@st.dialog("Delete this run?")
def confirm_removal(job: Job) -> None:
    """Say what goes, and delete it once it is confirmed."""
    folder = job.path / "checkpoints"
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    started = [
        other.name
        for other in JobStore(workspace().jobs).jobs()
        if job.id in str(other.spec.get("arguments", {}).get("model", ""))
    ]
    st.markdown(
        f"**{plain(job.name)}**, its curves, its log and its checkpoints ({number(n_bytes / 1e6, 0, 'MB')}) will be "
        "gone. This cannot be undone."
    )
    if started:
        st.warning(plain(f"Started from its checkpoints: {', '.join(started)}."), icon=":material/warning:")
    row = st.container(horizontal=True)
    gone = row.button("Delete it", type="primary", icon=":material/delete:", on_click=remove_run, args=(job,))
    if row.button("Keep it") or gone:
        st.rerun()


def remove_run(job: Job) -> None:
    """Delete a run and forget that it was chosen; a callback, which runs before the page does."""
    try:
        JobStore(workspace().jobs).remove(job)
    except ClpError as error:
        st.toast(plain(str(error)), icon=":material/error:")
        return
    for key in ("widget_run", "kept_run"):
        st.session_state.pop(key, None)
    st.query_params.pop("run", None)
