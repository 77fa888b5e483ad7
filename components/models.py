"""Models as pages see them: the pair in use, where a model lies, and what was prepared of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from clp_core.demo import HELPER, SOURCE
from clp_core.errors import InputError
from clp_core.files.hashing import fingerprint
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.hub.download import cached
from clp_core.hub.repo_id import HubName, is_hub_id
from clp_core.jobs import JobStore
from clp_core.submission import submit_prepare
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.tokenizer_reading import TOKENIZER_FILES
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.workspace import ModelEntry, Workspace
from components.jobs import follow
from components.messages import plain
from components.navigation import remember, remembered
from components.path_confinement import OutsideError, confined

MAX_NAME = 1000


@dataclass(frozen=True)
class SelectedPair:
    """The models in use, as the user names them: a workspace name, a path, or a Hub id."""

    source: str
    helper: str


def workspace() -> Workspace:
    """Return the workspace."""
    return Workspace.current()


def models() -> list[ModelEntry]:
    """Return the models of the workspace, without those that are links to places where pages may not read."""
    space = workspace()
    return [entry for entry in space.list_models() if is_confined(entry.folder, space)]


def texts() -> list[Path]:
    """Return the texts of the workspace, without those that are links to places where pages may not read."""
    space = workspace()
    return [path for path in space.list_texts() if is_confined(path, space)]


def training_texts() -> list[Path]:
    """Return what a run of the workspace can be trained on, without links to places where pages may not read."""
    space = workspace()
    return [path for path in space.list_training_texts() if is_confined(path, space, deep=True)]


def is_confined(path: Path, space: Workspace, *, deep: bool = False) -> bool:
    """Say whether pages may read a path; see ``roots.confined``."""
    try:
        confined(path, space, deep=deep)
    except InputError:
        return False
    return True


def choose_model(label: str, key: str, names: Sequence[str], default: str, about: str = "") -> str:
    """Let the user choose a model of the workspace or type a path or Hub id; a choice is kept in the URL."""
    current = st.query_params.get(key) or st.session_state.get(f"kept_{key}") or default
    options = list(dict.fromkeys([*names, *([current] if current else [])]))
    chosen = st.selectbox(
        label,
        options,
        index=options.index(current) if current in options else None,
        accept_new_options=True,
        placeholder="a model of the workspace, a path or a Hub id",
        help=about or None,
        key=f"choose_{key}_{current}",
    )
    if chosen and chosen != current:
        remember(key, chosen)
        st.rerun()
    return current


def pair_bar() -> SelectedPair:
    """Show the pair in use with a way to change it; return it."""
    entries = models()
    names = [entry.name for entry in entries]
    plain_models = [entry.name for entry in entries if entry.kind == "model"]
    first = SOURCE if SOURCE in names else next(iter(plain_models), "")
    second = HELPER if HELPER in names else next(iter(plain_models[1:]), "")
    source, helper = remembered("source", first), remembered("helper", second)
    text, button = st.columns([3, 1], vertical_alignment="center")
    text.markdown(f"**{plain(source or 'no source')}** :material/arrow_forward: **{plain(helper or 'no helper')}**")
    with button.popover("Change pair", icon=":material/swap_horiz:", width="stretch"):
        choose_model("Source model", "source", names, first, "large model in the source language")
        choose_model("Helper model", "helper", names, second, "small model in the target language; owns the tokenizer")
    if not source or not helper:
        st.info(
            "Choose a source and a helper above, or run `clp demo` to unpack the demo pair.", icon=":material/info:"
        )
        st.page_link("pages/helper.py", label="No helper? Make one", icon=":material/egg:")
        st.stop()
    return SelectedPair(source, helper)


def folder_of(reference: str) -> Path:
    """Return the local folder of a model; nothing is downloaded here.

    Raises:
        InputError: there is no such folder, it is where pages may not read, and the Hub's cache does not hold such a
            model.
    """
    refuse_access_tokens([reference])
    space = workspace()
    entry = next((entry for entry in space.list_models() if entry.name == reference), None)
    if entry is not None:
        return confined(entry.folder, space)
    if "\0" in reference or len(reference) > MAX_NAME:
        raise InputError(f"there is no model whose name holds a NUL byte or more than {MAX_NAME} characters")
    path = Path(reference)
    if reference.startswith("~") or path.is_absolute() or ".." in path.parts or path.is_dir():
        folder = confined(path, space)
        if folder.is_dir():
            return folder
    name = HubName.parse(reference)
    found = cached(name) if name else None
    if found is not None:
        return found
    raise InputError(f"there is no model {reference} in the workspace, on this path or in the Hub's cache")


def prepared_or_stop(reference: str) -> EmbeddingCache:
    """Return what was prepared of a model; else offer to prepare it and end the page here."""
    found = prepared_or_offer(reference)
    return found if found is not None else st.stop()


def prepared_or_offer(reference: str) -> EmbeddingCache | None:
    """Return what was prepared of a model; else offer to prepare it in its place."""
    try:
        folder: Path | None = folder_of(reference)
    except OutsideError:
        raise
    except InputError:
        if not is_hub_id(reference) or reference.startswith((".", "/", "~")):
            raise
        folder = None
    found = EmbeddingCache.find(folder, workspace().cache) if folder else None
    if found is not None:
        return cached_prepared(str(found.path), found)
    offer_to_prepare(reference, str(folder or reference), is_download=folder is None)
    return None


def offer_to_prepare(reference: str, model: str, *, is_download: bool) -> None:
    """Show the button that prepares a model, and how its last preparation went."""
    jobs = [job for job in JobStore(workspace().jobs).jobs() if job.spec.get("arguments") == {"model": model}]
    if jobs and not jobs[0].status().is_over:
        follow(jobs[0])
        return
    doing = "Fetch it from the Hub and prepare" if is_download else "Prepare"
    st.info(
        f"**{plain(reference)}** is new here. Its tokenizer and embedding rows are read once; then pages open at once.",
        icon=":material/info:",
    )
    if jobs and jobs[0].status().state == "failed":
        st.error(plain(f"The last try failed: {jobs[0].status().reason}"), icon=":material/error:")
    st.code(shlex.join(["clp", "prepare", model]), language="bash")
    if st.button(f"{doing} {plain(reference)}", type="primary", key=f"prepare_{reference}"):
        submit_prepare(workspace(), model)
        st.rerun()


@st.cache_resource(max_entries=12, show_spinner=False)
def cached_prepared(path: str, _prepared: EmbeddingCache) -> EmbeddingCache:
    """Keep a prepared model, whose vocabulary is parsed on first use."""
    return _prepared


def vocabulary_or_stop(reference: str) -> Vocabulary:
    """Return a vocabulary: of a prepared model, or of a folder with a tokenizer.json; else offer to prepare it."""
    try:
        return vocabulary_of(reference)[0]
    except UnpreparedError:
        return prepared_or_stop(reference).vocabulary


class UnpreparedError(InputError):
    """A model must be prepared before its tokenizer can be read."""


def vocabulary_of(reference: str) -> tuple[Vocabulary, str]:
    """Return a vocabulary and the fingerprint of its folder, without preparing anything.

    Raises:
        UnpreparedError: the model is no folder here, or its tokenizer needs converting.
        InputError: what is in the folder is no tokenizer.
    """
    try:
        folder = folder_of(reference)
    except OutsideError:
        raise
    except InputError as error:
        if is_hub_id(reference) and not reference.startswith((".", "/", "~")):
            raise UnpreparedError(f"{reference} is not here yet; run `clp prepare {reference}`") from error
        raise
    content = fingerprint(folder)
    found = EmbeddingCache.find(folder, workspace().cache)
    if found is not None:
        return cached_prepared(str(found.path), found).vocabulary, content
    if (folder / "tokenizer.json").is_file():
        return opened_vocabulary(str(folder), content), content
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UnpreparedError(f"the tokenizer of {reference} must be converted; run `clp prepare {reference}`")
    raise InputError(f"{folder} holds no tokenizer (tokenizer.json or another vocabulary file)")


@st.cache_resource(max_entries=12, show_spinner="Reading the tokenizer")
def opened_vocabulary(folder: str, content: str) -> Vocabulary:
    """Open a tokenizer once for each content of its folder."""
    return Vocabulary.open(Path(folder), apart=True)


@st.cache_resource(max_entries=16, show_spinner="Matching the vocabularies")
def overlap_of(key: str, _source: Vocabulary, _target: Vocabulary, match: str) -> Overlap:
    """Match two vocabularies once."""
    return Overlap.of(_source, _target, match)


def overlap_key(pair: SelectedPair) -> str:
    """Return a key for the present content of the pair."""
    return f"{fingerprint(folder_of(pair.source))}-{fingerprint(folder_of(pair.helper))}"


def pair_overlap(pair: SelectedPair, match: str) -> Overlap:
    """Return the overlap of the pair in use."""
    source, target = vocabulary_or_stop(pair.source), vocabulary_or_stop(pair.helper)
    return overlap_of(overlap_key(pair), source, target, match)
