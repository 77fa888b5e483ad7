"""What will it cost and what will I get? The form, the plan, the exact command."""

from pathlib import Path

import pandas as pd
import streamlit as st

from clp_core.jobs import Job, JobStore
from clp_core.jobs.queue import DeviceQueue
from clp_core.jobs.speed import measured_speeds
from clp_core.jobs.submit import submit_train, train_command
from clp_core.training_plan import TrainOptions, TrainPlan, place_of, plan
from components import slurm_form, train_form
from components.messages import cards, command, number, plain, question, size
from components.models import models, workspace
from components.models import texts as texts_here
from components.navigation import opened_by_app, remember


@st.cache_data(ttl=30, show_spinner="Planning")
def planned(options: TrainOptions, folder: str) -> TrainPlan:
    """Plan a run; kept for half a minute, as free memory changes."""
    return plan(options, Path(folder))


opened_by_app()
space = workspace()
entries = models()
jobs = JobStore(space.jobs).jobs()
if not entries or not texts_here():
    question("What will it cost and what will I get?")
    st.info(f"A run needs a model and a text. Put texts into {space.texts}, or run `clp demo`.", icon=":material/info:")
    st.stop()

header = st.container()
left, right = st.columns([5, 4], gap="large")
with left:
    cloned = train_form.cloned_run(space)
    filled = train_form.form(space, entries, cloned)
if filled is None:
    with header:
        question("What will it cost and what will I get?", "Choose a training text and a held-out text.")
    st.stop()
options = filled.options
chosen = planned(options, str(filled.folder))
device = place_of(options)
ahead = DeviceQueue.of_this_machine().ahead(chosen.devices)
speeds = measured_speeds([job for job in jobs if job.kind == "train"], chosen)
minutes = sorted(chosen.tokens / speed / 60 for speed in speeds)
if minutes:
    span = (
        number(minutes[0], 1)
        if minutes[-1] < 1.2 * minutes[0]
        else f"{number(minutes[0], 1)} to {number(minutes[-1], 1)}"
    )
    told = f"about **{span} minutes** at the pace of the last {number(len(minutes))} runs, evaluations included"
else:
    told = "no run of this size was measured yet, so the time is not known"
with header:
    question(
        "What will it cost and what will I get?",
        f"**{number(chosen.steps)}** steps over **{number(chosen.tokens)}** tokens on {plain(device.name)}: {told}.",
    )
to_be_had = f"{size(device.free_bytes)} can be had on {device.name}" if device.free_bytes else "Not checked."
with right:
    st.subheader("Plan")
    cards(
        {
            "Tokens": (number(chosen.tokens), f"{number(chosen.epochs, 1)} passes over the text"),
            "Steps": (number(chosen.steps), ""),
        }
    )
    cards(
        {
            "Memory": (
                size(chosen.memory_bytes),
                f"weights, optimiser and logits; activations, Python and libraries come on top. {to_be_had}",
            ),
            "Disk": (size(chosen.disk_bytes), "for the checkpoints that are kept and the one being written"),
        }
    )
    kept = f"the last {number(options.keep_last)}" + ("" if options.only_last else " and the best")
    place = f"after {number(len(ahead))} runs" if ahead else "starts at once"
    facts = {
        "parameters": number(chosen.parameters),
        "tokens a step": f"{number(chosen.step_tokens)} ({chosen.step_blocks} blocks of {number(chosen.block_length)})",
        "at once": f"{chosen.micro_blocks} blocks",
        "learning rate": f"{chosen.learning_rate:g}, cosine, {number(chosen.warmup_steps)} steps of warm-up",
        "products in": "bfloat16" if chosen.bf16 else "float32",
        "evaluation": f"every {number(chosen.eval_every)} steps",
        "checkpoints": f"every {number(chosen.save_every)} steps, {kept} are kept",
        "devices": ", ".join(chosen.devices) or device.name,
        "measured pace": ", ".join(number(speed, 0, "tokens/s") for speed in speeds) or "–",
        "place in the queue": place if device.is_here else "Slurm decides",
    }
    st.dataframe(pd.DataFrame(facts.items(), columns=["setting", "planned"]), hide_index=True, alt="What is planned")
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
        job = submit_train(space, options, script)
        remember("run", job.id)
        st.session_state["started"], st.session_state["started_options"] = job.id, (options, script)
        st.rerun()
