"""What does it say? One prompt for several checkpoints, side by side, as they write."""

import streamlit as st

from clp_core.errors import ClpError, InputError
from clp_core.options import command_of
from clp_core.playground.session import ask, sessions
from components import playground_view as view
from components.messages import plain, question
from components.models import models, workspace
from components.navigation import opened_by_app

ANSWERS_S = 0.5
MEMORY_S = 1.0

opened_by_app()
space = workspace()
entries = models()
if not entries:
    question("What does it say?", "There is no checkpoint to ask yet.")
    st.info(
        f"Write a target on the page Transfer, put a model into {space.models}, or run `clp demo`.",
        icon=":material/info:",
    )
    st.page_link("pages/transfer.py", label="Open Transfer", icon=":material/arrow_forward:")
    st.stop()
header = st.container()
with header:
    question("What does it say?")
answer_line = header.empty()
answer_line.markdown("Choose checkpoints and send a prompt.")
labels = view.labels_of(entries)
folders = view.choose_models(entries, labels)
if not folders:
    st.info("Choose a checkpoint.", icon=":material/info:")
    st.stop()
options, sent = view.prompt_form(folders)
again = st.session_state.pop("ask_again", False)
if sent or again:
    try:
        with st.spinner("Sending"):
            ask(space, options)
    except ClpError as error:
        st.error(plain(str(error)), icon=":material/error:")

every = sessions(space)
living = [session for session in every if not session.job.status().is_over]
session = view.latest_session(every, folders)
numbers = session.numbers() if session else []
going = bool(session and numbers and view.is_going(session, numbers[-1]))


def live_answers() -> None:
    """Show the answers to the last prompt; drawn anew twice a second while they are written."""
    assert session is not None
    status = session.job.status()
    try:
        asked, answers = session.request(numbers[-1]), view.answers_of(session, numbers[-1])
    except InputError as error:
        st.warning(plain(str(error)), icon=":material/warning:")
        return
    if going:
        view.under_way(session, numbers[-1])
    if status.state in ("failed", "lost"):
        st.error(plain(f"The session has ended: {status.reason}."), icon=":material/error:")
        st.button(
            "Start again",
            icon=":material/restart_alt:",
            on_click=lambda: st.session_state.update(ask_again=True),
            help="starts a session with these checkpoints and sends the prompt above",
        )
    view.show_answers(answers, asked, labels, alive=not status.is_over)
    if going and not view.is_going(session, numbers[-1]):
        st.rerun()


def live_memory() -> None:
    """Say what memory is held and until when."""
    has_news = session is not None and session.numbers() != numbers  # from another tab
    if has_news or any(found.job.status().is_over for found in living):
        st.rerun()
    for found in living:
        view.memory(found, labels)


if session and numbers:
    if going:
        answer_line.markdown(f"Prompt {numbers[-1]} is being answered.")
    else:
        try:
            answer_line.markdown(view.summary(view.answers_of(session, numbers[-1]), labels))
        except InputError:
            answer_line.markdown(f"Prompt {numbers[-1]} could not be read.")
    st.fragment(live_answers, run_every=ANSWERS_S if going else None)()
if living:
    st.fragment(live_memory, run_every=MEMORY_S)()
else:
    st.caption("No memory is held. A prompt loads the checkpoints into a session, which ends after 120 s without one.")
with st.expander("On the command line", icon=":material/terminal:"):
    st.code(command_of(options), language="bash", wrap_lines=True)
if session:
    view.earlier(session, numbers[:-1], labels)
