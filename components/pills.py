"""Tokens as soft pills: single ones, lines of them, and two tokenisations of one text above each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from clp_core.figures import COLOURS, MARK
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.text_coverage import Segment
from components.messages import escaped, number, plain

STYLE = f"""
<style>
.pills {{ line-height: 2.1; font-family: monospace; font-size: 0.9rem; overflow-wrap: anywhere; direction: ltr; }}
.pill {{ display: inline-block; line-height: 1.5; padding: 0 4px; margin: 0 1px; border-radius: 6px;
  border: 1px solid; white-space: pre-wrap; unicode-bidi: isolate; }}
.segment {{ display: inline-flex; flex-direction: column; vertical-align: top; margin: 0 1px 10px;
  border-bottom: 3px solid transparent; line-height: 1.75; }}
.segment.differs {{ border-bottom-color: {MARK}; }}
.segment span.line {{ min-height: 1.75em; white-space: nowrap; }}
</style>
"""
MOST_PILLS = 2000


def pill(text: str, status: str, title: str = "") -> str:
    """Return one token as HTML; its text is escaped."""
    colour = COLOURS.get(status, COLOURS["special"])
    style = f"background:{colour}2e;border-color:{colour}80"
    return f'<span class="pill" dir="auto" style="{style}" title="{escaped(title)}">{escaped(text)}</span>'


def legend(statuses: Sequence[str]) -> str:
    """Return the meaning of the colours as HTML."""
    return f'{STYLE}<div class="pills">{" ".join(pill(status, status) for status in statuses)}</div>'


def show_pill(text: str, status: str) -> None:
    """Show one token."""
    st.html(f'{STYLE}<div class="pills">{pill(text, status)}</div>')


def show_segments(overlap: Overlap, segments: Iterable[Segment]) -> None:
    """Show two tokenisations of a text, the source's above the target's, aligned where both cut.

    Where they cut differently the stretch is underlined. Colours: is the token in both vocabularies?
    """
    used = overlap.used_source_ids
    source, target = overlap.source, overlap.target
    body: list[str] = []
    n_pills = n_differ = n_segments = 0
    for segment in segments:
        if n_pills >= MOST_PILLS:
            break
        above = [
            pill(
                source.shown(i), "special" if i in source.special_ids else "copied" if i in used else "missing", f"#{i}"
            )
            for i in segment.source
        ]
        below = [pill(target.shown(i), str(overlap.statuses[i]), f"#{i}") for i in segment.target]
        kind = "segment" if segment.agrees else "segment differs"
        lines = "".join(f'<span class="line">{"".join(line)}</span>' for line in (above, below))
        body.append(f'<span class="{kind}">{lines}</span>')
        n_pills += len(above) + len(below)
        n_segments += 1
        n_differ += not segment.agrees
    st.html(f'{STYLE}<div class="pills" data-testid="segments">{"".join(body)}</div>')
    limit = f" These are the first {number(n_pills)} tokens." if n_pills >= MOST_PILLS else ""
    st.caption(
        f"Above: {plain(source.name)} (source); below: {plain(target.name)} (target). They cut {number(n_differ)} of "
        f"{number(n_segments)} stretches differently; these are underlined.{limit}"
    )
