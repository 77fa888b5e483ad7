"""What the README promises, done in a real browser: from a clean workspace to a run that outlives its tab."""

import os
import re
import socket
import urllib.error
import urllib.request

import pytest
from support.browser import (  # noqa: F401
    browser_path,
    context,
    emptied,
    fresh_server,
    go_to,
    in_menu,
    listen,
    server,
    settle,
    shoot,
    space,
    written,
)
from support.jobs import end_of
from support.made_runs import lines_of, make_run

from clp_core.jobs import JobStore

PAGES = ("overlap", "tokens", "projection", "helper", "transfer", "train", "runs", "compare", "playground")

pytestmark = pytest.mark.browser
if browser_path is None and not os.environ.get("CLP_REQUIRE_BROWSER"):
    pytest.skip("NO BROWSER FOUND: install chromium to run the browser tests", allow_module_level=True)


def test_deep_link_is_the_first_thing_a_fresh_server_opens(fresh_server, context):
    page = context.new_page()
    page.goto(f"{fresh_server}/tokens?token=%23300")
    settle(page)
    assert page.get_by_role("textbox", name="Token").input_value() == "#300"
    page.get_by_text("raw string").wait_for()
    in_menu(page, "transfer").wait_for()
    page.goto(f"{fresh_server}/overlap?source=/no/such/model")
    page.get_by_text("/no/such/model is outside of the workspace").wait_for()
    page.close()


def test_from_two_checkpoints_to_a_german_model_whose_loss_falls(server, context, space, emptied):
    page = context.new_page()
    errors = listen(page)
    page.goto(server)
    settle(page)
    shoot(page, "overview")

    go_to(page, "overlap")
    page.locator(".js-plotly-plot").first.wait_for()
    shoot(page, "overlap")
    page.get_by_role("tab", name="On a text").click()
    page.locator(".pill").first.wait_for()
    shoot(page, "overlap-text")

    go_to(page, "transfer")
    page.get_by_role("button", name="Write the target").dblclick()
    page.get_by_text("Report of").wait_for(timeout=120_000)
    settle(page)
    assert len([job for job in JobStore(space.jobs).jobs() if job.kind == "transfer"]) == 1
    shoot(page, "transfer")

    go_to(page, "tokens")
    field = page.get_by_role("textbox", name="Token")
    field.fill("Ġauch")
    field.press("Enter")
    page.get_by_text("carry 90 % of the weight").wait_for()
    settle(page)
    assert "token=" in page.url
    shoot(page, "tokens")

    go_to(page, "projection")
    page.locator(".js-plotly-plot").first.wait_for()
    shoot(page, "projection")

    go_to(page, "train")
    page.get_by_test_id("stRadio").get_by_text("Steps", exact=True).click()
    steps = page.get_by_test_id("stNumberInput").get_by_label("Steps")
    steps.fill("10")
    steps.press("Enter")
    page.locator("code", has_text="--max-steps 10").first.wait_for()
    settle(page)
    shoot(page, "train")
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("link", name="Watch it").click()
    page.wait_for_url(re.compile("/runs"))
    page.locator(".js-plotly-plot").first.wait_for()
    page.evaluate("window.clpMark = 'still here'")
    points = (
        "Math.max(0, ...[...document.querySelectorAll('.js-plotly-plot')]"
        ".flatMap(plot => (plot._fullData ?? []).map(line => line._length ?? 0)))"
    )
    first = page.evaluate(points)
    page.wait_for_function(f"{points} > {first} + 3", timeout=120_000)
    assert page.evaluate("window.clpMark") == "still here"  # the points came without a reload
    shoot(page, "runs")

    (run,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "train"]
    address = page.url
    page.close()
    again = context.new_page()
    errors_after = listen(again)
    again.goto(address)
    settle(again)
    again.get_by_text(run.name).first.wait_for()
    assert end_of(run, 300).state == "finished", run.log_tail()
    again.get_by_text("finished", exact=True).first.wait_for()
    settle(again)
    shoot(again, "runs-finished")
    bits = [line["bits_per_byte"] for line in run.metrics() if "bits_per_byte" in line]
    assert bits[-1] < bits[0]
    again.close()
    assert errors + errors_after == []


def test_every_page_opens_by_its_address_in_the_dark(server, context, space, written):
    make_run(space, "a run", lines_of(60))
    page = context.new_page()
    errors = listen(page)
    page.emulate_media(color_scheme="dark")
    for name in PAGES:
        page.goto(f"{server}/{name}")
        settle(page)
        shoot(page, f"{name}-dark")
        background = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        red, green, blue = (int(part) for part in background.strip("rgb()").split(",")[:3])
        assert red + green + blue < 200
    page.close()
    assert errors == []


def test_server_answers_on_the_loopback_alone_and_to_its_own_name_only(server):
    port = int(server.rpartition(":")[2])

    def opened_with(host):
        """Ask for the websocket, through which a page does all it does; return the first line of the answer."""
        lines = [
            "GET /_stcore/stream HTTP/1.1",
            f"Host: {host}:{port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            return connection.recv(200).decode(errors="replace").splitlines()[0]

    assert " 101 " in opened_with("127.0.0.1")
    assert " 403 " in opened_with("evil.example")
    own = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in own:
        if not address.startswith("127."):
            with pytest.raises(OSError, match=r"refused|timed out"):
                socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize("path", ["/", "/_stcore/metrics", "/_stcore/host-config"])
def test_server_answers_no_other_host_and_lets_no_page_frame_it(server, path):
    with urllib.request.urlopen(f"{server}{path}") as answer:
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert b"streamlit.app" not in answer.read()
    for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{server}{path}", headers=header))
