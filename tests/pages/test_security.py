"""What somebody would try who may open a page, name a file or send a request, and what he gets."""

import json
import os
import re
from pathlib import Path

import pytest
from support.commands import refused, result_of
from support.hub import use_hub
from support.jobs import end_of, train_options
from support.made_runs import lines_of, make_run
from support.pages_run import ROOT, check, open_page, text_of

from clp_core.errors import InputError
from clp_core.hub.repo_id import HubName
from clp_core.jobs import JobStore
from clp_core.training.submit import submit_train
from components.path_confinement import confined

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")

EVIL = "<img src=x onerror=alert(1)>\"'`$(touch x)`**b**"
SECRET = "hf_" + "Zz9" * 12


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "config.json").write_text('{"vocab_size": 3}')
    return folder


def test_paths_outside_of_the_roots_are_refused_and_told_how_to_allow_them(workspace, outside, monkeypatch):
    workspace.models.mkdir(parents=True)
    inside = workspace.models / "mine"
    inside.mkdir()
    assert confined(inside, workspace) == inside.resolve()
    for attack in (outside, "/etc", "/", f"{workspace.models}/../../outside", "~root", str(inside / ".." / "..")):
        with pytest.raises(InputError, match=r"outside of the workspace|holds '\.\.'"):
            confined(attack, workspace)
    with pytest.raises(InputError, match="NUL"):
        confined("/a\0b", workspace)
    monkeypatch.setenv("CLP_ROOTS", f"/nowhere{os.pathsep}{outside}")
    assert confined(outside, workspace) == outside.resolve()


def test_links_out_of_the_roots_are_refused(workspace, outside):
    workspace.models.mkdir(parents=True)
    link = workspace.models / "link"
    link.symlink_to(outside)
    with pytest.raises(InputError, match=r"is a link to .*outside"):
        confined(link, workspace)
    folder = workspace.models / "folder"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside / "config.json")
    with pytest.raises(InputError, match="is a link to"):
        confined(folder, workspace)


@pytest.mark.parametrize(
    "attack",
    ["../../../etc", "/etc", "/etc/passwd", "..", "models/../..", "~/.ssh", "~nobodyhere/x",
     "a" * 5000, "%2e%2e%2fetc", "%00", "a\0b", "..\\..\\etc", "file:///etc/passwd", "//host/share",
     "$(touch x)", "; touch x", EVIL],
)  # fmt: skip
def test_model_named_in_an_address_opens_nothing_outside(space, attack):
    for page, key in (("overlap", "source"), ("tokens", "helper"), ("train", "model")):
        app = check(open_page(page, **{key: attack}))
        assert app.error, (page, attack)
        told = app.error[0].value.replace("\\", "")
        assert re.search(r"outside of the workspace|holds '\.\.'|there is no model|NUL|is no path here", told), told
        assert "root:" not in text_of(app)
    assert not JobStore(space.jobs).jobs()


def test_linked_model_of_the_workspace_is_not_opened(space, outside):
    (space.models / "link").symlink_to(outside)
    app = check(open_page("overlap", source="link"))
    assert "is a link to" in app.error[0].value.replace("\\", "")
    assert not check(open_page("overview")).error


def test_text_folder_with_a_link_out_of_the_workspace_is_neither_offered_nor_taken(workspace, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret\n")
    folder = workspace.texts / "corpus" / "inner" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("text\n")
    assert confined(workspace.texts / "corpus", workspace, deep=True)
    (folder / "b.txt").symlink_to(secret)
    with pytest.raises(InputError, match="is a link to"):
        confined(workspace.texts / "corpus", workspace, deep=True)


@pytest.mark.parametrize("revision", ["../../x", "a/../b", "..", "refs/..", "a b", "", "\n"])
def test_revision_that_leads_out_of_the_cache_is_no_name_of_the_hub(revision):
    assert HubName.parse(f"org/name@{revision}") is None
    assert str(HubName.parse("org/name@refs/pr/1.0")) == "org/name@refs/pr/1.0"


@pytest.mark.parametrize("run", ["..", "../../etc", "/etc", "a\0b", "%2e%2e", EVIL, "20260101-000000-x-0000"])
def test_job_named_in_an_address_must_be_one(space, run):
    make_run(space, "a run", lines_of(60))
    app = check(open_page("runs", run=run))
    assert "There is no run" in app.warning[0].value.replace("\\", "")
    train = check(open_page("train", clone=run))
    assert train.warning
    assert check(open_page("compare", runs=run, baseline=run)).title


def test_linked_job_directory_is_no_job(workspace, tmp_path):
    job = make_run(workspace, "a run", lines_of(3))
    elsewhere = tmp_path / "elsewhere"
    job.path.rename(elsewhere)
    job.path.symlink_to(elsewhere)
    store = JobStore(workspace.jobs)
    assert store.jobs() == []
    with pytest.raises(InputError, match="there is no job"):
        store.get(job.id)
    with pytest.raises(InputError):
        store.remove(job)
    assert (elsewhere / "spec.json").is_file()


def test_linked_text_of_the_workspace_is_not_offered(space, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret\n")
    (space.texts / "valid-secret.txt").symlink_to(secret)
    for page in ("overview", "overlap", "train", "transfer", "compare"):
        app = check(open_page(page))
        for box in app.selectbox:
            assert "valid-secret.txt" not in box.options
        assert all("valid-secret.txt" not in table.value.to_string() for table in app.dataframe)


def test_names_are_shown_as_text_and_run_nowhere(space):
    job = make_run(space, EVIL[:100], lines_of(200))
    make_run(space, "other", lines_of(200, speed=2))
    for page in ("overview", "runs", "compare"):
        app = check(open_page(page, run=job.id) if page == "runs" else open_page(page))
        for markdown in app.markdown:
            assert "<img" not in markdown.value.replace("\\<", "")
            assert not markdown.proto.allow_html
    assert (job.path / "spec.json").is_file()
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "a\0b", "x" * 121, "\u202eabc"])
def test_names_that_cannot_be_shown_are_refused(workspace, name):
    job = make_run(workspace, "a run", lines_of(3))
    with pytest.raises(InputError, match="1 to 120 characters"):
        job.rename(name)
    job.rename("better")
    assert job.name == "better"
    assert job.path.name == job.id


@pytest.mark.process
def test_access_token_of_the_hub_is_in_no_file_of_a_run(workspace, pair, texts, monkeypatch):
    use_hub(monkeypatch, HF_TOKEN=SECRET, HUGGING_FACE_HUB_TOKEN=SECRET)
    job = submit_train(workspace, train_options(pair, texts, max_steps=3))
    assert end_of(job, 120).state == "finished", job.log_tail()
    for path in workspace.root.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("field", ["name", "prompt"])
def test_access_token_in_a_form_is_refused(workspace, pair, texts, field):
    value = f"my {SECRET}"
    with pytest.raises(InputError, match="hf auth login"):
        submit_train(workspace, train_options(pair, texts, **{field: (value,) if field == "prompt" else value}))
    assert not list(workspace.jobs.glob("*/spec.json"))


@pytest.mark.process
def test_code_that_comes_with_a_model_is_never_run(workspace, pair, texts, tmp_path):
    import shutil

    folder, marker = workspace.models / "with-code", tmp_path / "was here"
    shutil.copytree(pair[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C", "AutoTokenizer": "t.T"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("modeling_x.py", "t.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    job = submit_train(workspace, train_options((folder, None), texts, max_steps=2))
    end_of(job, 120)
    assert "sample" in result_of("evaluate", folder, "--text", texts[1], "--sample")
    assert not marker.exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7"])
def test_app_is_not_started_for_others_without_logging_in(address, monkeypatch):
    def start(*_):
        raise AssertionError("the server was started")

    monkeypatch.setattr(os, "execv", start)
    told = refused("app", "--headless", "--address", address)
    assert "[auth]" in told
    assert "ssh -L" in told
    assert "'not an address' is not an IP address" in refused("app", "--headless", "--address", "not an address")


def test_only_named_accounts_are_let_in():
    from components.guard import is_allowed

    allowed = ["Someone@lab.org", "@uni.example"]
    assert is_allowed("someone@LAB.org", allowed)
    assert is_allowed("anyone@uni.example", allowed)
    for email in ("other@lab.org", "x@evil-uni.example", "uni.example", "", "@uni.example.evil", "a@b@lab.org"):
        assert not is_allowed(email, allowed)
    assert not is_allowed("someone@lab.org", [])


def test_pages_refuse_others_however_the_server_was_started(space, monkeypatch):
    import streamlit as st

    option = st.get_option
    for address in ("0.0.0.0", "", None, "192.0.2.7", "::"):
        monkeypatch.setattr(st, "get_option", lambda name, a=address: a if name == "server.address" else option(name))
        app = open_page("overview")
        assert "logging in is configured" in app.error[0].value
        assert not app.title
    monkeypatch.setattr(st, "get_option", lambda name: "::1" if name == "server.address" else option(name))
    assert check(open_page("overview")).title


def test_no_free_text_reaches_a_shell():
    for path in [*ROOT.glob("clp_core/**/*.py"), *ROOT.glob("components/*.py"), *ROOT.glob("pages/*.py")]:
        code = path.read_text(encoding="utf-8")
        assert not re.search(
            r"shell\s*=\s*True|os\.system|os\.popen|subprocess\.getoutput|(?<![.\w])(eval|exec)\(", code
        ), path
        assert "trust_remote_code=True" not in code, path
        assert "unsafe_allow_html" not in code, path


def test_where_logging_in_is_configured_nobody_comes_in_without(space):
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(ROOT / "app.py", default_timeout=120)
    app.secrets["auth"] = {"client_id": "x", "client_secret": "y", "cookie_secret": "z", "redirect_uri": "r"}
    app.run()
    check(app)
    assert [button.label for button in app.button] == ["Log in"]
    assert not app.dataframe
