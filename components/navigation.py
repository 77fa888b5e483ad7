"""What streamlit's navigation leaves to a page: to be opened by app.py, and to keep its widgets in the URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.pages_manager import PagesManager

from clp_core.hub.access_tokens import refuse_access_tokens
from components.messages import plain


def opened_by_app() -> None:
    """Let app.py open this page.

    Until app.py has run once, a fresh server takes the files in pages/ for pages of the old kind and runs a deep link's
    page alone, without the navigation, the layout and the messages that app.py puts around it.
    """
    if PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def remembered(key: str, default: str) -> str:
    """Return a value from the URL, else from this session, else the default; keep it in both."""
    value = st.query_params.get(key) or st.session_state.get(f"kept_{key}") or default
    remember(key, value)
    return value


def remember(key: str, value: str) -> None:
    """Keep a value in the URL and in this session.

    Raises:
        InputError: it holds an access token for the Hub.
    """
    refuse_access_tokens([value])
    st.session_state[f"kept_{key}"] = value
    if value and st.query_params.get(key) != value:
        st.query_params[key] = value


def kept(key: str, default: str) -> str:
    """Return the key of a widget that starts with the value in the URL; after it, ``remember`` what it returned.

    A widget whose default follows the URL would become another widget with every change, and lose what comes next.
    """
    widget = f"widget_{key}"
    if widget not in st.session_state:
        st.session_state[widget] = remembered(key, default)
    return widget


def one_of(
    place: DeltaGenerator,
    label: str,
    key: str,
    options: Sequence[str],
    about: str,
    shown: Callable[[str], str] = str,
) -> str:
    """Let the user choose one of some options; the choice is kept in the URL, and the last one is the default."""
    widget = kept(key, options[-1])
    if (wanted := st.session_state[widget]) not in options:
        st.warning(
            plain(f"There is no {label.lower()} {wanted} here; {options[-1]} is shown."), icon=":material/warning:"
        )
        st.session_state[widget] = options[-1]
    chosen = place.selectbox(label, options, key=widget, help=about, format_func=shown) or options[-1]
    remember(key, chosen)
    return chosen


def put(key: str, value: str) -> None:
    """Give such a widget another value; for callbacks, which run before the page does."""
    st.session_state[f"widget_{key}"] = value
    remember(key, value)
