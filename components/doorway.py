"""Who may ask the server at all: requests by a name of this machine, and pages that this server has sent itself.

Streamlit checks the host of the websocket alone, and lets it be opened by pages of every server on this machine. Before
it refuses a page from elsewhere, it asks a server on the internet for this machine's address, and all others wait. Here
every route is checked, and first.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

ANSWERED = ("http", "websocket")
NOT_FRAMED = {
    "Content-Security-Policy": "frame-ancestors 'self'",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Sent with every response: no other page may show the pages within its own, where clicks could be stolen."""


class Doorway:
    """Refuses what was not sent by this app's own pages, or by a program on this machine."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before an app."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ANSWERED:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not may_ask(headers.getlist("host"), headers.getlist("origin")):
            refusal = PlainTextResponse("This host or origin may not use the app.\n", 403)
            await (WebSocketClose(1008) if scope["type"] == "websocket" else refusal)(scope, receive, send)
            return

        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(NOT_FRAMED)
            await send(message)

        await self._app(scope, receive, send_unframed)


def may_ask(hosts: list[str], origins: list[str]) -> bool:
    """Whether a request is answered.

    Args:
        hosts: its Host headers.
        origins: its Origin headers; programs send none, browsers one where a page opens a websocket or sends data.
    """
    import streamlit as st

    if len(hosts) != 1 or not is_named(hosts[0], st.get_option("server.allowedHosts")):
        return False
    allowed = [str(origin).rstrip("/").lower() for origin in st.get_option("server.corsAllowedOrigins")]
    return all(is_own(origin, hosts[0]) or origin.rstrip("/").lower() in allowed for origin in origins)


def is_named(host: str, allowed: Iterable[str]) -> bool:
    """Whether a Host header, with or without a port, is one of the allowed names."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name.rstrip(".").lower() in {each.strip().rstrip(".").lower() for each in allowed} and "@" not in host


def is_own(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that a request goes to, by scheme-less name and port."""
    scheme, separator, place = origin.partition("://")
    return scheme.lower() in ("http", "https") and bool(separator) and place.lower() == host.lower()
