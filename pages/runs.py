"""How is it going? Live curves of one run or several, state, samples, log; stop, resume, clone, take away."""

import streamlit as st

from clp_core.figures import AXES
from clp_core.jobs import JobStore
from components import run_view, take_away
from components.messages import plain, question
from components.models import workspace
from components.navigation import opened_by_app, remember, remembered

REFRESH_S = 5.0
SHOWN_OF_A_NAME = 60

opened_by_app()
jobs = [job for job in JobStore(workspace().jobs).jobs() if job.kind == "train" and job.spec.get("plan")]
if not jobs:
    question("How is it going?", "No run yet.")
    st.info("Start one on the page Train.", icon=":material/info:")
    st.page_link("pages/train.py", label="Open Train", icon=":material/arrow_forward:")
    st.stop()
by_id = {job.id: job for job in jobs}
place = st.container()
if "widget_run" not in st.session_state:
    asked = remembered("run", jobs[0].id).split(",")
    wanted = [run for run in asked if run in by_id]
    if missing := [run for run in asked if run not in by_id]:
        told = ", ".join(run[:SHOWN_OF_A_NAME] for run in missing if run) or "without a name"
        st.warning(plain(f"There is no run {told} here."), icon=":material/warning:")
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
shown = [by_id[run] for run in chosen]
labels = run_view.labels_of(shown)
job = shown[0]

controls = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
by = controls.segmented_control(
    "By", list(AXES), default="tokens", format_func=str.capitalize, key="by", bind="query-params"
)
log_y = controls.toggle("Log scale", help="of the upright axis", key="log", bind="query-params")
smoothing = controls.slider(
    "Smoothing",
    0.0,
    0.99,
    0.0,
    width=180,
    key="smooth",
    bind="query-params",
    help="of the training loss: moving mean over the points drawn; the measured line stays, paler",
)
paused = controls.toggle("Pause curves", help="draw no curve anew; a zoom then stays as it is", key="pause")
axis = str(by or "tokens")
alive = any(not run.status().is_over for run in shown)


@st.fragment(run_every=REFRESH_S if alive else None)
def live_head() -> None:
    """Show state and figures of the first run; drawn anew every few seconds while it goes on."""
    metrics = run_view.metrics_of(job)
    run_view.headline(job, metrics)
    run_view.state_row(job, metrics)
    run_view.show_alerts(job, metrics)
    run_view.figures_row(job, metrics)
    is_over = job.status().is_over
    if is_over and st.session_state.get("live_runs", {}).get(job.id):
        st.session_state["live_runs"][job.id] = False
        st.rerun()
    st.session_state.setdefault("live_runs", {})[job.id] = not is_over


@st.fragment(run_every=REFRESH_S if alive and not paused else None)
def live_curves() -> None:
    """Draw the curves of all chosen runs, and below them what changes with them."""
    read = {labels[run.id]: run_view.metrics_of(run) for run in shown}
    run_view.charts(read, axis, log_y=log_y, smoothing=smoothing)
    system, said, log = st.tabs(["System", "Samples", "Log"], key="run_tab", on_change="rerun")
    if system.open:
        with system:
            run_view.system_charts(read, axis)
    if said.open:
        with said:
            run_view.samples(job)
    if log.open:
        with log:
            run_view.log_tail(job)


with place:
    live_head()
live_curves()

left, right = st.columns([5, 1])
with right:
    run_view.more_actions(job)
with left.expander("Settings and command"):
    run_view.settings(shown, labels)
take_away.section(job)
if len(jobs) > 1:
    st.page_link(
        "pages/compare.py",
        label="Compare runs",
        icon=":material/compare_arrows:",
        query_params={"runs": ",".join(chosen)},
    )
