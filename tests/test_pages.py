"""Every page, run as streamlit runs it, without a browser."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_jobs import end_of

from clp_core.demo import HELPER, SOURCE
from clp_core.jobs import JobStore
from clp_core.transfer import transfer
from clp_core.transfer_options import TransferOptions
from clp_core.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("overview", "overlap", "tokens", "projection", "transfer", "train", "runs")


@pytest.fixture(autouse=True)
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


@pytest.fixture
def space(tmp_path, monkeypatch, demo):
    """A workspace with the demo and one target, of its own for each test."""
    root = tmp_path / "space"
    shutil.copytree(demo["workspace"] / "models", root / "models", copy_function=shutil.copy2)
    shutil.copytree(demo["workspace"] / "texts", root / "texts")
    monkeypatch.setenv("CLP_WORKSPACE", str(root))
    found = Workspace(root)
    from clp_core.prepared import prepare

    for name in (SOURCE, HELPER):
        prepare(found.models / name, found.cache)
    return found


@pytest.fixture
def target(space):
    from clp_core.prepared import prepare

    output = space.models / "german"
    transfer(TransferOptions(str(space.models / SOURCE), str(space.models / HELPER), str(output), method="linear"))
    prepare(output, space.cache)
    return output


def open_page(name, **query):
    app = AppTest.from_file(ROOT / "app.py", default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if name != "overview":
        app.switch_page(f"pages/{name}.py").run()
    return app


def check(app):
    assert not app.exception, [error.value for error in app.exception]
    return app


@pytest.mark.parametrize("name", PAGES)
def test_page_in_an_empty_workspace_says_the_next_step(workspace, name):
    app = check(open_page(name))
    assert app.info
    assert not app.error


@pytest.mark.parametrize("name", PAGES)
def test_page_answers_its_question_with_the_demo(target, name):
    app = check(open_page(name))
    assert app.title[0].value.endswith("?")
    assert not app.error


def test_overview_unpacks_the_demo(workspace):
    app = check(open_page("overview"))
    next(button for button in app.button if button.label == "Unpack the demo").click().run()
    (job,) = JobStore(workspace.jobs).jobs()
    assert end_of(job).state == "finished", job.log_tail()
    assert (workspace.models / SOURCE / "model.safetensors").is_file()
    assert not app.exception


def test_overlap_counts_tokens_and_filters_the_table(space):
    app = check(open_page("overlap"))
    cards = {metric.label: metric.value for metric in app.metric}
    assert cards["Tokens in common"].replace("\u202f", "").isdigit()
    app.text_input[0].set_value("haus").run()
    table = check(app).dataframe[-1].value
    assert len(table)
    assert table["shown"].str.contains("haus", case=False).all()


def test_overlap_shows_tokens_with_markup_as_text(space):
    app = check(open_page("overlap"))
    app.text_area[0].set_value("<b>Haus</b> \x00 <script>alert(1)</script>").run()
    check(app)
    pills = "".join(element.proto.body for element in app.main if element.type == "html")
    assert "<script" not in pills


def test_tokens_explains_a_missing_and_a_copied_token(target):
    app = check(open_page("tokens"))
    app.text_input[0].set_value("Ġauch").run()
    text = " ".join(markdown.value for markdown in check(app).markdown)
    assert "**initialised** by `linear`" in text
    assert "carry 90 % of the weight" in text
    app.text_input[0].set_value("<|endoftext|>").run()
    assert "**copied**" in " ".join(markdown.value for markdown in check(app).markdown)


def test_tokens_names_the_pieces_of_a_text_that_is_no_token(target):
    app = check(open_page("tokens"))
    app.text_input[0].set_value("Donaudampfschifffahrt").run()
    app.text_input[0].set_value("xxxx xxxx").run()
    check(app)
    app.text_input[0].set_value("Donaudampfschifffahrt").run()
    assert "is no token" in app.warning[0].value.replace("\\", "")
    pieces = [button for button in app.button if "\\#" in button.label]
    assert pieces
    pieces[0].click().run()
    assert check(app).title


def test_projection_marks_the_searched_token(target):
    app = check(open_page("projection"))
    app.text_input[0].set_value("Ġauch").run()
    assert not check(app).warning


def test_transfer_page_runs_the_command_it_shows_once(space):
    app = check(open_page("transfer"))
    shown = next(code.value for code in app.code if code.value.startswith("clp transfer"))
    assert "--method auto" in shown
    button = next(button for button in app.button if button.label == "Write the target")
    button.click().run()
    (job,) = JobStore(space.jobs).jobs()
    assert job.command == shown
    second = open_page("transfer")
    again = next(button for button in second.button if button.label == "Write the target")
    assert again.disabled
    assert end_of(job).state == "finished", job.log_tail()
    after = check(open_page("transfer"))
    assert any(metric.label == "Held-out cosine" for metric in after.metric)
    assert any("What it says before any training" in markdown.value for markdown in after.markdown)
    assert any("auto chose" in info.value for info in after.info)


def test_transfer_page_takes_overrides_and_refuses_bad_ones(space):
    app = check(open_page("transfer"))
    app.text_area[0].set_value("Ġauch=Ġalso").run()
    shown = next(code.value for code in app.code if code.value.startswith("clp transfer"))
    assert "--override 'Ġauch=Ġalso'" in shown
    app.text_area[0].set_value("nothing to see").run()
    assert any("is not TOKEN=TEXT" in error.value.replace("\\", "") for error in app.error)
    assert not any(code.value.startswith("clp transfer") for code in app.code)


def test_transfer_page_shows_the_comparison_of_methods(space):
    app = check(open_page("transfer"))
    app.radio[0].set_value("mean").run()
    next(button for button in app.button if button.label == "Compare the methods").click().run()
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "compare-methods"]
    assert end_of(job, 400).state == "finished", job.log_tail()
    after = check(open_page("transfer"))
    table = after.dataframe[0].value
    assert {"clp", "two-view", "omp", "scratch", "linear:neighbours=16"} <= set(table["method"])
    assert table["centred cosine"].notna().all()
    assert after.get("plotly_chart")


def test_transfer_page_warns_of_a_chat_template(space):
    (space.models / SOURCE / "chat_template.jinja").write_text("{{ messages }}")
    app = check(open_page("transfer"))
    assert "chat template" in app.warning[0].value


def test_train_page_starts_a_run_that_the_runs_page_shows_and_stops(target, space):
    app = check(open_page("train"))
    shown = next(code.value for code in app.code if code.value.startswith("clp train"))
    assert "--max-steps 300" in shown
    next(button for button in app.button if button.label == "Start training").click().run()
    check(app)
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "train"]
    runs = check(open_page("runs"))
    next(button for button in runs.button if button.label == "Stop and save").click().run()
    assert job.stop_asked
    assert end_of(job, 240).state == "stopped", job.log_tail()
    assert check(open_page("runs")).title


def test_unknown_model_is_a_message_not_a_traceback(space):
    app = open_page("overlap", source="/no/such/model")
    check(app)
    assert "there is no model /no/such/model" in app.error[0].value.replace("\\", "")


def test_hub_id_that_is_not_here_offers_to_fetch_it_and_tells_a_plain_failure(space):
    app = check(open_page("tokens", helper="org/model"))
    next(button for button in app.button if "Fetch it from the Hub" in button.label).click().run()
    (job,) = JobStore(space.jobs).jobs()
    end_of(job)
    app = check(open_page("tokens", helper="org/model"))
    assert "Hub could not be reached" in app.error[0].value.replace("\\", "")


def test_web_process_loads_no_torch(target):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_pages import PAGES, open_page
for name in PAGES:
    assert not open_page(name).exception
print([name for name in ("torch", "transformers", "umap", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "[]"
