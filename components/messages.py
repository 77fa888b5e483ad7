"""Errors, commands and numbers as the pages show them."""

from __future__ import annotations

import html
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import streamlit as st

from clp_core.environment.memory_errors import explanation, is_out_of_memory
from clp_core.errors import ClpError, library_failure, system_failure
from clp_core.options import OptionsError
from clp_core.tokenization.scripts import no_formula, printable

log = logging.getLogger(__name__)

CARD_WIDTH = 172
"""Pixels of a metric card: five stand in a row of a wide window, and go on in the next row of a narrow one."""

THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Show an error that a user can act on as a message instead of a traceback."""
    try:
        yield
    except ClpError as error:
        st.error(plain(worded(error)), icon=":material/error:")
    except OSError as error:
        log.exception("a page failed")
        st.error(plain(system_failure(error)), icon=":material/error:")
    except BaseException as error:
        if not (told := explanation(error) if is_out_of_memory(error) else library_failure(error)):
            raise
        log.exception("a page failed")
        st.error(plain(told), icon=":material/error:")


def worded(error: ClpError) -> str:
    """Word an error for a page: values of options are named as fields, not as flags of the command line."""
    return error.for_page if isinstance(error, OptionsError) else str(error)


def plain(text: str) -> str:
    """Return text so that Markdown shows it as it is."""
    escaped = "".join(
        f"\\{character}" if character in "\\`*_{}[]()#+-.!|~>$:<&" else character for character in printable(text)
    )
    return escaped.replace("\n", " ")


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """Return a number with thin spaces between thousands and its unit; a dash where there is no finite one."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}".replace(",", THIN_SPACE)
    return f"{text}{THIN_SPACE}{unit}" if unit else text


def share(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent."""
    return number(None if value is None else 100 * value, digits, "%")


def size(n_bytes: float) -> str:
    """Return a number of bytes in MB or GB."""
    return number(n_bytes / 1e9, 2, "GB") if n_bytes >= 1e9 else number(n_bytes / 1e6, 1, "MB")


def question(title: str, answer: str = "") -> None:
    """Open a page: its question as the title, its answer below."""
    st.title(title)
    if answer:
        st.markdown(answer)


def cards(figures: Mapping[str, tuple[str, str]]) -> None:
    """Show a row of metric cards: label to value and help."""
    row = st.container(horizontal=True)
    for label, (value, about) in figures.items():
        row.metric(label, value, help=about or None, border=True, width=CARD_WIDTH)


def offer_file(label: str, content: Callable[[], bytes | str], name: str, kind: str, about: str | None = None) -> None:
    """Offer a file, which is written only when it is asked for.

    The page does not run again for it: a run forgets the files that were offered before it, and a server under load may
    do so before this one is written.
    """
    st.download_button(
        label, content, name, kind, icon=":material/download:", key=f"download_{name}", help=about, on_click="ignore"
    )


def offer_csv(table: pd.DataFrame, name: str, label: str = "Download as CSV") -> None:
    """Offer a table as a file; values that are not finite are left empty."""
    offer_file(label, lambda: csv_of(table), name, "text/csv")


def csv_of(table: pd.DataFrame) -> bytes:
    """Return a table as CSV; cells without a value, or with none that is finite, are empty.

    Text that a spreadsheet would take for a formula, as many tokens are, has a quote before it.
    """
    safe = table.copy(deep=False)
    for column in table.select_dtypes(exclude=["number", "bool"]).columns:
        safe[column] = [no_formula(cell) if isinstance(cell, str) else cell for cell in table[column]]
    return safe.replace([math.inf, -math.inf], math.nan).to_csv(index=False).encode()


def command(text: str) -> None:
    """Show the exact command that will run, copyable."""
    st.caption("This is what will run:")
    st.code(text, language="bash", wrap_lines=True)


def escaped(text: str) -> str:
    """Return text for use in HTML."""
    return html.escape(text, quote=True)
