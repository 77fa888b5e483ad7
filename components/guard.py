"""Who may use the app: anyone on this machine's loopback address; on any other address only who has logged in."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import streamlit as st

CURE = (
    "This app can start processes, so it answers on other addresses than the loopback one only where logging in is "
    "configured. Either start it with `clp app` and reach it through a tunnel "
    "(`ssh -L 8501:127.0.0.1:8501 this-machine`), or configure `[auth]` in `.streamlit/secrets.toml` and name the host "
    "with `clp app --address ... --host ...`."
)


NOT_ALLOWED = (
    "This account may not use the app. Its owner names who may in `.streamlit/secrets.toml`: "
    '`[clp]` with `allowed = ["someone@lab.org", "@lab.org"]`.'
)


def is_loopback(address: str | None) -> bool:
    """Say whether an address is reached from this machine alone; none at all means every address."""
    if not address:
        return False
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def has_authentication() -> bool:
    """Say whether logging in is configured."""
    try:
        return "auth" in st.secrets
    except (FileNotFoundError, st.errors.StreamlitSecretNotFoundError):
        return False


def allowed_users() -> list[str]:
    """Return who may use the app once logged in: addresses, and domains as ``@lab.org``."""
    return [str(user) for user in st.secrets.get("clp", {}).get("allowed", [])]


def is_allowed(email: str, allowed: Sequence[str]) -> bool:
    """Say whether an address or its domain is on the list; nobody is on an empty one."""
    address = email.strip().lower()
    names = {name.strip().lower() for name in allowed}
    return "@" in address and (address in names or "@" + address.rpartition("@")[2] in names)


def let_in_or_stop() -> None:
    """End the page here for who may not use it."""
    if has_authentication():
        if not st.user.get("is_logged_in"):
            st.title("CLP Workbench")
            if st.button("Log in", type="primary", icon=":material/login:"):
                st.login()
            st.stop()
        if not is_allowed(str(st.user.get("email", "")), allowed_users()):
            st.error(NOT_ALLOWED, icon=":material/lock:")
            if st.button("Log out", icon=":material/logout:"):
                st.logout()
            st.stop()
    elif not is_loopback(st.get_option("server.address")):
        st.error(CURE, icon=":material/lock:")
        st.stop()
