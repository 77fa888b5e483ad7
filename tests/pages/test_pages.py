"""Every page, run as streamlit runs it, without a browser."""

import subprocess
import sys

import pytest
from support.jobs import end_of, wait_for
from support.pages_run import PAGES, ROOT, check, cut_texts, open_page

from clp_core.demo import SOURCE
from clp_core.jobs import JobStore

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")


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


@pytest.mark.process
def test_overview_unpacks_the_demo(workspace):
    app = check(open_page("overview"))
    next(button for button in app.button if button.label == "Unpack the demo").click().run()
    (job,) = JobStore(workspace.jobs).jobs()
    assert end_of(job).state == "finished", job.log_tail()
    assert (workspace.models / SOURCE / "model.safetensors").is_file()
    assert not app.exception


@pytest.mark.process
def test_transfer_page_runs_the_command_it_shows_once(space):
    cut_texts(space)
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


@pytest.mark.process
def test_transfer_page_shows_the_comparison_of_methods(space):
    cut_texts(space)
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


@pytest.mark.process
def test_train_page_starts_a_run_that_the_runs_page_shows_and_stops(target, space):
    cut_texts(space)
    app = check(open_page("train"))
    shown = next(code.value for code in app.code if code.value.startswith("clp train"))
    assert "--preset quick" in shown
    app.button(key="start").click().run()
    check(app)
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "train"]
    assert (job.command, job.spec["arguments"]["max_steps"]) == (shown, 300)
    wait_for(lambda: job.status().state != "queued")
    runs = check(open_page("runs"))
    runs.button(key=f"stop_{job.id}").click().run()
    assert job.stop_asked
    assert end_of(job, 240).state == "stopped", job.log_tail()
    assert check(open_page("runs")).title


def test_unknown_model_is_a_message_not_a_traceback(space):
    app = open_page("overlap", source="/no/such/model")
    check(app)
    assert "/no/such/model" in app.error[0].value.replace("\\", "")


@pytest.mark.process
def test_hub_id_that_is_not_here_offers_to_fetch_it_and_tells_a_plain_failure(space):
    app = check(open_page("tokens", helper="org/model"))
    next(button for button in app.button if "Fetch it from the Hub" in button.label).click().run()
    (job,) = JobStore(space.jobs).jobs()
    end_of(job)
    app = check(open_page("tokens", helper="org/model"))
    assert "Hub could not be reached" in app.error[0].value.replace("\\", "")


@pytest.mark.process
def test_web_process_loads_no_torch(target):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from support.pages_run import PAGES, open_page
for name in PAGES:
    assert not open_page(name).exception
print([name for name in ("torch", "transformers", "umap", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip().splitlines()[-1] == "[]"
