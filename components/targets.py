"""Targets of the pair in use, and the explainer of their rows."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from clp_core.files.hashing import fingerprint
from clp_core.geometry.embedding_cache import EmbeddingCache
from clp_core.jobs import Job, JobStore
from clp_core.reports.transfer_report import TransferReport
from clp_core.transfer.explanation import Explainer, read_report
from clp_core.workspace import ModelEntry
from components.models import SelectedPair, folder_of, models, workspace


def last_method_comparison(pair: SelectedPair) -> Job | None:
    """Return the newest finished comparison of the methods on a pair."""
    source, helper = str(folder_of(pair.source)), str(folder_of(pair.helper))
    for job in JobStore(workspace().jobs).jobs():
        told = job.spec.get("arguments", {})
        is_of_pair = told.get("source") == source and told.get("helper") == helper
        if job.kind == "compare-methods" and is_of_pair and job.status().state == "finished":
            return job
    return None


def targets_of(pair: SelectedPair) -> list[ModelEntry]:
    """Return the models that a transfer of this pair wrote, and the checkpoints trained from them."""
    folders = folder_of(pair.source), folder_of(pair.helper)
    prepared = EmbeddingCache.find(folders[1], workspace().cache)
    content = prepared.meta["content"] if prepared else None
    found = []
    for entry in models():
        report = report_of(str(entry.folder), fingerprint(entry.folder)) if entry.kind != "model" else None
        if report is None:
            continue
        written = Path(report.source), Path(report.helper)
        # A workspace may have been moved: then names are the same, and so is what is in the helper.
        is_moved = [path.name for path in written] == [path.name for path in folders]
        if written == folders or (is_moved and content is not None and report.helper_content == content):
            found.append(entry)
    return found


def before_and_after(targets: list[ModelEntry], entry: ModelEntry | None) -> tuple[str, str]:
    """Return the names of a target before training, and of its newest checkpoint after; empty where there is none."""
    if entry is None:
        return "", ""
    origin = {found.name: report_of(str(found.folder), fingerprint(found.folder)) for found in targets}
    outputs = {name: report.output if report else "" for name, report in origin.items()}
    same = [found for found in targets if outputs[found.name] == outputs[entry.name]]
    steps = {found.name: report.trained_steps or 0 if (report := origin[found.name]) else 0 for found in same}
    trained = {found.name for found in same if found.kind == "checkpoint" or steps[found.name]}  # or an exported one
    before = next((found.name for found in same if found.name not in trained), "")
    if entry.name in trained:
        return before or entry.name, entry.name if before else ""
    return entry.name, max(trained, key=lambda name: steps[name], default="")


@st.cache_data(max_entries=64, show_spinner=False)
def report_of(folder: str, content: str) -> TransferReport | None:
    """Return the report in a folder, or ``None`` where no transfer wrote it."""
    from clp_core.errors import InputError

    try:
        return read_report(Path(folder))
    except InputError:
        return None


@st.cache_resource(max_entries=8, show_spinner="Reading the provenance")
def explainer_of(folder: str, content: str, pair: str, _source: EmbeddingCache, _helper: EmbeddingCache) -> Explainer:
    """Return the explainer of a target, its anchors ready; ``pair`` names the present content of source and helper."""
    return Explainer.open(Path(folder), _helper.rows("input"), _helper.meta["content"], _source.vocabulary)
