"""Real supervisors and real processes; the directory says what is true."""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from support.jobs import end_of, train_options, wait_for

from clp_core.environment import gpus as driver
from clp_core.environment.versions import code_version
from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore, start
from clp_core.jobs.process_identity import boot_id, identity, is_alive
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.submission import submit_transfer
from clp_core.training.options import TrainOptions
from clp_core.training.submit import submit_train
from clp_core.transfer.options import TransferOptions


@pytest.fixture
def store(workspace):
    return JobStore(workspace.jobs)


def make_job(store, code, kind="project", **arguments):
    job, is_new = store.create(kind, {"code": code, **arguments}, ["-c", code], "clp project", name="Try me")
    assert is_new
    return job


pytestmark = pytest.mark.process


def test_commit_of_the_code_is_not_taken_from_a_repository_around_it(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    here = tmp_path / "store.py"
    here.touch()
    monkeypatch.setattr("clp_core.environment.versions.__file__", str(here))
    assert code_version() is None  # no repository
    git("init")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-m", "of another project")
    assert code_version() is None
    git("add", "store.py")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-m", "now its own")
    assert re.fullmatch(r"[0-9a-f]{7,}", code_version())
    here.write_text("changed")
    assert code_version().endswith("-dirty")


def test_job_goes_from_queued_to_finished(store):
    job = make_job(store, "print('hello from the job')")
    assert job.status().state == "queued"
    start(job)
    assert end_of(job).state == "finished"
    assert "hello from the job" in job.log_tail()
    spec = json.loads((job.path / "spec.json").read_text())
    assert spec["kind"] == "project"
    assert spec["versions"]["torch"].startswith("2.")
    assert spec["code"] == code_version()
    events = [json.loads(line)["event"] for line in (job.path / "events.jsonl").read_text().splitlines()]
    assert events == ["started", "ended"]


def test_failed_job_says_why_in_one_line(store):
    job = make_job(store, "import sys; sys.exit('clp: the disk is made of cheese')")
    start(job)
    status = end_of(job)
    assert (status.state, status.reason_code, status.exit_code) == ("failed", ReasonCode.ERROR, 1)
    assert status.reason == "the disk is made of cheese"


def test_killed_process_is_told_by_its_signal(store):
    job = make_job(store, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    start(job)
    status = end_of(job)
    assert status.reason_code == ReasonCode.KILLED_BY_SIGNAL
    assert "9 (SIGKILL)" in status.reason


def test_stopping_a_job_that_saves_nothing_ends_its_process(store):
    job = make_job(store, "import time; time.sleep(600)")
    start(job)
    wait_for(lambda: job.status().state == "running")
    job.ask_stop()
    assert end_of(job).state == "stopped"


def test_killed_supervisor_is_lost_and_takes_its_process_along(store):
    job = make_job(store, "import time; time.sleep(600)")
    start(job)
    wait_for(lambda: job.status().state == "running")
    supervisor = json.loads((job.path / "process.json").read_text())["pid"]
    (child,) = wait_for(lambda: psutil.Process(supervisor).children())
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)
    assert wait_for(lambda: job.status().state == "lost", 30)
    assert json.loads((job.path / "status.json").read_text())["state"] == "running"  # nobody writes "lost"


def test_job_outlives_the_process_that_started_it(store, workspace):
    job = make_job(store, "import time; time.sleep(3)")
    code = f"""
import signal, time
from pathlib import Path
from clp_core.jobs import Job, start
start(Job(Path({str(job.path)!r})))
time.sleep(600)
"""
    server = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for(lambda: job.status().state == "running")
    os.killpg(server.pid, signal.SIGINT)
    server.wait(20)
    assert job.status().state == "running"
    assert end_of(job).state == "finished"


def test_same_job_is_never_started_twice(store):
    made = []
    arguments = {"model": "m"}

    def click():
        made.append(store.create("prepare", arguments, ["-c", "import time; time.sleep(1)"], "clp prepare m"))

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1


def test_pid_of_another_process_or_boot_is_not_alive():
    who = identity(os.getpid())
    assert is_alive(who)
    assert not is_alive(who | {"start_ticks": who["start_ticks"] - 100})
    assert not is_alive(who | {"start_ticks": None, "create_time": who["create_time"] - 100})
    assert is_alive(who | {"create_time": who["create_time"] - 3600})  # the wall clock was set
    assert not is_alive(who | {"boot_id": "another boot"})
    assert not is_alive(who | {"host": "elsewhere"})
    assert not is_alive(who | {"pid": 1})
    assert who["boot_id"] == boot_id()


def test_zombie_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", ""])
    who = identity(child.pid)
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(who)
    child.wait()


def lives_under(launcher, **environment):
    """Start what a training process does first below a process with that name; say whether it goes on."""
    code = "from clp_core.jobs.process_identity import die_with_launcher; die_with_launcher(); print('lives')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    command = [sys.executable, "-c", parent, launcher]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return done.stdout.strip() == "lives"


def test_training_process_lives_where_its_launcher_does():
    launched = {"TORCHELASTIC_RUN_ID": "a run"}
    assert lives_under("anything")  # alone: its supervisor has bound it already
    assert lives_under("a launcher of one's own", **launched)  # started by hand, without a supervisor
    for name in ("torch.distributed.run", "/usr/bin/torchrun", "/usr/bin/accelerate"):
        assert lives_under(name, **launched, CLP_JOB_DIR="/a/job")
    assert not lives_under("systemd", **launched, CLP_JOB_DIR="/a/job")  # it was taken in as an orphan


def test_training_process_lives_below_a_wrapper_under_its_launcher():
    code = "from clp_core.jobs.process_identity import die_with_launcher; die_with_launcher(); print('lives')"
    shell = f"{sys.executable} -c {shlex.quote(code)}; true"  # with a command to follow, so that it stays
    parent = f"import subprocess; subprocess.run(['bash', '-c', {shell!r}])"
    launched = os.environ | {"TORCHELASTIC_RUN_ID": "a run", "CLP_JOB_DIR": "/a/job"}
    for name, expected in (("/usr/bin/torchrun", "lives"), ("systemd", "")):
        done = subprocess.run([sys.executable, "-c", parent, name], env=launched, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_training_process_below_a_wrapper_ends_with_its_launcher(tmp_path):
    file = tmp_path / "pid"
    code = f"""
import os, time
from clp_core.jobs import process_identity
process_identity.WATCH_S = 0.05
process_identity.die_with_launcher()
with open({str(tmp_path / "part")!r}, "w") as file:
    file.write(str(os.getpid()))
os.rename({str(tmp_path / "part")!r}, {str(file)!r})
time.sleep(60)
"""
    shell = f"{sys.executable} -c {shlex.quote(code)}; true"
    parent = f"import subprocess; subprocess.run(['bash', '-c', {shell!r}])"
    launched = os.environ | {"TORCHELASTIC_RUN_ID": "a run", "CLP_JOB_DIR": "/a/job"}
    launcher = subprocess.Popen([sys.executable, "-c", parent, "torchrun"], env=launched)
    wait_for(file.is_file)
    trainer = psutil.Process(int(file.read_text()))
    wrapper = trainer.parent()
    assert wrapper.pid != launcher.pid
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not trainer.is_running(), 10)
    wait_for(lambda: not wrapper.is_running(), 10)


def test_child_whose_parent_has_died_before_it_could_ask_ends():
    code = "from clp_core.jobs.process_identity import die_with_parent; die_with_parent({parent}); print('lives')"
    own = [sys.executable, "-c", code.format(parent=os.getpid())]
    assert subprocess.run(own, capture_output=True, text=True).stdout.strip() == "lives"
    other = [sys.executable, "-c", code.format(parent=1)]
    assert subprocess.run(other, capture_output=True, text=True).returncode == 128 + signal.SIGKILL


def test_job_that_never_started_is_lost(store):
    job = make_job(store, "pass")
    status = json.loads((job.path / "status.json").read_text())
    write_json(job.path / "status.json", status | {"time": status["time"] - 3600})  # the wall clock was set
    assert job.status().state == "queued"
    write_json(job.path / "status.json", status | {"boot_clock": status["boot_clock"] - 3600})
    assert job.status().reason_code == ReasonCode.NEVER_STARTED
    write_json(job.path / "status.json", status | {"boot_id": "an earlier boot"})
    assert (job.status().state, job.status().reason_code) == ("lost", ReasonCode.MACHINE_RESTARTED)


def test_silent_process_is_running_without_a_sign(store):
    job = make_job(store, "import time; time.sleep(60)")
    start(job)
    wait_for(lambda: job.status().state == "running")
    write_json(job.path / "heartbeat.json", {"boot_clock": 0.0, "expect_next_s": 1.0})
    status = job.status()
    assert status.state == "running"
    assert status.reason_code == ReasonCode.NO_SIGN
    job.ask_stop()
    end_of(job)


@pytest.mark.parametrize(
    "name", ["..", "../models", "/etc", "20260101-000000-x-zzzz", "a\0b", "20260101-000000-x-0000"]
)
def test_job_names_that_are_paths_or_unknown_are_refused(store, name):
    with pytest.raises((InputError, ValueError)):
        store.get(name)


def test_running_job_is_not_removed(store):
    job = make_job(store, "pass")
    with pytest.raises(InputError, match="stop it first"):
        store.remove(job)
    start(job)
    end_of(job)
    store.remove(job)
    assert not job.path.exists()


def test_training_writes_metrics_and_a_checkpoint_that_opens(workspace, pair, texts):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from clp_core.evaluation.bits_per_byte import evaluate

    job = submit_train(workspace, train_options(pair, texts, max_steps=30, learning_rate=5e-3))
    status = end_of(job, 240)
    assert status.state == "finished", job.log_tail()
    lines = job.metrics()
    losses = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 10, 20, 30]
    assert max(b["step"] - a["step"] for a, b in itertools.pairwise(losses)) <= 10
    assert all(line["tokens"] == line["step"] * 128 for line in lines)
    assert evaluations[-1]["bits_per_byte"] < evaluations[0]["bits_per_byte"]
    earlier, checkpoint = job.checkpoints()
    assert (earlier.name, checkpoint.name) == ("checkpoint-20", "checkpoint-30")
    AutoModelForCausalLM.from_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(checkpoint)
    found = evaluate(checkpoint, [texts[1]])
    assert json.loads((checkpoint / "manifest.json").read_text())["files"]["model.safetensors"] > 0
    assert found.bits_per_byte == pytest.approx(evaluations[-1]["bits_per_byte"], rel=1e-5)
    assert any(entry.folder == checkpoint for entry in workspace.list_models())
    assert job.result()["step"] == 30


def test_stopped_training_saves_where_it_is(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, max_steps=100_000, eval_every=100_000))
    wait_for(lambda: job.progress()[0] >= 3, 120)
    job.ask_stop()
    status = end_of(job, 120)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_SAVED), job.log_tail()
    step = job.result()["step"]
    assert 3 <= step < 100_000
    assert [path.name for path in job.checkpoints()] == [f"checkpoint-{step}"]


def test_killed_trainer_fails_with_its_reason(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, max_steps=100_000, eval_every=100_000))
    wait_for(lambda: job.progress()[0] >= 1, 120)
    supervisor = json.loads((job.path / "process.json").read_text())["pid"]
    (trainer,) = psutil.Process(supervisor).children()
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE, 20)
    assert job.status().state == "lost"


def test_bad_training_input_is_refused_before_a_job_is_made(workspace, pair, texts, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="longer than the model's 64 positions"):
        submit_train(workspace, train_options(pair[::-1], texts, block_length=4096))
    with pytest.raises(InputError, match="there is no text"):
        submit_train(workspace, TrainOptions(str(pair[0]), (str(tmp_path / "no.txt"),), str(texts[1])))
    with pytest.raises(InputError, match="exclude each other"):
        train_options(pair, texts, max_steps=5, max_tokens=5)
    monkeypatch.setattr(driver, "list_gpus", list)
    with pytest.raises(InputError, match="no NVIDIA GPU is found"):
        submit_train(workspace, train_options(pair, texts, device="cuda"))
    assert not list(workspace.jobs.glob("*/spec.json"))


def test_too_little_memory_is_told_before_a_job_is_made(workspace, pair, texts, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InputError, match=r"training needs about .* GB .* free"):
        submit_train(workspace, train_options(pair, texts, device="cpu"))


def test_transfer_as_a_job_leaves_target_and_prepared_models(workspace, pair):
    from clp_core.geometry.embedding_cache import EmbeddingCache

    output = workspace.models / "target"
    job = submit_transfer(workspace, TransferOptions(str(pair[0]), str(pair[1]), str(output), method="linear"))
    assert end_of(job).state == "finished", job.log_tail()
    assert job.result()["output"] == str(output)
    assert EmbeddingCache.find(output, workspace.cache)
    again = submit_transfer(workspace, TransferOptions(str(pair[0]), str(pair[1]), str(output), method="linear"))
    assert "exists and is kept" in end_of(again).reason
