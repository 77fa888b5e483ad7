"""How is it going? Live curves of one run or several, state, log, stop."""

import statistics
from typing import Any

import pandas as pd
import streamlit as st

from clp_core.evaluation import MAX_UNKNOWN_SHARE
from clp_core.figures import AXES, MEASURES, curves
from clp_core.jobs import JobStore
from clp_core.jobs.speed import seconds_left
from clp_core.jobs.store import Job, MetricsReader
from components.jobs import badge, progress
from components.messages import cards, number, plain, question, share
from components.models import workspace
from components.navigation import opened_by_app, remember, remembered

REFRESH_S = 5.0

opened_by_app()
jobs = [job for job in JobStore(workspace().jobs).jobs() if job.kind == "train"]
if not jobs:
    question("How is it going?", "No run yet.")
    st.info("Start one on the page Train.", icon=":material/info:")
    st.page_link("pages/train.py", label="Open Train", icon=":material/arrow_forward:")
    st.stop()
by_id = {job.id: job for job in jobs}
if "widget_run" not in st.session_state:
    wanted = [run for run in remembered("run", jobs[0].id).split(",") if run in by_id]
    st.session_state["widget_run"] = wanted or [jobs[0].id]
chosen = st.multiselect(
    "Runs",
    list(by_id),
    key="widget_run",
    format_func=lambda run: f"{by_id[run].name}  ({run})",
    help="the first one is shown in detail; all are drawn together",
)
if not chosen:
    st.info("Choose a run.", icon=":material/info:")
    st.stop()
remember("run", ",".join(chosen))


def reader_of(job: Job) -> MetricsReader:
    """Return the session's reader of a run, which goes on where it stopped."""
    readers: dict[str, MetricsReader] = st.session_state.setdefault("readers", {})
    return readers.setdefault(job.id, MetricsReader(job.path / "metrics.jsonl"))


def label(run: str) -> str:
    """Return a run's name, with its id where two have the same."""
    same = sum(by_id[other].name == by_id[run].name for other in chosen)
    return by_id[run].name if same == 1 else f"{by_id[run].name} ({run[-4:]})"


def last_of(lines: list[dict[str, Any]], key: str) -> float | None:
    """Return the last value of a figure, or ``None``."""
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


@st.fragment(run_every=REFRESH_S if any(not by_id[run].status().is_over for run in chosen) else None)
def live() -> None:
    """Show state, progress and curves; drawn anew every few seconds while a run goes on."""
    job = by_id[chosen[0]]
    metrics = {label(run): reader_of(by_id[run]).read() for run in chosen}
    lines = metrics[label(job.id)]
    status = job.status()
    step = max((int(line["step"]) for line in lines), default=0)
    evaluations = [line for line in lines if line.get("bits_per_byte") is not None]
    speeds = [line["tokens_per_s"] for line in lines if line.get("tokens_per_s")]
    speed = statistics.median(speeds[-20:]) if speeds else None
    left = None if status.is_over else seconds_left(job, step, speed)
    plan = job.spec["plan"]
    if evaluations:
        first, last = (number(line["bits_per_byte"], 3) for line in (evaluations[0], evaluations[-1]))
        gain = f", from {first} at the start" if len(evaluations) > 1 else ""
        steps = f"{number(step)} of {number(plan['steps'])} steps"
        answer = f"**{last}** bits per byte on held-out text after {steps}{gain}."
    else:
        answer = f"No evaluation yet; step {number(step)} of {number(plan['steps'])}."
    question("How is it going?", answer)
    state, bar, stop = st.columns([1, 4, 1], vertical_alignment="center")
    with state:
        badge(job)
    with bar:
        if status.is_over:
            st.progress(min(1.0, step / max(plan["steps"], 1)), text=f"{plain(job.name)}: {number(step)} steps")
        else:
            progress(job)
    if not status.is_over and stop.button(
        "Stop and save", icon=":material/stop:", disabled=job.stop_asked, key=f"stop_{job.id}"
    ):
        job.ask_stop()
        st.rerun(scope="fragment")
    last_loss = last_of(lines, "loss")
    cards(
        {
            "Bits per byte": (
                number(evaluations[-1]["bits_per_byte"] if evaluations else None, 3),
                "held-out text; comparable across tokenizers",
            ),
            "Held-out loss": (number(evaluations[-1]["eval_loss"] if evaluations else None, 3), "nats a token"),
            "Training loss": (number(last_loss, 3), "nats a token"),
            "Tokens seen": (number(step * plan["block_length"] * plan["step_blocks"]), ""),
            "Time left": (
                number(None if left is None else left / 60, 1, "min"),
                f"at {number(speed, 0, 'tokens/s')}, evaluations not counted",
            ),
        }
    )
    for column, measure in zip(st.columns(2), ("bits_per_byte", "loss"), strict=True):
        column.plotly_chart(
            curves(metrics, measure, axis),
            key=f"curve_{measure}",
            alt=f"{MEASURES[measure]} by {AXES[axis]} of {', '.join(metrics)}",
        )
    unknown = {name: last_of(found, "unknown_share") for name, found in metrics.items()}
    st.caption(
        "Unknown tokens in the held-out text: " + ", ".join(f"{plain(n)} {share(v, 2)}" for n, v in unknown.items())
    )
    if any(value is not None and value > MAX_UNKNOWN_SHARE for value in unknown.values()):
        st.warning(
            "More than 0.1 % of the held-out text is unknown to a tokenizer: its bits per byte are not comparable."
        )
    with st.expander("Log", expanded=status.state in ("failed", "lost")):
        st.code(job.log_tail(6000) or "(empty)", language="text", height=260)
    if status.is_over and st.session_state.get("live_runs", {}).get(job.id):
        st.session_state["live_runs"][job.id] = False
        st.rerun()
    st.session_state.setdefault("live_runs", {})[job.id] = not status.is_over


controls = st.columns([4, 1])
axis = (
    controls[0].segmented_control("By", list(AXES), default="tokens", format_func=lambda name: AXES[name]) or "tokens"
)
live()

job = by_id[chosen[0]]
with st.expander("Settings and command"):
    st.code(job.command, language="bash", wrap_lines=True)
    values = job.spec["arguments"] | job.spec["plan"]
    st.dataframe(
        pd.DataFrame([(key, str(value)) for key, value in values.items()], columns=["setting", "value"]),
        hide_index=True,
        alt="Settings",
    )
done = job.checkpoints()
if done:
    st.markdown(f"**Checkpoint**: `{done[-1]}`")
    st.caption("It is a model of the workspace: choose it on the pages Tokens and Projection, or train it on.")
