"""Tokens as soft pills, line above line."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from clp_core.figures import COLOURS
from components.messages import escaped

STYLE = """
<style>
.pills { line-height: 2.1; font-family: monospace; font-size: 0.9rem; overflow-wrap: anywhere; }
.pill { display: inline-block; line-height: 1.5; padding: 0 4px; margin: 0 1px; border-radius: 6px; }
.pill { border: 1px solid; white-space: pre-wrap; }
</style>
"""
MAX_PILLS = 2000


def pill(text: str, status: str, title: str = "") -> str:
    """Return one token as HTML; its text is escaped."""
    colour = COLOURS.get(status, COLOURS["special"])
    style = f"background:{colour}2e;border-color:{colour}80"
    return f'<span class="pill" style="{style}" title="{escaped(title)}">{escaped(text)}</span>'


def legend(statuses: Sequence[str]) -> str:
    """Return the meaning of the colours as HTML."""
    return " ".join(pill(status, status) for status in statuses)


def show_pills(tokens: Sequence[tuple[str, str, str]]) -> None:
    """Show tokens: shown text, status, and what a pointer over it tells."""
    body = "".join(pill(*token) for token in tokens[:MAX_PILLS])
    st.html(f'{STYLE}<div class="pills">{body}</div>')
    if len(tokens) > MAX_PILLS:
        st.caption(f"The first {MAX_PILLS:,} of {len(tokens):,} tokens are shown.")
