"""Is there a helper for this language?"""

import streamlit as st

from clp_core.demo import SOURCE
from clp_core.files.json_files import number_in
from clp_core.helper.pretraining import is_helper_run
from clp_core.jobs import JobStore
from clp_core.submission import submit_demo
from components import helper_steps as steps
from components.jobs import wait_or_offer
from components.messages import number, plain, question
from components.models import models, workspace
from components.models import texts as texts_here
from components.navigation import opened_by_app, remembered

QUESTION = "Is there a helper for this language?"

opened_by_app()
space = workspace()
jobs = JobStore(space.jobs).jobs()
runs = [job for job in jobs if is_helper_run(job, space)]
entries = models()

if not texts_here():
    question(QUESTION, "Not here, and there is no text yet to make one of.")
    st.info(
        f"Put text of the language into {plain(str(space.texts))} (UTF-8, one document a line, .txt), or unpack the "
        "demo. A helper that somebody has published is better than one of your own: name its Hub id on the page "
        "Transfer.",
        icon=":material/info:",
    )
    demo = next((job for job in jobs if job.kind == "demo"), None)
    if wait_or_offer(demo, "Unpack the demo", "clp demo"):
        submit_demo(space)
        st.rerun()
    st.stop()

header = st.empty()
with header.container():  # stays where something in a form is refused
    question(QUESTION)
with st.container(border=True):
    steps.title("1 · Text of the language", is_done=True)
    paths = steps.choose_texts()
    place_of_size = st.container()
if not paths:
    with header.container():
        question(QUESTION, "Choose the text it is to be made of.")
    st.stop()

making = next((job for job in jobs if job.kind == "tokenizer" and not job.status().is_over), None)
tokenizers = space.list_tokenizers()
with st.container(border=True):
    steps.title("2 · Tokenizer", is_done=bool(tokenizers), doing="under way" if making else "")
    tokenizer = steps.choose_tokenizer(space)
    if tokenizer is not None:
        steps.tokenizer_report(tokenizer)
    names = [entry.name for entry in entries if entry.kind == "model"]
    source = remembered("source", SOURCE if SOURCE in names else next(iter(names), ""))
    with st.expander("Train another tokenizer", expanded=making is not None) if tokenizer else st.container():
        steps.tokenizer_form(space, paths, names, source)
with place_of_size:
    steps.text_cards(paths, steps.vocabulary_in(tokenizer) if tokenizer else None)

starting = next((job for job in jobs if job.kind == "pretrain" and not job.status().is_over), None)
running = next((job for job in runs if not job.status().is_over), None)
found = steps.best_helper(runs)
with st.container(border=True):
    steps.title("3 · A tiny helper first", is_done=found is not None, doing="under way" if starting or running else "")
    if runs:
        steps.show_run(runs[0])
    if tokenizer is None:
        st.caption("It needs a tokenizer: the step above.")
    else:
        with st.expander("Make another helper", expanded=starting is not None) if found else st.container():
            steps.helper_form(space, paths, tokenizer, runs)

with st.container(border=True):
    made = steps.targets_made(source, found[1]) if found else []
    steps.title("4 · Use it, and make the next size", is_done=bool(made))
    if found is None:
        st.caption("Nothing to use yet: a run of step 3 must have written its first checkpoint.")
    else:
        steps.next_links(source, found[1], found[0].name, made)
        steps.progressive(space, source, found[1], found[0])

if under_way := running or starting:
    answer = f"**Soon**: {plain(under_way.name)} is being made."
elif found is not None:
    bits = number_in(found[0].result(), "bits_per_byte", 0.0)
    told = f" at {number(bits, 3)} bits per byte of its held-out text" if bits else ""
    answer = f"**Yes: {plain(found[0].name)}**{told}. Use it on the page Transfer, or make the next size with it."
    answer += "".join(f" :material/warning: {plain(f'{told[:1].upper()}{told[1:]}.')}" for told in found[0].warnings)
elif tokenizers:
    answer = "**Not yet**: there is a tokenizer, a tiny helper is next."
else:
    answer = (
        "**None was made here yet.** If somebody has published a small model of the language, take that; else make one "
        "below, the smallest first: in minutes it shows whether text, tokenizer and transfer work together."
    )
with header.container():
    question(QUESTION, answer)
