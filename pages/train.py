"""What will it cost and what will I get? The form, the plan, the exact command."""

from pathlib import Path

import streamlit as st

from clp_core.jobs import Job, JobStore
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.training.device_choice import place_of
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan, plan
from clp_core.training.submit import submit_train, train_command
from clp_core.training.throughput import measured_speeds
from components import slurm_form, train_form, train_plan
from components.messages import command, plain, question
from components.models import models, training_texts, workspace
from components.navigation import opened_by_app, remember


@st.cache_data(ttl=30, show_spinner="Planning")
def planned(options: TrainOptions, folder: str, cache: str) -> TrainPlan:
    """Plan a run; kept for half a minute, as free memory changes."""
    return plan(options.resolved(), Path(folder), Path(cache))


opened_by_app()
space = workspace()
entries = models()
jobs = JobStore(space.jobs).jobs()
if not entries or not training_texts():
    question("What will it cost and what will I get?")
    st.info(f"A run needs a model and a text. Put texts into {space.texts}, or run `clp demo`.", icon=":material/info:")
    st.stop()

header = st.empty()
with header.container():  # stays where something in the form is refused
    question("What will it cost and what will I get?")
left, right = st.columns([5, 4], gap="large")
with left:
    cloned = train_form.cloned_run(space)
    filled = train_form.form(space, entries, cloned)
if filled is None:
    with header.container():
        question("What will it cost and what will I get?", "Choose a training text and a held-out text.")
    st.stop()
options = filled.options
chosen = planned(options, str(filled.folder), str(space.cache))
device = place_of(options)
ahead = DeviceQueue.of_this_machine().ahead(chosen.devices)
speeds = measured_speeds([job for job in jobs if job.kind == "train"], chosen)
with header.container():
    question("What will it cost and what will I get?", train_plan.answer(chosen, device, speeds))
with right:
    st.subheader("Plan")
    train_plan.show_warnings(chosen)
    train_plan.show_cards(chosen, device)
    train_plan.show_rates(chosen)
    place = f"after {len(ahead)} runs" if ahead else "starts at once"
    train_plan.show_facts(options, chosen, device, speeds, place if device.is_here else "Slurm decides")
    script = "" if device.is_here else slurm_form.script_area(options, chosen, space, cloned)
    command(train_command(options, script))
    if st.session_state.get("started_options") == (options, script):
        started = Job(space.jobs / st.session_state["started"])
        st.success(plain(f"{started.name}: {started.status().state}."), icon=":material/check:")
        watch = {"run": started.id}
        st.page_link("pages/runs.py", label="Watch it", icon=":material/monitoring:", query_params=watch)
        st.stop()
    if ahead:
        names = ", ".join(Job(ticket.job).name for ticket in ahead)
        st.info(
            plain(f"{', '.join(chosen.devices)} is taken: this run starts by itself after {names}."),
            icon=":material/hourglass_top:",
        )
    label = "Put in the queue" if ahead else "Start training" if device.is_here else "Hand to Slurm"
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start"):
        job = submit_train(space, options, script, planned=chosen)
        remember("run", job.id)
        st.session_state["started"], st.session_state["started_options"] = job.id, (options, script)
        st.rerun()
