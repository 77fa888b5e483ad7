"""The page Playground: what it asks, what it shows, and what it says when a session is gone."""

import json
import os
import shutil
import signal
from dataclasses import asdict

import psutil
import pytest
from support.jobs import end_of, process_of, wait_for
from support.pages_run import check, html_of, open_page, text_of
from support.slow_sessions import slow_down

from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.playground.answers import GenerateOptions
from clp_core.playground.session import Session, sessions
from clp_core.tokenization.scripts import printable
from components.messages import escaped

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")

EVIL = '<script>window.attacked=1</script>\n# heading **b** :red[x] $y$ <img src=x onerror="x()">'


@pytest.fixture
def models(workspace, pair):
    """Two small models in the workspace; sessions that live at the end are ended."""
    for folder in pair:
        shutil.copytree(folder, workspace.models / folder.name)
    yield "source,helper"
    for job in JobStore(workspace.jobs).jobs():
        if not job.status().is_over:
            job.ask_stop(kill=True)
            end_of(job)


def press(app, label):
    next(button for button in app.button if button.label == label).click().run()
    return check(app)


def send(app, prompt):
    app.text_area[0].set_value(prompt)
    return press(app, "Send")


def shown_until(app, condition, seconds=120):
    def run():
        check(app.run())
        return condition()

    wait_for(run, seconds)


def folders_of(workspace):
    return tuple(str(workspace.models / name) for name in ("source", "helper"))


def made_session(workspace, texts, *, state="finished", reason="", ended=True, prompt="Es war"):
    """Make the directory of a session that has answered one prompt."""
    folders = folders_of(workspace)
    arguments = {"models": sorted(folders), "idle_seconds": 120, "content": {}}
    job, _ = JobStore(workspace.jobs).create("playground", arguments, ["-c", "pass"], "clp playground")
    session = Session(job)
    session.request_file(1).parent.mkdir()
    session.answers_file(1).parent.mkdir()
    write_json(session.request_file(1), asdict(GenerateOptions(folders, prompt)))
    events = []
    for model, text in enumerate(texts):
        events.append({"model": model, "prompt_tokens": 3})
        events.append({"model": model, "id": 7, "text": text, "bytes": 8, "log_p": -2.0, "seconds": 0.5})
        events += [{"model": model, "text": "", "seconds": 0.5, "stopped": "length"}] if ended else []
    session.answers_file(1).write_text("".join(json.dumps(event) + "\n" for event in events))
    job.write_status(state, Reason(ReasonCode.ENDED, reason))
    return session


@pytest.mark.process
def test_prompt_is_sent_to_two_models_and_answered_side_by_side(workspace, models):
    app = check(open_page("playground", models=models, tokens="12"))
    assert "No memory is held" in app.caption[-1].value
    send(app, "Der alte Fuchs")
    shown_until(app, lambda: "**source** wrote" in text_of(app))
    (session,) = sessions(workspace)
    for answer in session.answers(1):
        assert f"Der alte Fuchs</span>{escaped(printable(answer.text))}</div>" in html_of(app)
    assert f"{session.answers(1)[0].tokens} tokens · " in " ".join(caption.value for caption in app.caption)
    assert "given back in" in text_of(app)
    assert app.query_params["prompt"] == "Der alte Fuchs"
    command = app.code[0].value
    assert command == f"clp generate {' '.join(folders_of(workspace))} --prompt 'Der alte Fuchs' --max-tokens 12"
    send(app, "Ein Modell")
    shown_until(app, lambda: not any(button.label == "Stop" for button in app.button))
    assert [expander.label.replace("\\", "") for expander in app.expander][-1] == "1: Der alte Fuchs"
    press(app, "Use this prompt")
    assert app.text_area[0].value == "Der alte Fuchs"
    press(app, "Give the memory back")
    assert end_of(session.job).state == "stopped"
    check(app.run())
    assert any("No memory is held" in caption.value for caption in app.caption)
    assert len(sessions(workspace)) == 1


@pytest.mark.process
def test_second_click_and_second_tab_ask_nothing_twice_and_stop_ends_the_answer(
    workspace, models, monkeypatch, tmp_path
):
    slow_down(monkeypatch, tmp_path / "slow", 0.2)
    first = check(open_page("playground", models=models, go_on="true", tokens="50"))
    send(first, "Das Haus")
    press(first, "Send")
    second = check(open_page("playground", models="helper,source", go_on="true", tokens="50", prompt="Das Haus"))
    assert "Prompt 1 is being answered" in text_of(second)
    (session,) = sessions(workspace)
    assert session.numbers() == [1]
    wait_for(lambda: session.answers(1)[1].tokens >= 2, 120)
    check(first.run())
    assert "[writing]" in text_of(first)
    press(first, "Stop")
    shown_until(first, lambda: "[stopped]" in text_of(first))
    assert session.is_open


def test_text_is_shown_as_the_model_wrote_it(workspace, models):
    made_session(workspace, [EVIL, "\x1b[31mrot"], prompt="<b>Es</b>")
    app = check(open_page("playground", models=models))
    shown = html_of(app)
    assert "&lt;script&gt;window.attacked=1&lt;/script&gt;\n# heading **b** :red[x] $y$ &lt;img" in shown
    assert "<script" not in shown
    assert "<img" not in shown
    assert '<span class="prompt">&lt;b&gt;Es&lt;/b&gt;</span>␛[31mrot' in shown
    assert "heading" not in text_of(app)


@pytest.mark.process
def test_killed_session_is_told_and_started_again(workspace, models):
    app = send(check(open_page("playground", models=models)), "Der")
    (session,) = sessions(workspace)
    shown_until(app, lambda: session.phase == "idle")
    os.kill(process_of(session).pid, signal.SIGKILL)
    end_of(session.job)
    check(app.run())
    assert app.error[0].value.replace("\\", "").startswith("The session has ended: ")
    assert "killed by signal 9 (SIGKILL)" in app.error[0].value.replace("\\", "")
    press(app, "Start again")
    again = sessions(workspace)[0]
    assert again.job.id != session.job.id
    assert again.request(1).prompt == "Der"
    assert not app.error


def test_answer_that_was_cut_off_by_a_crash_says_so(workspace, models):
    made_session(workspace, ["halb", "halb"], state="failed", reason="out of memory: the kernel killed it", ended=False)
    app = check(open_page("playground", models=models))
    assert "[cut off]" in text_of(app)
    assert "out of memory: the kernel killed it" in app.error[0].value.replace("\\", "")
    assert any(button.label == "Start again" for button in app.button)


def test_models_that_do_not_fit_are_told_and_the_page_goes_on(workspace, models, monkeypatch):
    app = check(open_page("playground", models=models))
    memory = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    send(app, "Der")
    assert "of memory on the CPU, 0.0 GB can be had" in app.error[0].value.replace("\\", "")
    assert app.code
    assert sessions(workspace) == []


def test_unknown_model_and_outside_path_are_told(workspace, models):
    app = check(open_page("playground", models="source,nothing-here"))
    assert "there is no model nothing-here" in app.error[0].value.replace("\\", "")
    app = check(open_page("playground", models="/etc"))
    assert "is outside of the workspace" in app.error[0].value
    assert not app.text_area


def test_broken_request_file_is_told_and_hides_no_other(workspace, models):
    session = made_session(workspace, ["eins", "zwei"])
    session.request_file(2).write_text("{half")
    app = check(open_page("playground", models=models))
    assert "prompt 2 cannot be read" in app.warning[0].value.replace("\\", "")
    assert "eins" in html_of(app)


def test_settings_and_prompt_come_from_the_address_and_reach_the_command(workspace, models):
    query = {"tokens": "7", "temperature": "0.0", "seed": "3", "top_k": "0", "prompt": "Es war"}
    app = check(open_page("playground", models="helper", **query))
    command = app.code[0].value
    assert command.endswith("/helper --prompt 'Es war' --max-tokens 7 --temperature 0.0 --top-k 0 --seed 3")


def test_prompt_that_is_long_or_gone_leaves_the_address(workspace, models, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)  # so that sending starts nothing
    app = check(open_page("playground", models="helper", prompt="Es war"))
    for prompt in ("", "Ein", "lang " * 50):
        send(app, prompt)
        assert app.query_params.get("prompt") == (prompt if prompt == "Ein" else None)
        assert app.text_area[0].value == prompt


def test_access_token_in_a_prompt_is_refused(workspace, models):
    app = check(open_page("playground", models=models))
    app.text_area[0].set_value("hf_" + "a" * 34)
    next(button for button in app.button if button.label == "Send").click().run()
    assert "access token" in app.error[0].value
    assert sessions(workspace) == []


def test_checkpoint_of_a_run_is_asked_from_the_page_of_the_run(space):
    from support.made_runs import lines_of, make_run

    from clp_core.jobs.training_checkpoints import seal

    run = make_run(space, "my run", lines_of(200))
    folder = run.path / "checkpoints" / "checkpoint-200"
    shutil.copytree(space.models / "demo-helper-de", folder)
    seal(folder)
    app = check(open_page("runs"))
    link = next(link for link in app.get("page_link") if link.proto.label == "Ask the newest")
    name = f"{run.id}/checkpoint-200"
    assert name.replace("/", "%2F") in link.proto.query_string
    app = check(open_page("playground", models=name))
    assert app.multiselect[0].value == [name]
    assert f"my run ({run.id[-4:]}), step 200" in app.multiselect[0].options
    assert str(folder) in app.code[0].value
