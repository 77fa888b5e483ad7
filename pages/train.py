"""What will it cost and what will I get? The form, the plan, the exact command."""

from pathlib import Path

import pandas as pd
import streamlit as st

from clp_core.jobs import JobStore
from clp_core.jobs.speed import measured_speed
from clp_core.jobs.submit import command_of, submit_train
from clp_core.options import help_of
from clp_core.training_plan import PRECISIONS, TrainOptions, TrainPlan, find_device, plan
from components.messages import cards, command, number, plain, question, size
from components.models import choose_model, folder_of, models, workspace
from components.navigation import opened_by_app, remember

BUDGETS = {
    "Quick look: 300 steps": {"max_steps": 300},
    "Sound default: four passes over a small text, one over a large": {},
    "Tokens": {"max_tokens": 0},
    "Steps": {"max_steps": 0},
}


@st.cache_data(ttl=30, show_spinner="Planning")
def planned(options: TrainOptions, folder: str) -> TrainPlan:
    """Plan a run; kept for half a minute, as free memory changes."""
    return plan(options, Path(folder))


opened_by_app()
space = workspace()
entries = models()
targets = [entry.name for entry in entries if entry.kind == "target"]
names = [*targets, *[entry.name for entry in entries if entry.name not in targets]]
texts = {path.name: str(path) for path in space.list_texts()}
jobs = JobStore(space.jobs).jobs()
running = [job for job in jobs if job.kind == "train" and not job.status().is_over]
if not names or not texts:
    question("What will it cost and what will I get?")
    st.info(f"A run needs a model and a text. Put texts into {space.texts}, or run `clp demo`.", icon=":material/info:")
    st.stop()

header = st.container()
left, right = st.columns([3, 2], gap="large")
with left:
    model = choose_model("Model", "model", names, targets[-1] if targets else names[0], help_of(TrainOptions, "model"))
    folder = folder_of(model)
    first, second = st.columns(2)
    train_names = [name for name in texts if "valid" not in name] or list(texts)
    eval_names = [name for name in texts if "valid" in name] + [name for name in texts if "valid" not in name]
    text = first.multiselect("Training text", list(texts), default=train_names[:1], help=help_of(TrainOptions, "text"))
    eval_text = second.selectbox("Held-out text", eval_names, help=help_of(TrainOptions, "eval_text"))
    budget = st.radio("Budget", list(BUDGETS))
    limits = dict(BUDGETS[budget or next(iter(BUDGETS))])
    if budget == "Tokens":
        limits["max_tokens"] = int(st.number_input("Tokens", min_value=1, value=1_000_000, step=100_000))
    if budget == "Steps":
        limits["max_steps"] = int(st.number_input("Steps", min_value=1, value=1_000, step=100))
    name = st.text_input(
        "Name of the run", f"train {Path(model).name}", key=f"name_{model}", help=help_of(TrainOptions, "name")
    )
    with st.expander("More settings"):
        a, b, c = st.columns(3)
        more = {
            "learning_rate": a.number_input(
                "Learning rate", 0.0, 0.99, 0.0, format="%.6f", help=help_of(TrainOptions, "learning_rate")
            ),
            "batch_tokens": int(
                b.number_input("Tokens a step", 0, value=0, help=help_of(TrainOptions, "batch_tokens"))
            ),
            "block_length": int(c.number_input("Block length", 0, value=0, help=help_of(TrainOptions, "block_length"))),
            "warmup_share": a.number_input("Warm-up share", 0.0, 0.99, 0.1, help=help_of(TrainOptions, "warmup_share")),
            "weight_decay": b.number_input("Weight decay", 0.0, value=0.1, help=help_of(TrainOptions, "weight_decay")),
            "eval_every": int(c.number_input("Evaluate every", 0, value=0, help=help_of(TrainOptions, "eval_every"))),
            "seed": int(a.number_input("Seed", 0, value=42, help=help_of(TrainOptions, "seed"))),
            "precision": c.selectbox("Precision", PRECISIONS, help=help_of(TrainOptions, "precision")),
            "device": b.selectbox("Device", ("auto", "cpu", "cuda"), help=help_of(TrainOptions, "device")),
        }
if not text or not eval_text:
    with header:
        question("What will it cost and what will I get?", "Choose a training text and a held-out text.")
    st.stop()
options = TrainOptions(
    model=str(folder),
    text=tuple(texts[name] for name in text),
    eval_text=texts[eval_text],
    name=name.strip(),
    **limits,
    **more,
)
chosen = planned(options, str(folder))
device = find_device(options.device)
speed = measured_speed(jobs, chosen)
told = (
    f"about **{number(chosen.tokens / speed / 60, 1)} minutes** at the speed of the last run"
    if speed
    else "no run of this size was measured yet, so the time is not known"
)
with header:
    question(
        "What will it cost and what will I get?",
        f"**{number(chosen.steps)}** steps over **{number(chosen.tokens)}** tokens on {plain(device.name)}: {told}.",
    )
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
            "Memory": (size(chosen.memory_bytes), f"{size(device.free_bytes)} are free on {device.name}"),
            "Disk": (size(chosen.disk_bytes), "for the checkpoint at the end"),
        }
    )
    facts = {
        "parameters": number(chosen.parameters),
        "tokens a step": f"{number(chosen.step_tokens)} ({chosen.step_blocks} blocks of {number(chosen.block_length)})",
        "at once": f"{chosen.micro_blocks} blocks",
        "learning rate": f"{chosen.learning_rate:g}, cosine, {number(chosen.warmup_steps)} steps of warm-up",
        "products in": "bfloat16" if chosen.bf16 else "float32",
        "evaluation": f"every {number(chosen.eval_every)} steps",
        "measured speed": number(speed, 0, "tokens/s") if speed else "–",
        "under way on this machine": f"{len(running)} runs",
    }
    st.dataframe(pd.DataFrame(facts.items(), columns=["setting", "planned"]), hide_index=True, alt="What is planned")
    command(command_of("train", options))
    if running:
        st.warning(
            f"{len(running)} runs are under way on this machine; another one slows both down.",
            icon=":material/hourglass_top:",
        )
    if st.button("Start training", type="primary", icon=":material/play_arrow:"):
        job = submit_train(space, options)
        remember("run", job.id)
        st.session_state["started"] = job.id
        st.rerun()
    started = st.session_state.get("started")
    if started:
        st.success(f"Started as {plain(started)}.", icon=":material/check:")
        st.page_link("pages/runs.py", label="Watch it", icon=":material/monitoring:", query_params={"run": started})
