"""What the page Playground shows: the choice of checkpoints, the form, the answers, the memory that is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from clp_core.errors import InputError
from clp_core.jobs import Job
from clp_core.options import help_of
from clp_core.playground.answers import (
    END_OF_TEXT,
    FAILED,
    LENGTH,
    REFUSED,
    STOPPED,
    Completion,
    CompletionsReader,
    GenerateOptions,
)
from clp_core.playground.session import Session
from clp_core.tokenization.scripts import printable
from clp_core.workspace import ModelEntry
from components.jobs import progress
from components.messages import escaped, number, plain, size
from components.models import folder_of
from components.navigation import kept, put, remember

SIDE_BY_SIDE = 4
SHORT_PROMPT = 200
"""Characters of a prompt that is kept in the URL."""
SHOWN_PROMPT = 400
"""Characters of a prompt that are shown before an answer: its end."""
SHOWN_EARLIER = 10
WRITING, CUT_OFF = "writing", "cut off"
COLOURS = {
    WRITING: "blue",
    END_OF_TEXT: "green",
    LENGTH: "gray",
    STOPPED: "orange",
    CUT_OFF: "red",
    REFUSED: "red",
    FAILED: "red",
}
SHOWN = {LENGTH: "token limit"}
STYLE = """
<style>
.said { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.6; min-height: 6.4em; }
.said .prompt { opacity: 0.55; }
</style>
"""


def labels_of(entries: Sequence[ModelEntry]) -> dict[str, str]:
    """Return what to call each model, by its folder: a checkpoint by its run's name and its step."""
    labels = {}
    for entry in entries:
        label = entry.name
        if entry.kind == "checkpoint":
            run = Job(entry.folder.parent.parent)
            label = f"{run.name} ({run.id[-4:]}), step {entry.folder.name.rpartition('-')[2]}"
        labels[str(entry.folder.resolve())] = label
    return labels


def label_of(folder: str, labels: Mapping[str, str]) -> str:
    """Return what to call the model in a folder, of the workspace or from elsewhere."""
    return labels.get(folder, Path(folder).name)


def choose_models(entries: Sequence[ModelEntry], labels: Mapping[str, str]) -> list[str]:
    """Let the user choose models of the workspace or type paths; the choice is kept in the URL. Return their folders.

    Raises:
        InputError: one of them is not here, or lies where pages may not read.
    """
    likely = next((entry for entry in reversed(entries) if entry.kind != "model"), entries[0])
    widget = kept("models", likely.name)
    if isinstance(st.session_state[widget], str):
        asked = [name for name in dict.fromkeys(st.session_state[widget].split(",")) if name]
        st.session_state[widget] = asked[:SIDE_BY_SIDE]
    names = {entry.name: labels[str(entry.folder.resolve())] for entry in entries}
    chosen = st.multiselect(
        "Checkpoints",
        list(dict.fromkeys([*names, *st.session_state[widget]])),
        key=widget,
        format_func=lambda name: names.get(name, name),
        max_selections=SIDE_BY_SIDE,
        accept_new_options=True,
        placeholder="models of the workspace, or paths",
        help=f"up to {SIDE_BY_SIDE}: models, targets and the checkpoints of runs",
    )
    remember("models", ",".join(chosen))
    return list(dict.fromkeys(str(folder_of(name)) for name in chosen))


def prompt_form(folders: Sequence[str]) -> tuple[GenerateOptions, bool]:
    """Show the prompt and its settings; return them as they were last sent, and whether that was now."""
    widget = kept("prompt", "")
    with st.form("ask", border=False):
        prompt = st.text_area(
            "Prompt",
            key=widget,
            height=100,
            help=about("prompt"),
            placeholder="Without one the models begin from nothing",
        )
        with st.expander("Settings", icon=":material/tune:"):
            options = settings(folders, prompt)
        sent = st.form_submit_button("Send", type="primary", icon=":material/send:")
    if 0 < len(prompt) <= SHORT_PROMPT:
        remember("prompt", prompt)
    else:
        st.session_state["kept_prompt"] = prompt
        st.query_params.pop("prompt", None)
    return options, sent


def about(name: str) -> str:
    """Return the help of a setting."""
    return help_of(GenerateOptions, name)


def settings(folders: Sequence[str], prompt: str) -> GenerateOptions:
    """Show the settings of a prompt, which are kept in the URL; return all of it."""
    left, middle, right = st.columns(3, gap="medium")
    max_tokens = left.number_input(
        "Tokens at most", 1, None, 60, key="tokens", bind="query-params", help=about("max_tokens")
    )
    temperature = middle.slider(
        "Temperature", 0.0, 2.0, 0.8, 0.05, key="temperature", bind="query-params", help=about("temperature")
    )
    seed = right.number_input("Seed", 0, None, 42, key="seed", bind="query-params", help=about("seed"))
    top_k = left.number_input("Top k", 0, None, 50, key="top_k", bind="query-params", help=about("top_k"))
    top_p = middle.slider("Top p", 0.05, 1.0, 1.0, 0.05, key="top_p", bind="query-params", help=about("top_p"))
    penalty = right.slider(
        "Repetition penalty",
        1.0,
        2.0,
        1.0,
        0.05,
        key="penalty",
        bind="query-params",
        help=about("repetition_penalty"),
    )
    ignore_end = st.toggle("Ignore the end of text", key="go_on", bind="query-params", help=about("ignore_end"))
    return GenerateOptions(
        tuple(folders),
        prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=penalty,
        seed=seed,
        ignore_end=ignore_end,
    )


def latest_session(found: Sequence[Session], folders: Sequence[str]) -> Session | None:
    """Return the newest session, over or not, that holds these models."""
    return next((session for session in found if set(folders) <= set(session.models)), None)


@st.cache_resource(max_entries=200, show_spinner=False)
def reader_of(path: str, models: tuple[str, ...]) -> CompletionsReader:
    """Keep the reader of the answers to a prompt, which goes on where it stopped."""
    return CompletionsReader(Path(path), models)


def answers_of(session: Session, prompt: int) -> list[Completion]:
    """Return the answers to a prompt as they stand.

    Raises:
        InputError: the prompt's file cannot be used.
    """
    return reader_of(str(session.answers_file(prompt)), session.request(prompt).models).read()


def is_going(session: Session, prompt: int) -> bool:
    """Say whether a prompt is still to be answered, by a session that lives."""
    try:
        return not all(answer.stopped for answer in answers_of(session, prompt)) and not session.job.status().is_over
    except InputError:
        return False


def summary(answers: Sequence[Completion], labels: Mapping[str, str]) -> str:
    """Answer the page's question in one sentence."""
    told = []
    for answer in answers:
        state = answer.stopped or CUT_OFF
        ended = "" if state in (END_OF_TEXT, LENGTH) else f" ({state})"
        told.append(f"**{plain(label_of(answer.model, labels))}** wrote {number(answer.tokens)} tokens{ended}")
    return f"{', '.join(told)}."


def show_answers(
    answers: Sequence[Completion], options: GenerateOptions, labels: Mapping[str, str], *, alive: bool
) -> None:
    """Show answers side by side, each as the model wrote it."""
    row = st.container(horizontal=True)
    for answer in answers:
        with row.container(border=True):
            card(answer, options.prompt, label_of(answer.model, labels), alive=alive)


def card(answer: Completion, prompt: str, label: str, *, alive: bool) -> None:
    """Show one answer: its text behind the prompt, and its figures."""
    state = answer.stopped or (WRITING if alive else CUT_OFF)
    st.markdown(f"**{plain(label)}**")
    shown = prompt if len(prompt) <= SHOWN_PROMPT else "…" + prompt[-SHOWN_PROMPT:]
    body = f'<span class="prompt">{escaped(printable(shown))}</span>{escaped(printable(answer.text))}'
    st.html(f'{STYLE}<div class="said" dir="auto">{body}</div>')
    if answer.error:
        st.warning(plain(answer.error), icon=":material/warning:")
    st.badge(SHOWN.get(state, state), color=COLOURS[state])  # type: ignore[arg-type]
    told = [f"{number(answer.tokens)} tokens", number(answer.tokens_per_s, 0, "tokens/s")]
    if answer.prompt_tokens is not None:
        told.append(f"prompt {number(answer.prompt_tokens)} tokens")
    st.caption(
        " · ".join(told),
        help="The pace is that of the model's own work, on the prompt too; several models take turns, a token each.",
    )
    if answer.mean_log_p is not None:
        st.caption(
            f"{number(-answer.mean_log_p, 2)} nats a token · {number(answer.bits_per_byte, 2)} bits a byte",
            help="How sure the model was of its own text, before temperature and cuts: mean log-probability of a "
            "token, and bits a byte, which can be compared across tokenizers. Sure is not good: a model that repeats "
            "itself is sure.",
        )


def under_way(session: Session, prompt: int) -> None:
    """Show how far a session is that loads its models, and offer to end the answers."""
    if not session.held:
        progress(session.job)
    elif not session.answers_file(prompt).exists():
        st.caption("Waits until the prompts before it are answered.")
    st.button("Stop", icon=":material/stop:", on_click=session.stop, args=(prompt,), help="ends these answers")


def memory(session: Session, labels: Mapping[str, str]) -> None:
    """Say what memory a living session holds and until when; offer to give it back."""
    names = ", ".join(label_of(model, labels) for model in session.models)
    held, left = session.held, session.seconds_left
    told = "takes memory" if not held else f"{size(held['memory_bytes'])} on {held['name']}"
    if session.job.stop_asked:
        until = "being given back"
    elif left is not None:
        until = f"given back in {number(left, 0, 's')} without a prompt"
    else:
        until = session.phase
    row = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute")
    row.markdown(f":material/memory: **{plain(names)}**: {plain(told)}, {plain(until)}", width="content")
    row.button(
        "Give the memory back",
        key=f"release_{session.job.id}",
        icon=":material/eject:",
        disabled=session.job.stop_asked,
        help="ends the session; the next prompt starts another one",
        on_click=session.job.ask_stop,
    )
    if held.get("why"):
        st.caption(plain(f"On the CPU, because {held['why']}."))


def earlier(session: Session, numbers: Sequence[int], labels: Mapping[str, str]) -> None:
    """Show the earlier prompts of a session with their answers, the latest first."""
    if not numbers:
        return
    st.subheader("Earlier prompts")
    for prompt in sorted(numbers, reverse=True)[:SHOWN_EARLIER]:
        try:
            options, answers = session.request(prompt), answers_of(session, prompt)
        except InputError as error:
            st.caption(plain(f"{prompt}: {error}"))
            continue
        line = " ".join(options.prompt.split())
        with st.expander(plain(f"{prompt}: {line[:80] or '(no prompt)'}")):
            show_answers(answers, options, labels, alive=not session.job.status().is_over)
            st.button(
                "Use this prompt",
                key=f"again_{session.job.id}_{prompt}",
                icon=":material/replay:",
                on_click=put,
                args=("prompt", options.prompt),
            )
