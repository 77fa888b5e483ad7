"""The report of a transfer, as the page shows it once it is over."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from clp_core.jobs import Job
from clp_core.reports.transfer_report import TransferReport, ZeroStep
from clp_core.workspace import Workspace
from components.jobs import result_or_error
from components.messages import cards, number, plain, share
from components.models import models


def show_report(written: Job, space: Workspace) -> None:
    """Show what the last transfer did, or why it failed."""
    st.divider()
    state = written.status()
    if state.state != "finished":
        st.error(plain(f"The last transfer {state.state}: {state.reason}"), icon=":material/error:")
    else:
        report = result_or_error(written, TransferReport.of_json)
        if report is None:
            return
        st.subheader(f"Report of {plain(written.name)}")
        for warning in report.warnings:
            st.warning(plain(warning), icon=":material/warning:")
        if report.auto:
            st.info(plain(f"auto chose {report.auto.reason}."), icon=":material/auto_awesome:")
        zero = report.zero_step or ZeroStep()
        cards(
            {
                "Copied": (number(report.overlap), f"{share(report.share_of_target)} of the target vocabulary"),
                "Initialised": (number(report.missing), "missing tokens"),
                "Rows at risk": (number(report.health.rows_at_risk), "too long, cancelled or collapsed"),
                "Held-out cosine": (number(report.heldout.centred_cosine, 3), "on hidden anchors"),
                "Bits per byte": (
                    number(zero.bits_per_byte, 3),
                    "of the target on the text, before any training",
                ),
            }
        )
        if zero.sample:
            st.markdown("**What it says before any training** (60 tokens, temperature 0.8)")
            st.text(zero.sample)
        with st.expander("Files and full report"):
            folder = space.models / written.name
            st.code(report.output, language="text")
            if folder.is_dir():
                st.dataframe(
                    pd.DataFrame(
                        [(path.name, path.stat().st_size) for path in sorted(folder.iterdir())],
                        columns=["file", "bytes"],
                    ),
                    hide_index=True,
                    alt="Files of the target",
                )
            st.json(json.dumps(report.to_json()), expanded=False)
        checked = report.check.described if report.check else ""
        st.caption(
            plain(f"Written in {number(report.seconds, 1, 's')}." + (f" Checked: {checked}." if checked else ""))
        )
        if any(entry.folder == folder for entry in models()):
            st.page_link(
                "pages/train.py",
                label="Next: train it",
                icon=":material/model_training:",
                query_params={"model": written.name},
            )
