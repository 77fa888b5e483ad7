"""Targets of the pair in use, and the explainer of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from clp_core.explain import Explainer, read_report
from clp_core.folders import fingerprint
from clp_core.prepared import Prepared
from clp_core.workspace import ModelEntry
from components.models import Pair, folder_of, models


def targets_of(pair: Pair) -> list[ModelEntry]:
    """Return the models that a transfer of this pair wrote, and the checkpoints trained from them."""
    source, helper = str(folder_of(pair.source)), str(folder_of(pair.helper))
    found = []
    for entry in models():
        report = report_of(str(entry.folder), fingerprint(entry.folder)) if entry.kind != "model" else None
        if report and report["source"] == source and report["helper"] == helper:
            found.append(entry)
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def report_of(folder: str, content: str) -> dict[str, Any] | None:
    """Return the report in a folder, or ``None`` where no transfer wrote it."""
    from clp_core.errors import InputError

    try:
        return read_report(Path(folder))
    except InputError:
        return None


@st.cache_resource(max_entries=8, show_spinner="Reading the provenance")
def explainer_of(folder: str, content: str, _helper: Prepared) -> Explainer:
    """Return the explainer of a target, its anchors ready."""
    return Explainer.open(Path(folder), _helper.rows("input"), _helper.meta["content"])
