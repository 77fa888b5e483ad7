"""A real browser before a real server, for the tests that drive one."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import put_short_text

from clp_core.jobs import JobStore
from clp_core.workspace import Workspace
from support.jobs import end_of, wait_for

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "screenshots"
PAIR = ("demo-source-en", "demo-helper-de")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

browser_path = next((found for name in BROWSERS if (found := shutil.which(name))), None)

# Streamlit looks for its server below the page's own address first, whatever that is; the browser logs the two answers.
PROBES = ("/_stcore/health", "/_stcore/host-config")

AT_REST = """() => {
  const running = document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'running';
  if (running || document.querySelector('[data-testid=stSkeleton], [data-stale=true]')) {
    window.atRestSince = null;
    return false;
  }
  window.atRestSince ??= performance.now();
  return performance.now() - window.atRestSince > 700;
}"""


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("browser") / "workspace")


@pytest.fixture(scope="module")
def server(space, tmp_path_factory):
    """The app as ``make app`` starts it, on a free port."""
    assert browser_path, "the browser tests are required here, but there is no chromium"
    environment = os.environ | {
        "CLP_WORKSPACE": str(space.root),
        "CLP_QUEUE": str(space.root / "queue"),
        "CLP_ROOTS": f"{ROOT.parent / 'shared'}{os.pathsep}{tmp_path_factory.getbasetemp()}",
        "HF_HUB_OFFLINE": "1",
    }
    put_short_text(space.texts)
    subprocess.run([sys.executable, "-m", "clp_core", "demo"], env=environment, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "clp_core", "app", "--headless", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).status == 200
        except OSError:
            return False

    wait_for(answers, 60)
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture
def emptied(space, server):
    """The workspace without what earlier tests, or an earlier try of the same test, have made in it."""
    store = JobStore(space.jobs)
    for job in store.jobs():
        if not job.status().is_over:
            job.ask_stop(kill=True)
            end_of(job)
        store.remove(job)
    for folder in space.models.iterdir():
        if folder.name not in PAIR:
            shutil.rmtree(folder)
    shutil.rmtree(space.curves, ignore_errors=True)
    return space


@pytest.fixture(scope="module")
def context(server):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(60_000)
        yield context
        for i, page in enumerate(context.pages):  # left open by tests that failed
            SHOTS.mkdir(exist_ok=True)
            page.screenshot(path=SHOTS / f"failed-{i}.png", full_page=True)
        browser.close()


def settle(page):
    """Wait until the page has its question, nothing runs, and nothing of it has yet to be drawn, for 0.7 s on end.

    What is clicked earlier may move or not be there: streamlit loads its parts when they are first needed.
    """
    page.wait_for_selector("h1")
    page.evaluate("window.atRestSince = null")
    page.wait_for_function(AT_REST, polling=50)


def in_menu(page, name):
    """Return a page's link in the menu; the page itself may have links of the same name."""
    return page.get_by_test_id("stSidebarNavItems").get_by_role("link", name=name, exact=True)


def shoot(page, name):
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
    assert page.locator("[data-testid=stException]").count() == 0


def listen(page):
    """Return a list that fills with what the browser's console and the page's scripts complain about."""
    complaints = []

    def note(message):
        if message.type == "error" and not message.location["url"].endswith(PROBES):
            complaints.append(f"{message.text} ({message.location['url']})")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints
