"""``clp jobs``: several jobs at once, comparing, importing, and what is said to wrong input."""

import csv
import json
import re
import unicodedata
from datetime import datetime

import pytest
from support.commands import clp, refused, result_of
from support.made_runs import damage_plan, lines_of, make_run

from clp_core.errors import JobError
from clp_core.jobs import JobStore
from clp_core.training.submit import is_resumable, resume

COMPARED = {"run", "key", "tokens", "steps", "seconds", "tokens_saved", "share_saved", "verdict", "is_lower_bound"}


@pytest.fixture
def runs(workspace):
    return [make_run(workspace, name, lines_of(400, speed=speed)) for name, speed in (("slow", 0.5), ("fast", 2))]


def test_several_jobs_are_shown_renamed_and_removed(runs):
    one, two = (job.id for job in runs)
    assert set(result_of("jobs", "show", one)) == {"job", "name", "state", "reason", "reason_code", "step", "tokens"}
    assert len(result_of("jobs", "show", one, two)["jobs"]) == 2
    assert result_of("jobs", "rename", one, "a better name")["name"] == "a better name"
    assert runs[0].name == "a better name"
    assert len(result_of("jobs", "remove", one, two)["removed"]) == 2
    assert result_of("jobs", "list")["jobs"] == []


def test_comparison_gives_tokens_to_the_level_and_files(runs, tmp_path):
    slow, fast = (job.id for job in runs)
    html, table = tmp_path / "c.html", tmp_path / "c.csv"
    found = result_of("jobs", "compare", slow, fast, "--html", html, "--csv", table)
    baseline, run = found["runs"]
    assert set(run) >= COMPARED
    assert (baseline["verdict"], run["reached"]) == ("baseline", True)
    assert run["share_saved"] == pytest.approx(1 - run["tokens"] / baseline["tokens"])
    assert f"{100 * run['share_saved']:.0f} % of tokens saved" == run["verdict"]
    assert found["answer"].startswith("fast saves")
    assert "<html" in html.read_text()
    assert (tmp_path / "c-points.csv").is_file()
    rows = list(csv.reader(table.read_text().splitlines()))
    assert rows[1][2] == "slow"
    low = result_of("jobs", "compare", slow, fast, "--level", "0.1")
    assert low["level"] == 0.1
    assert low["runs"][1]["verdict"].startswith("> 51.2 k tokens")


def test_imported_loss_is_compared_under_the_same_tokenizer(runs, tmp_path, texts, pair):
    file = tmp_path / "trainer_state.json"
    history = [{"step": step, "eval_loss": 5 - step / 10} for step in (0, 10, 20)]
    file.write_text(json.dumps({"log_history": history}))
    assert "trainer_state.json has scores but no tokens" in refused("jobs", "import", file)
    same = [*("--step-tokens", "128"), *("--eval-text", texts[1]), *("--tokenizer", pair[1])]
    one, two = (result_of("jobs", "import", file, "--name", name, *same)["curve"] for name in ("one", "two"))
    found = result_of("jobs", "compare", one, two, "--measure", "eval_loss")
    assert found["runs"][1]["verdict"] == "0 % of tokens saved"
    assert result_of("jobs", "remove", one)["removed"] == one


def test_imported_curve_is_compared_with_a_run(runs, tmp_path, texts):
    file = tmp_path / "theirs.csv"
    file.write_text("tokens,bits_per_byte\n128,2.0\n51200,1.2\n")
    made = result_of("jobs", "import", file, "--name", "theirs", "--step-tokens", "128", "--eval-text", texts[1])
    assert made["points"] == {"bits_per_byte": 2}
    found = result_of("jobs", "compare", made["curve"], runs[1].id)
    assert "evaluation text differs" in found["runs"][1]["verdict"]


def test_wrong_input_is_told_in_one_line(runs, tmp_path, workspace):
    slow, fast = (job.id for job in runs)
    assert "at least one other run" in refused("jobs", "compare", slow)
    assert "'../../etc'" in refused("jobs", "compare", slow, "../../etc")
    assert "no curve published:x" in refused("jobs", "compare", slow, "published:x")
    assert "--measure: 'loss'" in refused("jobs", "compare", slow, fast, "--measure", "loss")
    assert "eval_loss" not in refused("jobs", "compare", "published:clp", slow)
    assert "no bits_per_byte" in refused("jobs", "compare", "published:clp", slow)
    assert "at least one other run" in refused("jobs", "compare", slow, slow)
    assert "--level" in refused("jobs", "compare", slow, fast, "--level", "-3")
    assert "--html: there is no folder" in refused("jobs", "compare", slow, fast, "--html", tmp_path / "no" / "c.html")
    assert f"no file {tmp_path / 'no.csv'}" in refused("jobs", "import", tmp_path / "no.csv")
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1}))
    assert "trainer_state.json" in refused("jobs", "import", tmp_path / "bad.json")
    assert "all its steps" in refused("jobs", "resume", slow)
    assert "is finished" in refused("jobs", "stop", slow, "--kill")
    assert "1 to 120 characters" in refused("jobs", "rename", slow, " ")
    assert not workspace.curves.exists()


def test_resume_of_a_job_of_an_earlier_version_says_what_to_do(runs):
    job = runs[0]
    job.write_status("stopped")
    spec = json.loads((job.path / "spec.json").read_text())
    (job.path / "spec.json").write_text(json.dumps(spec | {"schema": 1}))
    assert f"{job.id} was made by an earlier version" in refused("jobs", "resume", job.id)


def test_one_spoilt_job_hides_no_other(runs):
    (runs[0].path / "spec.json").write_text("{half")
    (runs[0].path / "status.json").write_bytes(b"")
    listed = result_of("jobs", "list")["jobs"]
    assert len(listed) == 2
    assert {job["state"] for job in listed} == {"lost", "finished"}


def test_job_is_named_by_its_own_name_its_beginning_or_as_the_latest(workspace):
    made = [make_run(workspace, name, lines_of(10)) for name in ("german", "german-2", "french", "twice", "twice")]
    for age, job in enumerate(reversed(made)):
        spec = json.loads((job.path / "spec.json").read_text())
        (job.path / "spec.json").write_text(json.dumps(spec | {"created": spec["created"] - 60 * age}))
    german, german_2, french, older, newest = made

    def shown(name):
        return result_of("jobs", "show", name)["job"]

    assert shown("german") == str(german.path)  # exact before prefix
    assert shown("german-") == str(german_2.path)
    assert shown("fr") == str(french.path)
    assert shown("latest") == str(newest.path)
    assert shown(str(french.path)) == str(french.path)
    french.rename("Québec 1")
    assert shown("Qué") == str(french.path)
    assert shown(unicodedata.normalize("NFD", "Québec 1")) == str(french.path)
    french.rename(unicodedata.normalize("NFD", "Québec 1"))
    assert shown("Qué") == shown("Québec 1") == str(french.path)
    several = refused("jobs", "show", "twice")
    assert "'twice' names several jobs" in several
    for job in (newest, older):
        created = json.loads((job.path / "spec.json").read_text())["created"]
        assert f"{job.id} (twice, {datetime.fromtimestamp(created):%Y-%m-%d %H:%M})" in several
    assert "names several jobs" in refused("jobs", "show", "g")
    assert "there is no job 'spanish'" in refused("jobs", "show", "spanish")
    assert "there is no job ''" in refused("jobs", "show", "")
    assert "NUL" in refused("jobs", "show", "a\0b")


def test_commands_take_the_latest_job_that_they_can_use(workspace):
    one = make_run(workspace, "mine", lines_of(10), state="stopped")
    other = make_run(workspace, "mine", lines_of(10), state="running")
    store = JobStore(workspace.jobs)
    assert "mine" in refused("jobs", "show", "mine")
    assert store.find("mine", is_resumable) == one  # the only one of that name that can be resumed
    assert store.find("latest", is_resumable) == one
    assert store.find("mine", lambda job: job.id == other.id) == other
    assert "is stopped already" in refused("jobs", "stop", one.id)
    assert result_of("jobs", "remove", "latest")["removed"] == str(one.path)
    other.write_status("finished")
    assert "has no complete checkpoint yet" in refused("jobs", "export", "mine", "--output", workspace.models / "m")
    assert "no job can be used here" in refused("jobs", "export", "latest", "--output", workspace.models / "m")
    assert "all its steps" in refused("jobs", "resume", "mine")


@pytest.mark.parametrize("absent", ["block_length", "step_blocks"])
def test_run_with_an_incomplete_plan_is_left_out_of_a_comparison_by_name(runs, workspace, absent):
    one, two = (job.id for job in runs)
    bad = make_run(workspace, "bad", lines_of(10))
    damage_plan(bad, absent)
    found = result_of("jobs", "compare", one, bad.id, two)
    assert [row["run"] for row in found["runs"]] == ["slow", "fast"]
    why = f"bad ({bad.id}) is not compared: the plan in its spec.json has no valid {absent}"
    assert f"warning: {why}" in clp("jobs", "compare", one, bad.id, two).stderr
    assert why in refused("jobs", "compare", bad.id, one)
    assert "no run is left to compare" in refused("jobs", "compare", one, bad.id)
    assert result_of("jobs", "show", "bad")["step"] == 10


@pytest.mark.parametrize(
    ("part", "value", "absent"),
    [("plan", None, "plan.parameters, plan.device,"), ("plan", {"disk_bytes": "x"}, "plan.disk_bytes;"),
     ("argv", None, "argv;"), ("devices", 5, "devices;"), ("devices", [1], "devices;"),
     ("arguments", None, "arguments;")],
)  # fmt: skip
def test_run_with_a_damaged_spec_is_not_resumed_and_says_why(workspace, part, value, absent):
    job = make_run(workspace, "mine", lines_of(10), state="stopped")
    spec = json.loads((job.path / "spec.json").read_text())
    changed = spec[part] | value if isinstance(value, dict) else value
    (job.path / "spec.json").write_text(json.dumps({**spec, part: changed}))
    with pytest.raises(JobError, match=re.escape(f"cannot be resumed: its spec.json has no valid {absent}")):
        resume(workspace, JobStore(workspace.jobs).get(job.id))
    assert job.status().state == "stopped"
