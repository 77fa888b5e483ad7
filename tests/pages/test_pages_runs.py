"""The pages Runs, Compare and Train around runs: what they show, and what their buttons do."""

import json
import re
import shutil
import time

import pytest
from support.jobs import end_of, train_options, wait_for
from support.made_runs import PLAN, lines_of, make_run
from support.pages_run import check, cut_texts, open_page, text_of

from clp_core.experiments.curve_lookup import curve_named
from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.jobs.run_metrics import MAX_POINTS, RunMetrics
from clp_core.jobs.status import Status
from clp_core.run_comparison.curve import published_curves
from clp_core.run_comparison.report import answer
from clp_core.run_comparison.tokens_saved import Comparison
from clp_core.tokenization.text_reading import SCORING_FILE
from clp_core.training.alerts import alerts_of
from clp_core.training.submit import submit_train

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")

FINISHED, RUNNING = Status("finished"), Status("running")


def press(app, label="", key=""):
    (app.button(key=key) if key else next(button for button in app.button if button.label == label)).click().run()
    return check(app)


def charts_of(app):
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def test_runs_page_shows_the_newest_run_and_several_together(space):
    first = make_run(space, "first", lines_of(200))
    time.sleep(0.01)
    second = make_run(space, "second", lines_of(400, speed=2), seed=3)
    app = check(open_page("runs"))
    assert "400 of 400 steps" in text_of(app).replace("\N{NARROW NO-BREAK SPACE}", "")
    app = check(open_page("runs", run=f"{first.id},{second.id}"))
    assert [line["name"] for line in charts_of(app)[0]["data"]] == ["first", "second"]
    tables = [table.value for table in app.dataframe]
    differing = next(table for table in tables if "setting" in table.columns)
    assert set(differing["setting"]) >= {"max_steps"}
    assert "weight_decay" not in set(differing["setting"])


def test_runs_page_draws_a_long_run_in_few_points_with_its_raw_line(space):
    make_run(space, "long", lines_of(12_000))
    app = check(open_page("runs"))
    app.slider[0].set_value(0.9).run()
    check(app)
    raw, smooth = charts_of(app)[1]["data"]
    assert raw["opacity"] == 0.3
    assert smooth["name"] == "long"
    from clp_core.figures import curves

    figure = curves({"long": RunMetrics(JobStore(space.jobs).jobs()[0].metrics_file).read()}, "loss", smoothing=0.9)
    assert all(len(line.x) <= MAX_POINTS for line in figure.data)


def test_paused_page_draws_no_curve_anew(space, monkeypatch):
    job = make_run(space, "going on", lines_of(60), state="queued")
    import streamlit as st

    intervals = {}
    fragment = st.fragment

    def noting(function=None, *, run_every=None):
        def decorate(decorated):
            intervals[decorated.__name__] = run_every
            return fragment(decorated, run_every=run_every)

        return decorate if function is None else decorate(function)

    monkeypatch.setattr(st, "fragment", noting)
    app = check(open_page("runs"))
    assert app.get("plotly_chart")
    assert intervals["live_head"] == intervals["live_curves"] == 5.0
    toggles = {toggle.label: toggle for toggle in app.toggle}
    toggles["Pause curves"].set_value(True).run()
    check(app)
    assert intervals["live_head"] == 5.0  # the state shown is always the present one
    assert intervals["live_curves"] is None
    assert "60 of 400" in text_of(app)
    toggles["Log scale"].set_value(True).run()
    assert all(chart["layout"]["yaxis"]["type"] == "log" for chart in charts_of(app)[:2])
    assert job.id in app.query_params["run"]


def test_runs_page_says_why_a_run_failed_and_what_is_kept(space):
    job = make_run(space, "bad", lines_of(60))
    job.write_status("failed", Reason(ReasonCode.OUT_OF_MEMORY, "out of memory: the kernel killed it"))
    app = check(open_page("runs"))
    told = app.error[0].value.replace("\\", "")
    assert "failed" in told
    assert "out of memory: the kernel killed it" in told
    assert "No checkpoint" in told
    assert app.button(key=f"resume_{job.id}")


@pytest.mark.process
def test_run_is_stopped_resumed_renamed_and_deleted_from_the_page(space, pair, texts):
    job = submit_train(space, train_options(pair, texts, max_steps=100_000, eval_every=100_000, save_every=50))
    wait_for(lambda: job.progress()[0] >= 3, 120)
    press(open_page("runs"), key=f"stop_{job.id}")
    assert end_of(job, 120).state == "stopped"
    press(open_page("runs"), key=f"resume_{job.id}")
    wait_for(lambda: job.status().state == "running" and job.progress()[0] > job.result().get("step", 0), 120)
    app = press(open_page("runs"), key=f"stop_{job.id}")
    press(app, key=f"kill_{job.id}")
    assert end_of(job, 120).state == "stopped"
    app = check(open_page("runs"))
    next(field for field in app.text_input if field.label == "Name").set_value("a better name").run()
    press(app, "Rename")
    assert job.name == "a better name"
    app = press(check(open_page("runs")), key=f"delete_{job.id}")
    assert "This cannot be undone" in text_of(app)
    assert job.path.is_dir()
    press(app, "Delete it")
    assert not job.path.exists()
    assert not list(space.jobs.glob(".removed-*"))
    assert "No run yet" in text_of(open_page("runs"))


@pytest.mark.process
def test_clone_fills_the_form_with_the_settings_of_a_run(target, space):
    cut_texts(space)
    app = check(open_page("train"))
    app.radio[0].set_value("Steps").run()
    numbers = {number.label: number for number in app.number_input}
    numbers["Steps"].set_value(77).run()
    {number.label: number for number in app.number_input}["Weight decay"].set_value(0.25).run()
    {box.label: box for box in app.selectbox}["Begin-of-text token"].set_value("first").run()
    {box.label: box for box in app.selectbox}["Control strings"].set_value("text").run()
    shown = next(code.value for code in app.code if code.value.startswith("clp train"))
    press(app, key="start")
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "train"]
    job.ask_stop()
    assert end_of(job, 120).state == "stopped"
    cloned = check(open_page("train", clone=job.id))
    again = next(code.value for code in cloned.code if code.value.startswith("clp train"))
    assert "--max-steps 77" in again
    assert "--weight-decay 0.25" in again
    assert "--begin first --control-strings text" in again
    assert again.replace(f"'{job.name} again'", f"'{job.name}'") == shown


@pytest.mark.process
def test_train_page_says_what_a_run_would_wait_for(target, space, pair, texts):
    job = submit_train(space, train_options(pair, texts, max_steps=100_000, eval_every=100_000, name="the first"))
    wait_for(lambda: job.status().state == "running", 60)
    app = check(open_page("train"))
    assert job.name in app.info[-1].value.replace("\\", "")
    assert any(button.label == "Put in the queue" for button in app.button)
    job.ask_stop()
    end_of(job, 120)


def test_compare_page_names_the_gap_between_two_runs(space):
    slow = make_run(space, "random rows", lines_of(400, speed=0.5))
    fast = make_run(space, "linear rows", lines_of(400, speed=2))
    app = check(open_page("compare", baseline=slow.id))
    comparison = Comparison.of(curve_named(space, slow.id), [curve_named(space, fast.id)], "bits_per_byte")
    assert comparison.savings[0].share() > 0
    assert answer(comparison) in text_of(app)
    table = next(table.value for table in app.dataframe if "verdict" in table.value.columns)
    assert table["verdict"].iloc[1] == comparison.savings[0].verdict
    figure = charts_of(app)[0]
    assert figure["data"][-1]["name"] == table["verdict"].iloc[1]
    assert any(fast.id in code.value and "clp jobs compare" in code.value for code in app.code)


def test_compare_page_says_why_runs_are_not_compared(space):
    one = make_run(space, "one", lines_of(400))
    other = make_run(space, "other", lines_of(400, speed=2), text="b" * 64)
    app = check(open_page("compare", baseline=one.id, runs=other.id))
    table = next(table.value for table in app.dataframe if "verdict" in table.value.columns)
    comparison = Comparison.of(curve_named(space, one.id), [curve_named(space, other.id)], "bits_per_byte")
    assert comparison.savings[0].obstacles
    assert table["verdict"].iloc[1] == comparison.savings[0].verdict
    assert answer(comparison) in text_of(app)


def test_reasons_that_hinder_a_comparison_stand_on_the_pages_of_the_run_and_of_the_comparison(space):
    one = make_run(space, "one", lines_of(400))
    other = make_run(space, "other", lines_of(400, speed=2), tokenizer="u" * 64)
    reason = {"code": "lossy_tokenizer", "reason": "a third of the documents is changed"}
    write_json(other.path / SCORING_FILE, {"begin": "first", "bytes": 9, "not_comparable": [reason]})
    app = check(open_page("compare", baseline=one.id, runs=other.id))
    table = next(table.value for table in app.dataframe if "verdict" in table.value.columns)
    assert reason["reason"] in table["verdict"].iloc[1]
    page = check(open_page("runs", run=other.id))
    assert any(reason["reason"] in warning.value for warning in page.warning)
    assert not any(reason["reason"] in warning.value for warning in check(open_page("runs", run=one.id)).warning)


def test_compare_page_opens_the_papers_experiment_on_a_fresh_machine(workspace):
    app = check(open_page("compare"))
    assert re.search(r"auto-taught(-fast)? \(demo, mean of 3 seeds\) saves \d\d % of the tokens", text_of(app))
    arms = next(table.value for table in app.dataframe if "arm" in table.value.columns)
    assert {"scratch", "clp", "auto-taught"} <= set(arms["arm"])
    assert "experiment:demo/scratch" in next(code.value for code in app.code if "clp jobs compare" in code.value)


def test_compare_page_opens_a_ready_made_comparison_beside_runs(space):
    make_run(space, "mine", lines_of(40))
    app = check(open_page("compare"))
    assert "experiment:" not in app.query_params["baseline"]
    app = press(app, "The paper's experiment on the demo pair")
    assert app.query_params["baseline"] == "experiment:demo/scratch"
    assert "auto-taught" in text_of(app)


def test_compare_page_shows_the_papers_own_saving(workspace):
    app = check(open_page("compare", measure="eval_loss", baseline="published:scratch", runs="published:clp"))
    clp, scratch = published_curves()
    assert answer(Comparison.of(scratch, [clp], "eval_loss")) in text_of(app)


def test_hundred_runs_of_many_points_are_drawn_in_a_bounded_figure(space):
    lines = lines_of(3000, eval_every=1)
    for i in range(12):
        make_run(space, f"run {i}", lines, seed=i)
    keys = ",".join(job.id for job in JobStore(space.jobs).jobs())
    app = check(open_page("compare", runs=keys))
    spec = app.get("plotly_chart")[0].proto.spec
    assert len(charts_of(app)[0]["data"]) >= 12
    assert len(spec) < 3_000_000


def metrics_with(tmp_path, lines):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunMetrics(file).read()


def test_alerts_tell_of_what_goes_wrong_and_only_of_that(workspace, tmp_path):
    job = make_run(workspace, "a run", lines_of(200))
    assert alerts_of(job, RUNNING, metrics_with(tmp_path, lines_of(200))) == []
    up = lines_of(100) + [line | {"loss": 3.5} for line in lines_of(104, first=101, eval_every=1000)]
    assert "explodes: 3.5 now" in alerts_of(job, RUNNING, metrics_with(tmp_path, up))[0]
    steep = lines_of(100) + [line | {"grad_norm": 50.0} for line in lines_of(101, first=101, eval_every=1000)]
    assert "50 times as long as usual at step 101" in alerts_of(job, RUNNING, metrics_with(tmp_path, steep))[0]
    worse = [
        line | ({"bits_per_byte": 1 + line["step"] / 1000} if "eval_loss" in line else {}) for line in lines_of(200)
    ]
    assert "1.0000 bits per byte at step 0, 1.2000 now" in alerts_of(job, RUNNING, metrics_with(tmp_path, worse))[0]
    silent = RUNNING.because(ReasonCode.NO_SIGN, "no sign for 99 s")
    assert "no sign for 99 s" in alerts_of(job, silent, metrics_with(tmp_path, lines_of(200)))[0]


def test_alert_tells_of_a_disk_without_room_before_it_is_needed(workspace, tmp_path, monkeypatch):
    job = make_run(workspace, "a run", lines_of(200), parameters=PLAN.parameters * 1000)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    metrics = metrics_with(tmp_path, lines_of(200))
    assert "the run will fail on it" in alerts_of(job, RUNNING, metrics)[0]
    assert alerts_of(job, FINISHED, metrics) == []
