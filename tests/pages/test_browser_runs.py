"""A run in a real browser: launched, watched, zoomed while paused, stopped, resumed, named badly, compared, sent on."""

import os
import re

import pytest
from support.browser import browser_path, context, emptied, listen, server, settle, shoot, space  # noqa: F401
from support.jobs import end_of, wait_for

from clp_core.jobs import JobStore
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.training.options import TrainOptions
from clp_core.training.submit import submit_train

pytestmark = pytest.mark.browser
if browser_path is None and not os.environ.get("CLP_REQUIRE_BROWSER"):
    pytest.skip("NO BROWSER FOUND: install chromium to run the browser tests", allow_module_level=True)

POINTS = (
    "Math.max(0, ...[...document.querySelectorAll('.js-plotly-plot')]"
    ".flatMap(plot => (plot._fullData ?? []).map(line => line._length ?? 0)))"
)
RANGE = "document.querySelectorAll('.js-plotly-plot')[1]._fullLayout.xaxis.range.join()"
EVIL = "<img src=x onerror=window.attacked=1>\"'**b**"


def train_options(space, name, **more):
    settings = {"max_steps": 6, "eval_every": 3, "batch_tokens": 512, "block_length": 128} | more
    train, held_out = (str(space.texts / f"demo-{part}-de.txt") for part in ("train", "valid"))
    return TrainOptions(str(space.models / "demo-source-en"), (train,), held_out, name=name, **settings)


def test_run_is_launched_watched_paused_stopped_resumed_and_deleted(server, context, space, emptied):
    page = context.new_page()
    errors = listen(page)
    page.goto(f"{server}/train?model=demo-helper-de")
    settle(page)
    page.get_by_test_id("stRadio").get_by_text("Steps", exact=True).click()
    steps = page.get_by_test_id("stNumberInput").get_by_label("Steps")
    steps.fill("400")
    steps.press("Enter")
    page.locator("code", has_text="--max-steps 400").first.wait_for()
    name = page.get_by_role("textbox", name="Name of the run")
    name.fill(EVIL)
    name.press("Enter")
    settle(page)
    page.get_by_role("button", name="Start training").click()
    page.get_by_role("link", name="Watch it").click()
    page.wait_for_url(re.compile("/runs"))
    page.wait_for_function(f"{POINTS} > 3", timeout=120_000)
    (run,) = JobStore(space.jobs).jobs()
    assert run.name == EVIL
    page.get_by_text(EVIL).first.wait_for()
    shoot(page, "run-live")

    page.get_by_text("Pause curves").click()
    settle(page)
    plot = page.locator(".js-plotly-plot .nsewdrag").nth(1)
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_timeout(700)
    zoomed = page.evaluate(RANGE)
    before = page.evaluate(POINTS)
    page.wait_for_timeout(5500)  # longer than until the curves would be drawn anew
    assert page.evaluate(RANGE) == zoomed  # kept while paused
    assert page.evaluate(POINTS) == before
    page.get_by_text("Pause curves").click()
    page.wait_for_function(f"{POINTS} > {before}", timeout=60_000)

    page.get_by_role("button", name="Stop and save").click()
    page.get_by_text("stopped", exact=True).first.wait_for(timeout=120_000)
    assert run.status().reason_code == ReasonCode.STOPPED_SAVED
    stopped_at = run.result()["step"]
    page.get_by_role("button", name="Resume").click()
    wait_for(lambda: run.status().state == "running" and run.progress()[0] > stopped_at, 120)
    page.get_by_text("attempt 2").wait_for()
    page.get_by_role("tab", name="Samples").click()
    page.locator("[data-testid=stDataFrame]").first.wait_for()
    page.get_by_role("tab", name="Log").click()
    page.get_by_text("goes on from the checkpoint of step").first.wait_for()
    shoot(page, "run-resumed")
    page.get_by_role("button", name="Stop and save").click()
    page.get_by_role("button", name="End at once").click()
    page.get_by_text("stopped", exact=True).first.wait_for(timeout=60_000)
    settle(page)
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("This cannot be undone").wait_for()
    shoot(page, "run-delete")
    page.get_by_role("button", name="Delete it").click()
    page.get_by_text("No run yet").wait_for()
    assert not run.path.exists()
    assert page.evaluate("window.attacked") is None
    page.close()
    assert errors == []


def test_two_runs_are_compared_and_the_comparison_is_sent_on(server, context, space, emptied, tmp_path, monkeypatch):
    monkeypatch.setenv("CLP_WORKSPACE", str(space.root))
    monkeypatch.setenv("CLP_QUEUE", str(space.root / "queue"))
    slow = submit_train(space, train_options(space, "slow rate", learning_rate=1e-5))
    fast = submit_train(space, train_options(space, "fast rate", learning_rate=1e-3))
    for run in (slow, fast):
        assert end_of(run, 240).state == "finished", run.log_tail()
    page = context.new_page()
    errors = listen(page)
    page.goto(f"{server}/compare?baseline={slow.id}&runs={fast.id}")
    settle(page)
    page.get_by_text(re.compile("fast rate saves .* of the tokens that slow rate needs")).wait_for()
    page.locator(".js-plotly-plot .annotation").first.wait_for()
    gap = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.annotations.at(-1).text")
    assert gap.endswith("of tokens saved")
    shoot(page, "compare")
    with page.expect_download() as download:
        page.get_by_role("button", name="One HTML file").click()
    report = tmp_path / "comparison.html"
    download.value.save_as(report)
    page.get_by_text("A curve from elsewhere").click()
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("tokens,bits_per_byte\n1024,3.0\n61440,1.0\n")
    page.locator("input[type=file]").set_input_files(theirs)
    page.get_by_text("theirs.csv").first.wait_for()
    settle(page)
    page.get_by_role("button", name="Import").click()
    page.get_by_text("imported from theirs.csv, 2 points").wait_for()
    page.goto(f"{server}/compare?baseline={slow.id}&runs=import:theirs")
    settle(page)
    page.get_by_text("None of these runs can be compared").wait_for()
    page.emulate_media(color_scheme="dark")
    settle(page)
    shoot(page, "compare-dark")
    page.close()
    alone = context.new_page()
    complaints = listen(alone)
    requests = []
    alone.on("request", lambda request: requests.append(request.url))
    alone.goto(report.as_uri())
    alone.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert "fast rate saves" in alone.locator("body").inner_text()
    shoot(alone, "compare-report")
    alone.close()
    assert [url for url in requests if url.startswith("http")] == []  # it needs no network
    assert errors + complaints == []
