"""The steps of the page Helper: the forms for a tokenizer and a helper, what came out, and what is next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from clp_core.data.contamination import STANDS_IN_IT
from clp_core.data.packing import document_bytes, estimate_tokens
from clp_core.data.text_sources import Texts
from clp_core.data.train_valid_split import HELD_OUT_BYTES, LEAST_EVERY
from clp_core.errors import InputError
from clp_core.files.artifacts import TOKENIZER_REPORT_FILE
from clp_core.files.hashing import fingerprint
from clp_core.files.json_files import number_in, read_state
from clp_core.helper.model_sizes import MOST_PASSES, SIZES, TOKENS_A_PARAMETER, HelperPlan
from clp_core.helper.pretrain_options import PretrainOptions
from clp_core.helper.pretraining import command_detached, submit_helper
from clp_core.helper.tokenizer_options import STYLES, TokenizerOptions
from clp_core.helper.tokenizer_report import TokenizerReport
from clp_core.helper.tokenizer_training import submit_tokenizer
from clp_core.hub.repo_id import is_hub_id
from clp_core.jobs import Job
from clp_core.options import command_of, help_of
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.device_choice import find_device
from clp_core.training.options import TrainOptions
from clp_core.training.throughput import RunScale, measured_speeds
from clp_core.transfer.options import TransferOptions
from clp_core.workspace import ModelEntry, Workspace
from components.jobs import badge, follow, last_of, wait_or_offer
from components.messages import cards, command, number, plain, share, size
from components.models import SelectedPair, choose_model, folder_of, is_confined, opened_vocabulary
from components.models import texts as texts_here
from components.navigation import kept, one_of, put, remember, remembered
from components.path_confinement import OutsideError
from components.targets import targets_of

HELD_OUT_HERE = "(hold out a part of the text)"
SAMPLE_BYTES = 4_000_000


def title(label: str, is_done: bool, doing: str = "") -> None:
    """Head a step with its state."""
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown(f"**{label}**")
    row.badge(doing or ("done" if is_done else "open"), color="blue" if doing else "green" if is_done else "gray")


def choose_texts() -> list[Path]:
    """Let the user choose texts of the language; they are kept in the URL. Parts cut off by a helper come last."""
    paths = {path.name: path for path in texts_here()}
    offered = sorted(paths, key=lambda name: ("valid" in name, name.endswith("-train.txt"), name))
    if "widget_texts" not in st.session_state:
        asked = remembered("texts", offered[0]).split(",")
        st.session_state["widget_texts"] = [name for name in asked if name in paths] or offered[:1]
    chosen = st.multiselect("Text", offered, key="widget_texts", help=help_of(PretrainOptions, "text"))
    if chosen:
        remember("texts", ",".join(chosen))
    return [paths[name] for name in chosen]


def text_cards(paths: Sequence[Path], vocabulary: Vocabulary | None) -> None:
    """Say how much text there is; tokens are known once there is a tokenizer."""
    n_bytes = sum(path.stat().st_size for path in paths)
    try:
        documents, is_estimate = rough_documents(tuple(stamp(path) for path in paths))
        tokens = text_tokens(paths, vocabulary) if vocabulary is not None else None
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    cards(
        {
            "Size": (size(n_bytes), "of the files"),
            "Documents": (
                number(documents),
                "by the length of the first ones" if is_estimate else "one per line, object or row",
            ),
            "Tokens": (number(tokens), "under the tokenizer chosen below; about, where the text is large"),
        }
    )


def stamp(path: Path) -> tuple[str, int, int]:
    """Return a path with its size and time, which change when its content does."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


@st.cache_data(max_entries=16, show_spinner=False)
def rough_documents(stamps: tuple[tuple[str, int, int], ...]) -> tuple[int, bool]:
    """Return the documents of some texts, and whether the number is an estimate from their beginnings.

    Raises:
        InputError: one of them cannot be read.
    """
    total, is_estimate = 0.0, False
    for path, _, _ in stamps:
        texts = Texts.open([path])
        n = n_bytes = 0
        for document in texts:
            n, n_bytes = n + 1, n_bytes + document_bytes(document)
            if n_bytes >= SAMPLE_BYTES:
                break
        is_whole = n_bytes < SAMPLE_BYTES
        total += n if is_whole else max(n, n * texts.text_bytes / n_bytes)
        is_estimate |= not is_whole
    return round(total), is_estimate


def text_tokens(paths: Sequence[Path], vocabulary: Vocabulary) -> int:
    """Return the tokens of some texts under a tokenizer, about."""
    return counted_tokens(tuple(stamp(path) for path in paths), vocabulary.content, vocabulary)


@st.cache_data(max_entries=16, show_spinner="Counting tokens")
def counted_tokens(stamps: tuple[tuple[str, int, int], ...], content: str, _vocabulary: Vocabulary) -> int:
    """Count once for each content of texts and tokenizer."""
    return estimate_tokens(Texts.open([path for path, _, _ in stamps]), _vocabulary) or 0


def choose_tokenizer(space: Workspace) -> Path | None:
    """Let the user choose one of the tokenizers made here, the newest first; ``None`` where there is none."""
    found = [path for path in space.list_tokenizers() if is_confined(path, space)]
    folders = {path.name: path for path in reversed(found)}
    if not folders:
        return None
    if st.session_state.get("tokenizer_asked_for") in folders:
        put("tokenizer", st.session_state.pop("tokenizer_asked_for"))
    about = "a folder in the workspace's tokenizers"
    return folders[one_of(st.container(), "Tokenizer", "tokenizer", list(folders), about)]


def choose_size(place: DeltaGenerator) -> str:
    """Let the user choose a size, the smallest first; the choice is kept in the URL."""
    widget = kept("size", "tiny")
    if st.session_state[widget] not in SIZES:
        st.session_state[widget] = "tiny"
    chosen = place.selectbox("Size", list(SIZES), key=widget, help=help_of(PretrainOptions, "size")) or "tiny"
    remember("size", chosen)
    return chosen


def vocabulary_in(folder: Path) -> Vocabulary:
    """Return the vocabulary of a tokenizer, read once."""
    return opened_vocabulary(str(folder), fingerprint(folder))


def tokenizer_report(folder: Path) -> None:
    """Show what was measured of a tokenizer when it was trained."""
    file = folder / TOKENIZER_REPORT_FILE
    try:
        report = TokenizerReport.of_json(read_state(file))
    except ValueError:
        told = f"{file} is missing or damaged, so this tokenizer's figures are unknown."
        st.warning(plain(told), icon=":material/warning:")
        return
    on = f"measured on {report.measured_on}"
    figures = {
        "Tokens": (number(report.size), f"style {report.style}, ends texts with {report.end_of_text}"),
        "Bytes a token": (number(report.bytes_per_token, 2), on),
        "Tokens a word": (number(report.fertility, 2), on),
    }
    if source := report.source:
        raw, canonical = source.raw, source.canonical
        figures |= {
            "Overlap": (
                number(canonical.overlap),
                f"tokens that {source.name} has by their bytes; {raw.overlap:,} by their strings",
            ),
            "Running text": (share(canonical.coverage), "share of the running tokens whose rows are copied"),
            "Source's bytes": (number(source.bytes_per_token, 2), "bytes a token under the source's own tokenizer"),
        }
    cards(figures)
    for warning in report.warnings:
        st.warning(plain(warning), icon=":material/warning:")


def tokenizer_form(space: Workspace, paths: Sequence[Path], names: Sequence[str], default_source: str) -> None:
    """Show the form for a new tokenizer, its command and its button."""
    left, right = st.columns(2)
    with left:
        source = choose_model("Source model", "source", names, default_source, help_of(TokenizerOptions, "source"))
        stem = paths[0].name.partition(".")[0]
        name = st.text_input("Name of the tokenizer", stem, key=f"tokenizer_name_{stem}", help="a folder of this name")
    with right:
        vocab_size = st.number_input(
            "Tokens (0: by the text's size)", 0, step=1024, help=help_of(TokenizerOptions, "vocab_size")
        )
        style = st.selectbox("Style", STYLES, help=help_of(TokenizerOptions, "style")) or STYLES[0]
    row = st.container(horizontal=True)
    split_digits = row.checkbox("Split digits", help=help_of(TokenizerOptions, "split_digits"))
    nfc = row.checkbox("NFC", help=help_of(TokenizerOptions, "normalization"))
    overwrite = row.checkbox("Replace it if it exists", help=help_of(TokenizerOptions, "overwrite"))
    if bad_name(name):
        st.error("Give the tokenizer a plain name without slashes.", icon=":material/error:")
        return
    options = TokenizerOptions(
        text=tuple(map(str, paths)),
        output=str(space.tokenizers / name.strip()),
        vocab_size=int(vocab_size),
        source=located(source),
        style=style,
        split_digits=split_digits,
        normalization="nfc" if nfc else "none",
        overwrite=overwrite,
    )
    job = last_of("tokenizer", "output", options.output)
    is_running = job is not None and not job.status().is_over
    if Path(options.output).exists() and not overwrite and not is_running:
        command(command_of(options))
        told = f"{plain(name.strip())} exists and is kept. Choose another name, or tick the box above."
        st.info(told, icon=":material/info:")
    elif wait_or_offer(job, "Train the tokenizer", command_of(options)):
        submit_tokenizer(space, options)
        st.session_state["tokenizer_asked_for"] = name.strip()
        st.rerun()


def bad_name(name: str) -> bool:
    """Say whether a text is no plain name of a folder."""
    name = name.strip()
    return not name or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable()


def located(reference: str) -> str:
    """Return a model's folder here, or its Hub id where it is not here yet; empty stays empty.

    Raises:
        InputError: it is neither.
    """
    if not reference:
        return ""
    try:
        return str(folder_of(reference))
    except OutsideError:
        raise
    except InputError:
        if is_hub_id(reference):
            return reference
        raise


def size_table(vocabulary: Vocabulary, tokens: int) -> None:
    """Show what each size is, wants and would get from the text."""
    plans = [HelperPlan(shape, vocabulary.n_ids, tokens) for shape in SIZES.values()]
    table = pd.DataFrame(
        {
            "size": [plan.size.name for plan in plans],
            "width": [plan.size.width for plan in plans],
            "layers": [plan.size.layers for plan in plans],
            "parameters": [plan.parameters for plan in plans],
            "without rows": [plan.size.body_parameters for plan in plans],
            "wants": [plan.wanted_tokens for plan in plans],
            "gets": [plan.tokens for plan in plans],
            "a parameter": [plan.tokens_a_parameter for plan in plans],
        }
    )
    about = {
        "parameters": "embeddings once: input and output share them",
        "without rows": "parameters without the embeddings",
        "wants": f"tokens, {TOKENS_A_PARAMETER} a parameter",
        "gets": f"tokens: what it wants, {MOST_PASSES} passes over the text at most",
    }
    config: dict[str, Any] = {
        name: st.column_config.NumberColumn(format="localized", help=told) for name, told in about.items()
    }
    config["a parameter"] = st.column_config.NumberColumn(format="%.2g", help="tokens it gets a parameter")
    told = "Sizes of helpers with their parameters and the tokens they want and get"
    st.dataframe(table, hide_index=True, column_config=config, alt=told)


def time_told(plan: HelperPlan, runs: Sequence[Job]) -> str:
    """Say how long a helper will take at the pace of runs of its size here."""
    speeds = measured_speeds(runs, RunScale(plan.parameters, find_device().kind))
    if not speeds:
        return "No helper of this size and vocabulary was trained here yet, so the time is not known."
    return f"About {number(plan.tokens / min(speeds) / 60, 1)} minutes at the pace of the last one of this size."


def helper_form(space: Workspace, paths: Sequence[Path], tokenizer: Path, runs: Sequence[Job]) -> None:
    """Show the sizes, the form for a helper, its command and its button."""
    vocabulary = vocabulary_in(tokenizer)
    table = st.container()
    left, middle, right = st.columns(3)
    chosen = choose_size(left)
    limit = middle.number_input(
        "Tokens to train on (0: as planned)", 0, step=100_000, help="0: what the table says it gets"
    )
    held_out = {path.name: str(path) for path in texts_here() if path not in paths}
    picked = right.selectbox("Held-out text", [HELD_OUT_HERE, *held_out], help=help_of(PretrainOptions, "eval_text"))
    tokens = text_tokens(paths, vocabulary)
    if picked not in held_out:  # a part of the text is not trained on
        n_bytes = sum(path.stat().st_size for path in paths)
        tokens = round(tokens * (1 - min(1 / LEAST_EVERY, HELD_OUT_BYTES / max(n_bytes, 1))))
    with table:
        size_table(vocabulary, tokens)
    name = left.text_input("Name of the run", f"{chosen} helper", key=f"helper_name_{chosen}")
    seed = middle.number_input("Seed", 0, value=42, help=help_of(PretrainOptions, "seed"))
    options = PretrainOptions(
        tokenizer=str(tokenizer),
        text=tuple(map(str, paths)),
        eval_text=held_out.get(picked or HELD_OUT_HERE, ""),
        size=chosen,
        max_tokens=int(limit),
        seed=int(seed),
        name=name.strip(),
    )
    plan = HelperPlan(SIZES[chosen], vocabulary.n_ids, tokens, options.max_tokens)
    st.caption(plain(f"{plan.told}. {plan.size.suits[0].upper()}{plan.size.suits[1:]}. {time_told(plan, runs)}"))
    if plan.shortfall:
        st.warning(plain(plan.shortfall[0].upper() + plan.shortfall[1:]) + ".", icon=":material/warning:")
    job = last_of("pretrain", "tokenizer", str(tokenizer))
    if wait_or_offer(job, "Make the helper", command_detached(options)):
        submit_helper(space, options)
        st.rerun()


def show_run(job: Job) -> None:
    """Show a helper's run, its progress while it goes on, and a way to watch it."""
    if job.status().is_over:
        row = st.container(horizontal=True, vertical_alignment="center")
        with row:
            st.markdown(plain(job.name))
            badge(job)
    else:
        follow(job)
    st.page_link("pages/runs.py", label="Watch it", icon=":material/monitoring:", query_params={"run": job.id})


def best_helper(runs: Sequence[Job]) -> tuple[Job, str] | None:
    """Return the best run with a checkpoint, and the name of its newest checkpoint as a model of the workspace.

    The best has the fewest bits per byte of those that were scored on the newest one's held-out text, without a part of
    it in their training text; where none was, it is the newest.
    """
    made = [job for job in runs if job.checkpoints()]
    if not made:
        return None
    text = scored_on(made[0])
    clean = [job for job in made if scored_on(job) == text and not any(STANDS_IN_IT in told for told in job.warnings)]
    scored = [(bits, i) for i, job in enumerate(clean) if (bits := number_in(job.result(), "bits_per_byte", 0.0))]
    job = clean[min(scored)[1]] if scored else made[0]
    return job, f"{job.id}/{job.checkpoints()[-1].name}"


def scored_on(job: Job) -> str | None:
    """Return a name for the content of a run's held-out text."""
    return job.spec.get("fingerprints", {}).get("eval_text")


def progressive(space: Workspace, source: str, helper: str, run: Job) -> None:
    """Show how the next size is made from a small source and this helper, sooner than from random weights."""
    st.markdown(
        "**The next size is made by a transfer, not from random weights.** Take a *small* model of the source language "
        "(some hundred million parameters) as the source and this helper as the helper, and train the target on: that "
        "is the helper for a larger source."
    )
    output = str(space.models / "next-helper")
    transfer = TransferOptions(located(source) or "SMALL_SOURCE", str(folder_of(helper)), output, "auto")
    given = {"text": [], "eval_text": ""} | run.spec["arguments"]
    train = TrainOptions(output, tuple(given["text"]), given["eval_text"])
    st.code(f"{command_of(transfer)}\n{command_of(train)}", language="bash", wrap_lines=True)


def targets_made(source: str, helper: str) -> list[ModelEntry]:
    """Return what transfers of this pair wrote, and the checkpoints trained from that."""
    return targets_of(SelectedPair(source, helper)) if source else []


def next_links(source: str, helper: str, name: str, made: Sequence[ModelEntry]) -> None:
    """Link to what comes next: the transfer, the training of what it gave, and the transfer with what that gave.

    Args:
        source: the source in use.
        helper: the helper as a model of the workspace.
        name: what the helper's run is called.
        made: see ``targets_made``.
    """
    st.page_link(
        "pages/transfer.py",
        label=f"Transfer with {plain(name)}, {plain(Path(helper).name)}",
        icon=":material/move_down:",
        query_params={"source": source, "helper": helper},
    )
    for entry in made:
        if entry.kind == "target":
            label, icon = f"Train {plain(entry.name)} on: the next helper", ":material/model_training:"
            st.page_link("pages/train.py", label=label, icon=icon, query_params={"model": entry.name})
    trained = [entry for entry in made if entry.kind == "checkpoint"]
    if trained:
        newest = max(trained, key=lambda entry: entry.folder.stat().st_mtime)
        label = f"Transfer with the next helper, {plain(newest.name)}: choose a larger source there"
        st.page_link(
            "pages/transfer.py", label=label, icon=":material/move_down:", query_params={"helper": newest.name}
        )
