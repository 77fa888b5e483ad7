"""Where am I? The way through in four steps, and what the workspace holds."""

import time

import pandas as pd
import streamlit as st

from clp_core.demo import SOURCE
from clp_core.figures import spark
from clp_core.jobs import JobStore
from clp_core.submission import submit_demo
from components import saved_experiments
from components.jobs import follow
from components.messages import number, question, size
from components.models import models, workspace
from components.models import texts as texts_here
from components.navigation import opened_by_app
from components.run_view import metrics_of

opened_by_app()
space = workspace()
entries = models()
jobs = JobStore(space.jobs).jobs()
runs = [job for job in jobs if job.kind == "train"]
targets = [entry for entry in entries if entry.kind == "target"]
active = [job for job in jobs if not job.status().is_over]

question(
    "Where am I?",
    f"This workspace holds **{len(entries)}** models, **{len(texts_here())}** texts and **{len(runs)}** training "
    f"runs; **{len(active)}** jobs are under way.",
)

has_pair = sum(entry.kind == "model" for entry in entries) >= 2
steps = [
    (
        "1 · Choose a pair",
        has_pair,
        "A large source model, and a small helper that owns the target tokenizer.",
        "overlap",
    ),
    (
        "2 · Look at the overlap",
        bool(st.session_state.get("looked_at_overlap")),
        "Is this pair fit for a transfer?",
        "overlap",
    ),
    ("3 · Write the target", bool(targets), "Copy what both have, initialise what is missing.", "transfer"),
    ("4 · Train it on", bool(runs), "Watch its loss fall, and beat random rows.", "train"),
]
for column, (title, is_done, about, page) in zip(st.columns(4), steps, strict=True):
    with column.container(border=True, height=220):
        st.markdown(f"**{title}**")
        st.badge("done" if is_done else "open", color="green" if is_done else "gray")
        st.caption(about)
        st.page_link(f"pages/{page}.py", label=page.capitalize(), icon=":material/arrow_forward:")

if not any(entry.name == SOURCE for entry in entries):
    st.info(
        "The packaged demo is not here yet: an English source, a German helper and German text.", icon=":material/info:"
    )
    st.code("clp demo", language="bash")
    unpacking = next((job for job in active if job.kind == "demo"), None)
    if unpacking:
        follow(unpacking)
    elif st.button("Unpack the demo", type="primary"):
        submit_demo(space)
        st.rerun()
elif not targets:
    st.info(
        "Two minutes: look at **Overlap**, ask **Tokens** for a German word, write a target on **Transfer** with the "
        "method that scores best, start 300 steps on **Train**, and watch them on **Runs**.",
        icon=":material/info:",
    )

st.subheader("Latest runs")
if runs:
    rows = []
    for job in runs[:8]:
        read = metrics_of(job)
        bits, tokens = read.latest("bits_per_byte"), read.last.get("tokens", 0)
        rows.append((job.name, job.status().state, read.step, tokens, bits, spark(read)))
    st.dataframe(
        pd.DataFrame(rows, columns=["run", "state", "steps", "tokens", "bits per byte", "loss"]),
        hide_index=True,
        column_config={
            "loss": st.column_config.LineChartColumn("training loss"),
            "bits per byte": st.column_config.NumberColumn(format="%.3f"),
        },
        alt="The latest training runs with state, steps, tokens, bits per byte and the course of their loss",
    )
else:
    st.caption("No run yet. Write a target on the page Transfer, then start one on the page Train.")
    saved_experiments.link()

left, right = st.columns(2)
with left:
    st.subheader("Models")
    st.dataframe(
        pd.DataFrame(
            [
                (entry.name, entry.kind, entry.config.get("model_type"), entry.vocab_size, size(entry.n_bytes))
                for entry in entries
            ],
            columns=["name", "kind", "type", "rows", "weights"],
        ),
        hide_index=True,
        alt="The models of the workspace",
    )
    st.caption(f"Put models into `{space.models}`, or name any folder or Hub id where a page asks for a model.")
    st.page_link("pages/helper.py", label="No helper for a language? Make one", icon=":material/egg:")
with right:
    st.subheader("Texts and jobs")
    st.dataframe(
        pd.DataFrame([(path.name, size(path.stat().st_size)) for path in texts_here()], columns=["text", "size"]),
        hide_index=True,
        alt="The texts of the workspace",
    )
    st.caption(f"Put texts (UTF-8, one document a line) into `{space.texts}`.")
    now = time.time()
    if not jobs:
        st.caption("No job yet.")
    else:
        st.dataframe(
            pd.DataFrame(
                [
                    (job.name, job.kind, job.status().state, number((now - job.created) / 60, 0, "min ago"))
                    for job in jobs[:8]
                ],
                columns=["job", "kind", "state", "made"],
            ),
            hide_index=True,
            alt="The latest jobs",
        )
