"""Pages beside results of jobs that are missing, cut off or another program's: one line says so, the page goes on."""

import json
import shutil
from dataclasses import asdict

import pytest
from support.made_runs import damage_plan, lines_of, make_run
from support.pages_run import check, open_page

from clp_core.demo import HELPER, SOURCE
from clp_core.files.artifacts import REPORT_FILE, TOKENIZER_REPORT_FILE
from clp_core.jobs import JobStore
from clp_core.jobs.training_checkpoints import seal
from clp_core.publishing.push_options import PushOptions
from clp_core.transfer.options import TransferOptions
from components import jobs
from components.take_away import show_dry_run, show_pushed

DAMAGES = {
    "missing": None,
    "cut off": '{"methods": [{"method": "li',
    "a list": "[1, 2]",
    "another program's": '{"methods": 3, "warnings": "x", "bits_per_byte": "y", "source": 7, "plan": 4, "steps": []}',
}
HELD_OUT = {"centred_cosine": 0.5, "relative_error": 0.9}
COMPARED = {
    "advice": "Use linear: it finds hidden anchors best.",
    "methods": [{"method": "linear", "heldout": HELD_OUT, "zero_step_bits_per_byte": None, "seconds": 1.0, "note": ""}],
}


def damage(file, content):
    if content is None:
        file.unlink()
    else:
        file.write_text(content)


def finished(space, kind, arguments, result, name=""):
    job, _ = JobStore(space.jobs).create(kind, arguments, ["-c", "pass"], f"clp {kind}", name=name)
    (job.path / "result.json").write_text(json.dumps(result))
    job.write_status("finished")
    return job


@pytest.fixture
def pair_jobs(space, target):
    """A comparison of the demo pair and its transfer, both finished."""
    pair = {"source": str(space.models / SOURCE), "helper": str(space.models / HELPER)}
    report = json.loads((target / REPORT_FILE).read_text())
    options = asdict(TransferOptions(*pair.values(), str(target)))
    return [
        finished(space, "compare-methods", pair | {"text": "", "match": "raw", "seed": 42}, COMPARED, "methods"),
        finished(space, "transfer", options, report, "german"),
    ]


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_transfer_page_shows_whole_results(pair_jobs):
    app = check(open_page("transfer"))
    assert not app.error
    assert any("Use linear" in markdown.value for markdown in app.markdown)
    assert any(metric.label == "Held-out cosine" for metric in app.metric)


@pytest.mark.usefixtures("server_that_has_run_app_once")
@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_transfer_page_says_which_results_cannot_be_read(pair_jobs, content):
    for job in pair_jobs:
        damage(job.path / "result.json", content)
    app = check(open_page("transfer"))
    told = [error.value.replace("\\", "") for error in app.error]
    assert [line.partition(":")[0] for line in told] == [
        "The result of methods cannot be read",
        "The result of german cannot be read",
    ]
    assert all("result.json is missing or damaged. Run it again." in line for line in told)
    assert any(button.label == "Compare the methods" for button in app.button)


@pytest.mark.usefixtures("server_that_has_run_app_once")
@pytest.mark.parametrize("content", [DAMAGES["missing"], DAMAGES["another program's"]], ids=["missing", "foreign"])
def test_pages_of_runs_open_beside_damaged_files_of_a_run(space, target, content):
    run = make_run(space, "a run", lines_of(60), model=str(target))
    checkpoint = run.path / "checkpoints" / "checkpoint-60"
    shutil.copytree(target, checkpoint)
    seal(checkpoint, {"bits_per_byte": 1.0})
    names = ("result", "plan", "warnings", "scoring", "label", "inputs", "heartbeat", "process", "error", "status")
    for file in [*(run.path / f"{name}.json" for name in names), checkpoint / REPORT_FILE, run.path / "samples.jsonl"]:
        file.touch()
        damage(file, content)
    for page in ("runs", "compare", "train", "overview"):
        assert check(open_page(page)).title, page


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_run_with_an_incomplete_plan_is_shown_with_dashes_and_not_compared(space):
    for name in ("one", "two"):
        make_run(space, name, lines_of(60))
    bad = make_run(space, "bad", lines_of(60), state="running")
    damage_plan(bad, "steps", "block_length", parameters="x", step_blocks=[], stages=[{"x": 1}])
    runs = check(open_page("runs"))  # the newest run is shown first
    assert any("60 of – steps done" in markdown.value for markdown in runs.markdown)
    assert {"Tokens seen": "–", "Time left": "–"}.items() <= {each.label: each.value for each in runs.metric}.items()
    compared = check(open_page("compare"))
    told = [warning.value.replace("\\", "") for warning in compared.warning]
    why = "the plan in its spec.json has no valid block_length and no valid step_blocks"
    assert [line for line in told if "not compared" in line] == [f"bad ({bad.id}) is not compared: {why}."]
    offered = str(
        [*compared.selectbox(key="widget_baseline").options, *compared.multiselect(key="widget_runs").options]
    )
    assert "one" in offered
    assert "two" in offered
    assert "bad" not in offered


@pytest.mark.usefixtures("server_that_has_run_app_once")
@pytest.mark.parametrize("content", [*DAMAGES.values()][1:], ids=[*DAMAGES][1:])
def test_helper_page_opens_beside_a_damaged_report_of_a_tokenizer(space, content):
    folder = space.root / "tokenizers" / "mine"
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(space.models / HELPER / name, folder / name)
    (folder / TOKENIZER_REPORT_FILE).touch()
    damage(folder / TOKENIZER_REPORT_FILE, content)
    app = check(open_page("helper"))
    told = [warning.value.replace("\\", "") for warning in app.warning]
    assert any(f"{TOKENIZER_REPORT_FILE} is missing or damaged" in line for line in told)


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_push_with_a_damaged_result_is_not_offered_and_says_so(workspace, monkeypatch, content):
    job = finished(workspace, "push", asdict(PushOptions("m", "me/m")), {})
    damage(job.path / "result.json", content)
    said = []
    monkeypatch.setattr(jobs.st, "error", lambda text, icon: said.append(text.replace("\\", "")))
    assert show_dry_run(job) is False
    show_pushed(job)
    assert len(said) == 2
    assert all("result.json is missing or damaged" in line for line in said)


@pytest.mark.parametrize(
    ("heartbeat", "fraction", "told"),
    [
        ({"phase": "reading", "fraction": 0.5, "bytes_total": 2e12, "bytes_done": 1e12}, 0.5, "reading"),
        ({"fraction": "y", "phase_seconds": [], "bytes_total": {}, "phase": 3}, 0.0, "3"),
        ({"fraction": float("nan"), "bytes_total": 5}, 0.0, "starting"),
        ([1], 0.0, "starting"),
    ],
)
def test_progress_of_a_job_outlives_a_foreign_heartbeat(workspace, monkeypatch, heartbeat, fraction, told):
    job = finished(workspace, "push", {}, {})
    (job.path / "heartbeat.json").write_text(json.dumps(heartbeat))
    shown = []
    monkeypatch.setattr(jobs.st, "progress", lambda value, text: shown.append((value, text)))
    jobs.progress(job)
    assert shown[0][0] == fraction
    assert shown[0][1].startswith(told)
