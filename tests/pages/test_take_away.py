"""The page Runs, section "Take it away": export, download, dry run and push."""

import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest
from support.hub_server import USER
from support.jobs import end_of, wait_for
from support.made_runs import add_checkpoint, lines_of, made_target, make_run
from support.pages_run import check, open_page, text_of

from clp_core.jobs import JobStore
from clp_core.publishing.export import export
from clp_core.publishing.export_options import ExportOptions
from components import take_away

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")


@pytest.fixture(scope="module")
def target(tmp_path_factory, tokenizers):
    return made_target(tmp_path_factory.mktemp("target"), tokenizers)


@pytest.fixture
def run(workspace, target):
    job = make_run(workspace, "a german run", lines_of(200), model=str(target))
    for step, bits in ((100, 1.25), (200, 1.5)):
        add_checkpoint(job, target, step, bits=bits)
    return job


def button(app, label):
    return next((button for button in app.button if button.label.replace("\\", "") == label), None)


def codes(app):
    return [code.value for code in app.code]


def field(app, label):
    return next(found for found in [*app.text_input, *app.selectbox, *app.toggle] if found.label == label)


def finished(space, kind, n=1):
    """Wait for the n-th job of a kind, and return it."""
    jobs = wait_for(
        lambda: len(found := [job for job in JobStore(space.jobs).jobs() if job.kind == kind]) >= n and found
    )
    assert end_of(jobs[0], 120).state == "finished", jobs[0].log_tail()
    return jobs[0]


@pytest.fixture
def exported(run, workspace):
    """The best checkpoint, exported as its job would have done."""
    options = ExportOptions(run.id, str(workspace.models / "a-german-run-100"), checkpoint="100")
    export(options, workspace)
    job, _ = JobStore(workspace.jobs).create("export", asdict(options), ["-c", "pass"], "clp jobs export")
    job.write_status("finished")
    return Path(options.output)


def test_run_without_a_checkpoint_has_nothing_to_take_away(workspace):
    make_run(workspace, "new", lines_of(9))
    assert "Take it away" not in [heading.value for heading in check(open_page("runs")).subheader]


def test_best_checkpoint_is_offered_first_with_its_path_and_command(run, workspace):
    app = check(open_page("runs"))
    assert "Take it away" in [heading.value for heading in app.subheader]
    choice = field(app, "Checkpoint")
    assert choice.value == 100
    assert choice.options == ["step 200 · 1.500 bits per byte · last", "step 100 · 1.250 bits per byte · best"]
    assert str(run.path / "checkpoints" / "checkpoint-100") in codes(app)
    output = workspace.models / "a-german-run-100"
    assert f"clp jobs export {run.id} --output {output} --checkpoint 100" in codes(app)
    choice.set_value(200).run()
    field(app, "Data type").set_value("bfloat16").run()
    check(app)
    output = workspace.models / "a-german-run-200"
    assert f"clp jobs export {run.id} --output {output} --checkpoint 200 --dtype bfloat16" in codes(app)
    field(app, "Name of the exported model").set_value("../x").run()
    assert "plain name without slashes" in app.error[0].value
    assert button(app, "Export") is None


@pytest.mark.process
def test_export_is_a_job_and_its_folder_is_downloaded_as_one_file(run, workspace):
    button(check(open_page("runs")), "Export").click().run()
    finished(workspace, "export")
    app = check(open_page("runs"))
    output = workspace.models / "a-german-run-100"
    assert str(output) in codes(app)
    assert button(app, "Export").disabled
    (offered,) = app.get("download_button")
    assert offered.proto.label.startswith("Download as one file")
    assert offered.proto.ignore_rerun  # a run forgets what was offered before it
    with tarfile.open(fileobj=io.BytesIO(take_away.tar_of(output))) as archive:
        names = archive.getnames()
        held = archive.extractfile(f"{output.name}/model.safetensors").read()
    assert set(names) == {f"{output.name}/{path.name}" for path in output.iterdir()}
    assert held == (output / "model.safetensors").read_bytes()


def test_large_model_is_not_held_in_memory_for_a_download(exported, monkeypatch):
    app = check(open_page("runs"))
    monkeypatch.setattr(take_away, "DOWNLOAD_LIMIT", 1000)
    app.run()
    check(app)
    assert not app.get("download_button")
    assert any(code.startswith("rsync -av --partial ") and "a-german-run-100" in code for code in codes(app))


@pytest.mark.process
def test_push_is_offered_after_the_dry_run_only(hub, online, logged_in, exported, workspace):
    app = check(open_page("runs"))
    assert "hf auth login" in " ".join(caption.value for caption in app.caption)
    field(app, "Repository").set_value(f"{USER}/german").run()
    field(app, "Languages").set_value("de, en").run()
    check(app)
    told = f"clp push {exported} {USER}/german --language de --language en"
    assert f"{told} --dry-run" in codes(app)
    assert button(app, f"Push to {USER}/german") is None
    button(app, "Dry run").click().run()
    finished(workspace, "push")
    assert not hub.repos
    app = check(open_page("runs"))
    assert "(private) will be made. 10 files" in text_of(app).replace("\N{NARROW NO-BREAK SPACE}", "")
    assert any("license: apache-2.0" in code for code in codes(app))
    assert told in codes(app)
    button(app, f"Push to {USER}/german").click().run()
    finished(workspace, "push", 2)
    assert hub.repos["models", f"{USER}/german"].messages[1:] == ["Push a-german-run-100 by CLP Workbench"]
    app = check(open_page("runs"))
    assert f"{hub.endpoint}/{USER}/german" in app.success[0].value
    assert button(app, f"Push to {USER}/german") is None
    assert button(app, "Dry run again") is not None


@pytest.mark.process
def test_what_stands_against_a_push_is_told_and_it_is_not_offered(hub, online, exported, workspace):
    app = check(open_page("runs"))
    field(app, "Repository").set_value("german").run()
    assert "is not the name of a repository" in app.error[0].value.replace("\\", "")
    field(app, "Repository").set_value(f"{USER}/german").run()
    button(app, "Dry run").click().run()
    finished(workspace, "push")
    app = check(open_page("runs"))
    assert "run `hf auth login` in a terminal" in " ".join(warning.value for warning in app.warning).replace("\\", "")
    assert button(app, f"Push to {USER}/german") is None
    assert button(app, "Dry run again") is not None


@pytest.mark.process
def test_dry_run_of_another_content_does_not_count(hub, online, logged_in, exported, workspace):
    app = check(open_page("runs"))
    field(app, "Repository").set_value(f"{USER}/german").run()
    button(app, "Dry run").click().run()
    finished(workspace, "push")
    config = exported / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"changed": True}))
    app = check(open_page("runs"))
    assert button(app, f"Push to {USER}/german") is None
    assert button(app, "Dry run") is not None


@pytest.mark.process
def test_page_tells_how_far_a_fetch_is(hub, online, workspace, big_model):
    hub.add("org/big", big_model)
    hub.slow_s = 0.005
    app = check(open_page("tokens", source="org/big", helper="org/big"))
    button(app, "Fetch it from the Hub and prepare org/big").click().run()
    (job,) = JobStore(workspace.jobs).jobs()
    wait_for(lambda: (job.heartbeat().get("bytes_done") or 0) > 10_000_000, 120)
    app = check(open_page("tokens", source="org/big", helper="org/big"))
    told = " ".join(bar.proto.text for bar in app.get("progress")).replace("\\", "")
    assert "fetching org/big · 10.5\N{NARROW NO-BREAK SPACE}MB of " in told
    job.ask_stop()
    assert end_of(job, 120).state == "stopped"
