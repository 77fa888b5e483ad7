"""Requests by other hosts, pages of other servers, and frames: what the server answers, and what it refuses."""

import asyncio

import pytest
from support.pages_run import ROOT

from clp_core.cli.app import hosts_of
from components.doorway import Doorway

HERE = "127.0.0.1:8501"


def answer(host=HERE, origin=None, kind="http"):
    """What the doorway sends, where the app behind it answers everything."""
    sent = []

    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    given = {"host": host, "origin": origin}.items()
    headers = [
        (name.encode(), each.encode())
        for name, value in given
        for each in (value if isinstance(value, list) else [value])
        if each is not None
    ]
    scope = {"type": kind, "method": "GET", "path": "/_stcore/stream", "headers": headers, "query_string": b""}
    asyncio.run(Doorway(app)(scope, receive, send))
    return sent[0]


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    import streamlit as st

    options = {
        "server.allowedHosts": ["127.0.0.1", "localhost", "::1", "lab.org"],
        "server.corsAllowedOrigins": ["https://desk.lab.org"],
    }
    monkeypatch.setattr(st, "get_option", options.__getitem__)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (HERE, None),
        (HERE, "http://127.0.0.1:8501"),
        ("localhost:9000", "http://localhost:9000"),
        ("LOCALHOST.", None),
        ("[::1]:8501", "http://[::1]:8501"),
        ("lab.org", "https://lab.org"),
        (HERE, "https://desk.lab.org"),
    ],
)
def test_own_pages_and_programs_on_this_machine_are_answered(kind, host, origin):
    assert answer(host, origin, kind)["type"] in ("websocket.accept", "http.response.start")
    assert answer(host, origin, kind).get("status", 200) == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        ("evil.example:8501", "http://evil.example:8501"),  # a name that was bound again to this machine's address
        ("127.0.0.1.evil.example", None),
        ("127.0.0.1@evil.example", None),
        ("evil.example@127.0.0.1", None),
        ("", None),
        (None, None),
        (["127.0.0.1:8501", "evil.example"], None),
        ("[::1", None),
        (HERE, "http://evil.example"),
        (HERE, "http://127.0.0.1:3000"),  # another server on this machine
        (HERE, "http://localhost:8501"),
        (HERE, "https://a.streamlit.app"),
        (HERE, "null"),
        (HERE, "file://127.0.0.1:8501"),
        (HERE, "127.0.0.1:8501"),
        (HERE, "http://127.0.0.1:8501.evil.example"),
        (HERE, "http://evil.example\\@127.0.0.1:8501"),
        (HERE, ["http://127.0.0.1:8501", "http://evil.example"]),
        ("lab.org", "https://desk.lab.org.evil.example"),
    ],
)
def test_others_are_refused(kind, host, origin):
    first = answer(host, origin, kind)
    assert first["type"] == "websocket.close" if kind == "websocket" else first["status"] == 403


def test_no_other_page_may_frame_the_pages():
    headers = dict(answer()["headers"])
    assert headers[b"content-security-policy"] == b"frame-ancestors 'self'"
    assert headers[b"x-frame-options"] == b"SAMEORIGIN"


def test_messages_of_other_sites_are_not_listened_to():
    assert "\nallowedOrigins = []\n" in (ROOT / ".streamlit" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("address", "named", "hosts"),
    [
        ("127.0.0.1", [], ["127.0.0.1", "localhost"]),
        ("::1", [], ["127.0.0.1", "localhost", "::1"]),
        ("0.0.0.0", ["lab.org"], ["127.0.0.1", "localhost", "lab.org"]),
    ],
)
def test_app_may_be_asked_by_its_own_address(address, named, hosts):
    assert hosts_of(address, named) == hosts
