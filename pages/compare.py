"""What did it save? Runs against a baseline: the gap between their curves, tokens to a level, what differs."""

import pandas as pd
import streamlit as st

from clp_core.figures import AXES, comparison_figure
from clp_core.figures.runs import MEASURES as TITLES
from clp_core.jobs import JobStore
from clp_core.run_comparison.curve import Curve, imported_curves, incomplete, published_curves
from clp_core.run_comparison.options import MEASURES
from clp_core.run_comparison.report import RULE, answer, as_csv, as_html, points_csv
from clp_core.run_comparison.tokens_saved import Comparison, obstacles
from components import run_comparison as view
from components import saved_experiments as experiments
from components.messages import offer_file, plain, question
from components.models import workspace
from components.navigation import kept, one_of, opened_by_app, remember

SHOWN_AT_FIRST = 8

opened_by_app()
space = workspace()
jobs = [job for job in JobStore(space.jobs).jobs() if job.kind == "train" and job.spec.get("plan")]
left_out = [job for job in jobs if incomplete(job)]
jobs = [job for job in jobs if job not in left_out]
with st.spinner("Reading the runs"):
    runs = [view.curve_of(job) for job in jobs]
ready_made = experiments.saved()
others_here = [*imported_curves(space), *experiments.curves_of(ready_made), *published_curves()]
every = {curve.key: curve for curve in [*runs, *others_here]}
header = st.container()
experiments.offer(ready_made)
view.warn_of_incomplete(left_out)

left, middle, right = st.columns([3, 2, 2], vertical_alignment="bottom")
about = "bits per byte alone compares across tokenizers"
measure = one_of(middle, "Measure", "measure", MEASURES[::-1], about, view.MEASURE_NAMES.__getitem__)
usable = {key: curve for key, curve in every.items() if len(curve.points.get(measure, ()))}
if len(usable) < 2:
    with header:
        question("What did it save?", "There are no two curves with this measure yet.")
    st.info("Start a second run on the page Train, or import the curve of another one below.", icon=":material/info:")
    view.import_form(space)
    st.stop()
names = view.names_of(usable.values())
first, first_runs = experiments.first_choice(ready_made) if not runs else ("", [])
first = first if first in usable else view.likely_baseline(jobs, usable)
baseline_widget = kept("baseline", first)
if st.session_state[baseline_widget] not in usable:
    view.warn_of_absent([st.session_state[baseline_widget]])
    st.session_state[baseline_widget] = first
about = "what the others are held against"
options = list(usable)
shown = names.__getitem__
baseline_key = left.selectbox("Baseline", options, key=baseline_widget, format_func=shown, help=about) or first
remember("baseline", baseline_key)
baseline = usable[baseline_key]
others = [key for key in usable if key != baseline_key]
comparable = [key for key in others if not obstacles(baseline, usable[key], measure)]
of_workspace = [key for key in comparable if not key.startswith(experiments.PREFIX)]
at_first = [key for key in first_runs if key in comparable] or (of_workspace or comparable or others)[:SHOWN_AT_FIRST]
runs_widget = kept("runs", ",".join(at_first))
if isinstance(st.session_state[runs_widget], str):
    asked = [key for key in st.session_state[runs_widget].split(",") if key]
    view.warn_of_absent([key for key in asked if key not in every])
    st.session_state[runs_widget] = [key for key in asked if key in others] or at_first
st.session_state[runs_widget] = [key for key in st.session_state[runs_widget] if key in others]
chosen = st.multiselect("Runs", others, key=runs_widget, format_func=shown)
remember("runs", ",".join(chosen))
level = right.number_input(
    "Level to reach",
    min_value=1e-6,
    value=None,
    format="%.4f",
    placeholder="baseline's best",
    key="level",
    bind="query-params",
    help="loss or bits per byte at which tokens are compared; empty: the least that the baseline has reached",
)
comparison = Comparison.of(baseline, [usable[key] for key in chosen], measure, level)
with header:
    question("What did it save?", plain(answer(comparison)))
    view.saved_cards(comparison)
    if not runs:
        st.info(
            "These runs came with the project. Those you start on the page Train will be offered beside them.",
            icon=":material/info:",
        )

controls = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
by = controls.segmented_control(
    "By", list(AXES), default="tokens", format_func=str.capitalize, key="by", bind="query-params"
)
axis = str(by or "tokens")
log_x = controls.toggle("Log scale", value=True, help="of the level axis", key="log_x", bind="query-params")
overlay: list[Curve] = []
if controls.toggle(
    "The paper's 6.4B curves",
    disabled=measure != "eval_loss",
    help="drawn for the shape alone: another text and another tokenizer; only as held-out loss",
):
    overlay = [curve for curve in published_curves() if curve.key not in (baseline_key, *chosen)]
figure = comparison_figure(comparison, axis, log_x=log_x, overlay=overlay)
st.plotly_chart(
    figure,
    key="comparison",
    alt=f"{TITLES[measure]} by {AXES[axis]} of {len(comparison.curves)} curves, and the gap between them",
)
view.not_drawn([*comparison.curves, *overlay], measure, axis)
st.caption(RULE)

st.subheader("Tokens to the level")
view.savings_table(comparison)
experiments.details(ready_made, [baseline_key, *chosen])
with st.expander("What differs", expanded=0 < len(comparison.differing) <= 12):
    view.differing_table(comparison)

st.subheader("Take it along")
files = {
    "One HTML file": ("comparison.html", "text/html", lambda: as_html(comparison, figure, overlay)),
    "Table as CSV": ("comparison.csv", "text/csv", lambda: as_csv(comparison)),
    "Points as CSV": ("points.csv", "text/csv", lambda: points_csv(comparison)),
}
with st.container(horizontal=True):
    for label, (name, kind, content) in files.items():
        offer_file(label, content, name, kind)
st.caption("On the command line:")
st.code(view.command_of(comparison, pd.notna(level)), language="bash", wrap_lines=True)
with st.expander("A curve from elsewhere"):
    view.import_form(space)
