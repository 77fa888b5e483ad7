"""A real browser before a real server, for the tests that drive one."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from clp_core.geometry.embedding_cache import prepare
from clp_core.jobs import JobStore
from clp_core.jobs.process_identity import die_with_parent
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.workspace import Workspace
from support.jobs import end_of, wait_for
from support.pages_run import cut_texts
from support.slow_sessions import slow_down

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "screenshots"
PAIR = ("demo-source-en", "demo-helper-de")
SPACE, SERVER = pytest.StashKey[Workspace](), pytest.StashKey[str]()
KEPT = ("models", "texts", "cache", "queue", "jobs")
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


def once(config, key, make):
    """Return what was made under a key in this process, or make it: each module that imports a fixture has its own."""
    if key not in config.stash:
        config.stash[key] = make()
    return config.stash[key]


@pytest.fixture(scope="session")
def space(pytestconfig, tmp_path_factory, prepared_demo):
    """A workspace with the demo for all browser tests of a process."""

    def make():
        space = Workspace(tmp_path_factory.mktemp("browser") / "workspace")
        shutil.copytree(prepared_demo.root, space.root)
        cut_texts(space)
        return space

    return once(pytestconfig, SPACE, make)


@pytest.fixture(scope="session")
def server(pytestconfig, space, tmp_path_factory):
    """The app, for all browser tests of a process."""

    def make():
        running = contextlib.ExitStack()
        pytestconfig.add_cleanup(running.close)
        return running.enter_context(serving(space, tmp_path_factory))

    return once(pytestconfig, SERVER, make)


@pytest.fixture
def fresh_server(space, tmp_path_factory):
    """The app, started a moment ago: no page was opened yet."""
    with serving(space, tmp_path_factory) as url:
        yield url


@contextlib.contextmanager
def serving(space, tmp_path_factory):
    """Start the app as ``make app`` starts it, on a free port; sessions of its playground take their time."""
    assert browser_path, "the browser tests are required here, but there is no chromium"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "clp_core", "app", "--headless", "--port", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        slow_down(patch, tmp_path_factory.mktemp("slow") / "path", 0.1)
        environment = os.environ | {
            "CLP_WORKSPACE": str(space.root),
            "CLP_QUEUE": str(space.root / "queue"),
            "CLP_ROOTS": f"{ROOT.parent / 'shared'}{os.pathsep}{tmp_path_factory.getbasetemp()}",
            "HF_HUB_OFFLINE": "1",
        }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, 60)
        yield url
    finally:
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
    for folder in (*space.models.iterdir(), *space.root.iterdir()):
        if folder.name not in (*PAIR, *KEPT):
            shutil.rmtree(folder)
    return space


@pytest.fixture(scope="module")
def written(space):
    """A target of the demo pair, prepared, beside the server."""
    output = space.models / "german"
    pair = (str(space.models / name) for name in PAIR)
    transfer(TransferOptions(*pair, str(output), method="linear", overwrite=True))
    prepare(output, space.cache)
    return output


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
    """Return the link in the menu to a page, which is named as in its address."""
    return page.get_by_test_id("stSidebarNavItems").locator(f"a[href$='/{name}']")


def go_to(page, name):
    """Open a page by the menu, and wait until all of it is there."""
    in_menu(page, name).click()
    page.wait_for_url(re.compile(rf"/{name}(\?|$)"))
    settle(page)


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
