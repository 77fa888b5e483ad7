"""Fixtures that all tests share, and the tiers of the tests. No test asks the network.

Every test belongs to one tier, named by its marker; one without a marker is a unit test, which starts no process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.tiny_models import ENGLISH, FAMILIES, GERMAN, make_model, make_tokenizer, put_short_text

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run at once; threads that wait for each other crawl

from support.hub_fixtures import big_model, hub, logged_in, online  # noqa: F401
from support.preloaded import keep_freed_memory, start_template

from clp_core.jobs.spawning import ENVIRONMENT, Spawner
from clp_core.tokenization import tokenizer_reading

keep_freed_memory()


TIERS = ("nightly", "notebook", "browser", "slurm", "process")
"""Markers of the tests that are no unit tests, those with the longest tests first."""


def pytest_collection_modifyitems(config, items):
    """Put each test into its tier, the longest tests first, so that none is begun when the others are done.

    Tests of the nightly tier run only where ``-m`` names it. A test in a browser gets a second try: a click that meets
    a page that is just drawn anew is lost.
    """
    if "nightly" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: next((i for i, tier in enumerate(TIERS) if item.get_closest_marker(tier)), len(TIERS)))
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(pytest.mark.unit)
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_collection_finish(session):
    """Start the template of all jobs where any test may start one; xdist's controller runs none."""
    is_controller = hasattr(session.config, "workerinput") is False and session.config.getoption("numprocesses", None)
    if is_controller or session.config.option.collectonly or os.environ.get("CLP_TEST_TEMPLATE") == "none":
        return
    if any(item.get_closest_marker(tier) for item in session.items for tier in TIERS):
        folder = Path(tempfile.mkdtemp(prefix="clp-template-"))
        session.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        template = start_template(folder)
        session.config.add_cleanup(template.kill)


@pytest.fixture(scope="session")
def tokenizers():
    return {
        (family, language): make_tokenizer(family, lines)
        for family in FAMILIES
        for language, lines in (("en", ENGLISH), ("de", GERMAN))
    }


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tokenizers):
    """Folders with a tokenizer alone, by family and language."""
    root = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for (family, language), tokenizer in tokenizers.items():
        made[family, language] = root / f"{family}-{language}"
        tokenizer.save_pretrained(made[family, language])
    return made


@pytest.fixture(scope="session")
def pair(tmp_path_factory, tokenizers):
    """A Llama source (tied, float32) and a GPT-2 helper, both byte-level."""
    root = tmp_path_factory.mktemp("pair")
    source = make_model(root / "source", tokenizers["byte-level", "en"], "llama", seed=1)
    helper = make_model(root / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2)
    return source, helper


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    (root / "train.txt").write_text("\n".join(GERMAN) + "\n", encoding="utf-8")
    (root / "valid.txt").write_text("Der alte Fuchs läuft über den Fluss.\nDas Haus ist größer.\n", encoding="utf-8")
    return root / "train.txt", root / "valid.txt"


@pytest.fixture(autouse=True)
def environment_as_it_was():
    """Undo what commands in this process set, such as ``CUDA_VISIBLE_DEVICES`` and places of logs."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    yield
    for name in os.environ.keys() - before:
        if not name.startswith("PYTEST_"):
            del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def real_processes(monkeypatch):
    """Jobs are interpreters that are started, as users have them, not forked from the template."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture(autouse=True)
def no_process_in_a_unit_test(request, monkeypatch):
    """Refuse to start a job in a test that is not marked for it."""
    if request.node.get_closest_marker("unit"):

        def refuse(*args, **kwargs):
            raise AssertionError("a unit test starts a job; mark it with pytest.mark.process")

        monkeypatch.setattr(Spawner, "detached", refuse)
        monkeypatch.setattr(tokenizer_reading, "read_apart", lambda folder: None)  # it is read here then
        monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """Every test has a workspace of its own."""
    from clp_core.workspace import Workspace

    monkeypatch.setenv("CLP_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("CLP_QUEUE", str(tmp_path / "queue"))
    return Workspace.current()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The packaged demo, unpacked once."""
    from clp_core.demo import unpack
    from clp_core.workspace import Workspace

    root = tmp_path_factory.mktemp("demo")
    found = unpack(Workspace(root))
    return {key: Path(value) for key, value in found.items()}


@pytest.fixture
def server_that_has_run_app_once(monkeypatch):
    """AppTest forgets before each run that app.py has a navigation of its own; a server knows after its first run."""
    import streamlit as st
    from streamlit.runtime.pages_manager import PagesManager

    begin = PagesManager.__init__

    def begin_with_navigation(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", begin_with_navigation)
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture(scope="session")
def prepared_demo(tmp_path_factory, demo):
    """A workspace with the demo, its held-out text cut short, prepared for the pages: a template to copy."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.workspace import Workspace

    found = Workspace(tmp_path_factory.mktemp("prepared") / "space")
    for name in ("models", "texts"):
        shutil.copytree(demo["workspace"] / name, found.root / name)
    put_short_text(found.texts)
    for name in ("source", "helper"):
        prepare(found.models / demo[name].name, found.cache)
    return found


@pytest.fixture(scope="session")
def german_model(prepared_demo, demo, tmp_path_factory):
    """A target that ``linear`` has made of the demo, in a folder of its own, with its part of the cache."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.transfer.options import TransferOptions
    from clp_core.transfer.pipeline import transfer

    root = tmp_path_factory.mktemp("german")
    pair = [str(prepared_demo.models / demo[name].name) for name in ("source", "helper")]
    transfer(TransferOptions(*pair, str(root / "german"), method="linear"))
    prepare(root / "german", root / "cache")
    return root


@pytest.fixture
def space(tmp_path, monkeypatch, prepared_demo):
    """A workspace with the demo, of its own for each test."""
    from clp_core.workspace import Workspace

    shutil.copytree(prepared_demo.root, tmp_path / "space")
    monkeypatch.setenv("CLP_WORKSPACE", str(tmp_path / "space"))
    return Workspace(tmp_path / "space")


@pytest.fixture
def target(space, prepared_demo, german_model):
    """The space with a target written by ``linear``, as if it had been made there."""
    from clp_core.files.artifacts import REPORT_FILE
    from clp_core.files.hashing import fingerprint

    output = shutil.copytree(german_model / "german", space.models / "german")
    prepared = fingerprint(output)
    report = (output / REPORT_FILE).read_text()
    report = report.replace(str(german_model), str(space.models)).replace(str(prepared_demo.root), str(space.root))
    (output / REPORT_FILE).write_text(report)
    shutil.copytree(german_model / "cache" / prepared, space.cache / fingerprint(output))
    return output
