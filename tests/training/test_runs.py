"""Runs that can be trusted: real trainers that are stopped, killed, starved of disk and made to diverge, and go on."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import psutil
import pytest
import torch
from filelock import FileLock
from support.jobs import assert_same_curve, end_of, is_gone, losses, train_here, train_options, wait_for
from support.tiny_models import make_model

from clp_core.errors import InputError
from clp_core.jobs import JobStore
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.run_metrics import metrics_of_run
from clp_core.jobs.training_checkpoints import is_complete, read_manifest, resumable_checkpoint
from clp_core.training.submit import resume, submit_train
from clp_core.workspace import Workspace

pytestmark = pytest.mark.process
real = pytest.mark.usefixtures("real_processes")
"""For tests of what becomes of processes: interpreters of their own, as users have them."""

LONG = {"max_steps": 100_000, "eval_every": 100_000, "save_every": 5}
TWO_PROCESSES = {"device": "cpu", "processes_per_node": 2, "micro_blocks": 1}


def supervisor_of(job):
    return psutil.Process(json.loads((job.path / "process.json").read_text())["pid"])


def trainer_of(job):
    """The process that the supervisor has started: the trainer, or torchrun where several train together."""
    (child,) = wait_for(lambda: supervisor_of(job).children())
    return child


def ranks_of(job, n):
    """The training processes below torchrun."""

    def found():
        ranks = [p for p in trainer_of(job).children() if "clp_core.training" in " ".join(p.cmdline())]
        return ranks if len(ranks) == n else None

    return wait_for(found)


def newest_step(job):
    return int(job.checkpoints()[-1].name.rpartition("-")[2])


def has_checkpoint(job, step=5):
    return any(int(path.name.rpartition("-")[2]) >= step for path in job.checkpoints())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, pair, texts):
    """A run of a model with dropout that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("uninterrupted")
        patch.setenv("CLP_WORKSPACE", str(root / "workspace"))
        patch.setenv("CLP_QUEUE", str(root / "queue"))
        return train_here(Workspace.current(), options_of(pair, texts))


def options_of(pair, texts, **more):
    settings = {"max_steps": 43, "save_every": 10, "eval_every": 20, "learning_rate": 5e-3, "prompt": ("Der",)} | more
    return train_options(pair[::-1], texts, **settings)  # the helper has dropout


@real
def test_stopped_run_goes_on_as_if_it_had_not_been_stopped(workspace, pair, texts, uninterrupted):
    job = submit_train(workspace, options_of(pair, texts))
    wait_for(lambda: job.progress()[0] >= 7, 120)
    job.ask_stop()
    status = end_of(job, 120)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_SAVED), job.log_tail()
    stopped_at = job.result()["step"]
    assert stopped_at < 43
    resume(workspace, job)
    assert job.status().state in ("queued", "starting", "running")
    assert end_of(job, 240).state == "finished", job.log_tail()
    assert job.status().attempt == 2
    assert_same_curve(job, uninterrupted)
    assert job.result()["step"] == 43


@real
def test_killed_run_goes_on_from_its_newest_checkpoint(workspace, pair, texts, uninterrupted):
    job = submit_train(workspace, options_of(pair, texts))
    wait_for(lambda: has_checkpoint(job, 10), 120)
    trainer = trainer_of(job)
    os.kill(supervisor_of(job).pid, signal.SIGKILL)
    wait_for(lambda: is_gone(trainer), 20)
    assert (job.status().state, job.status().reason_code) == ("lost", ReasonCode.SUPERVISOR_KILLED)
    with open(job.metrics_file, "a") as file:
        file.write('{"step": 40, "attempt": 1, "lo')  # it died within a line
    newest = resumable_checkpoint(job.path / "checkpoints")
    half = job.path / "checkpoints" / "checkpoint-40"
    half.mkdir(exist_ok=True)
    (half / "model.safetensors").write_bytes(b"half")
    resume(workspace, job)
    assert end_of(job, 240).state == "finished", job.log_tail()
    lines = [json.loads(line) for line in job.metrics_file.read_text().splitlines() if "resumed_from" in line]
    assert [line["resumed_from"] for line in lines] == [int(newest.name.rpartition("-")[2])]
    assert_same_curve(job, uninterrupted)
    assert all(is_complete(path) for path in (job.path / "checkpoints").glob("checkpoint-*"))


@real
def test_killed_trainer_is_told_by_its_signal_and_keeps_its_checkpoint(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    os.kill(trainer_of(job).pid, signal.SIGKILL)
    status = end_of(job, 60)
    assert (status.state, status.reason_code) == ("failed", ReasonCode.KILLED_BY_SIGNAL)
    assert "9 (SIGKILL)" in status.reason
    assert has_checkpoint(job)


@real
def test_killed_torchrun_takes_its_ranks_along(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG, **TWO_PROCESSES))
    wait_for(lambda: job.progress()[0] >= 1, 120)
    ranks = ranks_of(job, 2)
    os.kill(trainer_of(job).pid, signal.SIGKILL)
    assert end_of(job, 60).reason_code == ReasonCode.KILLED_BY_SIGNAL
    wait_for(lambda: all(is_gone(rank) for rank in ranks), 20)


@real
def test_run_that_is_ended_at_once_says_what_is_left(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    trainer = trainer_of(job)
    job.ask_stop(kill=True)
    status = end_of(job, 30)
    assert status.state == "stopped"
    # So small a model may have saved in the quarter of a second until the supervisor looks.
    assert status.reason_code in (ReasonCode.STOPPED_UNSAVED, ReasonCode.STOPPED_SAVED)
    if status.reason_code == ReasonCode.STOPPED_UNSAVED:
        assert str(newest_step(job)) in status.reason
    wait_for(lambda: is_gone(trainer), 20)


@real
def test_supervisor_that_is_killed_as_it_starts_is_lost_at_once(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    os.kill(supervisor_of(job).pid, signal.SIGKILL)
    assert wait_for(lambda: job.status().state == "lost", 5)
    resume(workspace, job)
    wait_for(lambda: job.status().state == "running", 30)
    job.ask_stop(kill=True)
    assert end_of(job, 60).state == "stopped"


@real
def test_supervisor_asked_to_end_saves_first(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG | {"save_every": 100_000}))
    wait_for(lambda: job.progress()[0] >= 1, 120)
    os.kill(supervisor_of(job).pid, signal.SIGTERM)
    assert end_of(job, 120).reason_code == ReasonCode.STOPPED_SAVED
    assert job.checkpoints()


def test_loss_that_is_no_number_ends_the_run_and_names_the_step(workspace, pair, texts, tmp_path, tokenizers):
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizers["byte-level", "de"]
    folder = make_model(tmp_path / "model", tokenizer, tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    word = "Zebra"
    token = next(i for i in tokenizer.encode(" Q") if i != tokenizer.bos_token_id)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = 3e38  # finite, but its square is not
    model.save_pretrained(folder)
    text = tmp_path / "train.txt"
    text.write_text(texts[0].read_text() * 40 + f"{word} Q\n" * 8 + texts[0].read_text())
    job = submit_train(workspace, train_options((folder, None), (text, texts[1]), max_steps=4000, save_every=3))
    status = end_of(job, 240)
    assert status.state == "failed", job.log_tail()
    assert status.reason_code == ReasonCode.DIVERGED, status.reason
    assert "NaN" in status.reason
    step = int(re.search(r"at step (\d+)", status.reason)[1])
    assert all(int(path.name.rpartition("-")[2]) < step for path in job.checkpoints())
    for path in job.checkpoints():
        rows = AutoModelForCausalLM.from_pretrained(path).get_output_embeddings().weight
        assert torch.isfinite(rows).all()


def test_data_that_changed_since_the_checkpoint_is_refused(workspace, pair, texts, tmp_path):
    text = tmp_path / "train.txt"
    shutil.copy(texts[0], text)
    job = submit_train(workspace, train_options(pair, (text, texts[1]), **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    job.ask_stop()
    end_of(job, 60)
    text.write_text(text.read_text() + "Ein Satz kam hinzu.\n")
    resume(workspace, job)
    status = end_of(job, 60)
    assert status.state == "failed"
    assert status.reason_code == ReasonCode.DATA_ERROR
    assert "the training text or its tokenizer changed" in status.reason
    assert has_checkpoint(job)


def test_held_out_text_that_changed_in_the_queue_is_refused(workspace, pair, texts, tmp_path):
    text = tmp_path / "valid.txt"
    shutil.copy(texts[1], text)
    other = submit_train(workspace, train_options(pair, texts, **LONG))  # holds the device meanwhile
    job = submit_train(workspace, train_options(pair, (texts[0], text), **LONG))
    text.write_text(text.read_text() + "Ein Satz kam hinzu.\n")
    other.ask_stop()
    end_of(other, 120)
    status = end_of(job, 60)
    assert status.reason_code == ReasonCode.DATA_ERROR
    assert "the held-out text changed" in status.reason


def test_resume_waits_for_the_last_moments_of_the_supervisor_before(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    job.ask_stop()
    end_of(job, 60)
    lock = FileLock(job.path / "supervisor.lock")
    wait_for(lambda: not lock.is_locked and lock.acquire(timeout=5), 10)
    resume(workspace, job)
    time.sleep(2)
    lock.release()
    wait_for(lambda: job.status().state == "running", 60)
    job.ask_stop(kill=True)
    assert end_of(job, 60).state == "stopped"


@real
@pytest.mark.parametrize("more", [{}, TWO_PROCESSES], ids=["alone", "under torchrun"])
def test_orphan_of_a_supervisor_killed_while_torch_is_imported_dies(workspace, pair, texts, more):
    """Also where another process than init takes orphans in, as in every desktop session."""
    PR_SET_CHILD_SUBREAPER = 36  # noqa: N806
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        job = submit_train(workspace, train_options(pair, texts, **LONG, **more))
        found = ranks_of(job, 2) if more else [trainer_of(job)]
        os.kill(supervisor_of(job).pid, signal.SIGKILL)
        wait_for(lambda: all(is_gone(process) for process in found), 20)
        assert job.status().state == "lost"
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_jobs_folder_that_is_a_link_does_not_make_a_run_wait_for_itself(workspace, pair, texts, tmp_path):
    big_disk = tmp_path / "big disk"
    big_disk.mkdir()
    workspace.root.mkdir(parents=True)
    workspace.jobs.symlink_to(big_disk)
    job = submit_train(workspace, train_options(pair, texts, max_steps=2))
    assert end_of(job, 120).state == "finished", job.status().reason


def test_text_that_vanished_is_a_data_error(workspace, pair, texts, tmp_path):
    text = tmp_path / "train.txt"
    shutil.copy(texts[0], text)
    other = submit_train(workspace, train_options(pair, texts, **LONG))  # holds the device meanwhile
    job = submit_train(workspace, train_options(pair, (text, texts[1]), **LONG))
    text.unlink()
    other.ask_stop()
    end_of(other, 120)
    status = end_of(job, 60)
    assert status.reason_code == ReasonCode.DATA_ERROR
    assert str(text) in status.reason


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    with open(folder / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"\0" * 4096):
            pass


@real
def test_full_disk_is_told_and_nothing_that_was_complete_is_lost(small_disk, pair, texts, monkeypatch):
    monkeypatch.setenv("CLP_WORKSPACE", str(small_disk / "workspace"))
    space = Workspace.current()
    job = submit_train(space, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    fill(small_disk)
    status = end_of(job, 60)
    assert status.state == "failed"
    assert status.reason_code == ReasonCode.DISK_FULL, status.reason
    kept = resumable_checkpoint(job.path / "checkpoints")
    assert kept is not None
    with pytest.raises(InputError, match="make room"):
        resume(space, job)
    (small_disk / "ballast").unlink()
    resume(space, job)
    wait_for(lambda: job.progress()[0] > int(kept.name.rpartition("-")[2]), 120)
    job.ask_stop()
    assert end_of(job, 60).state == "stopped"


@real
def test_stalled_run_says_so_and_goes_on_when_it_wakes(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: job.progress()[0] >= 20, 120)
    trainer = trainer_of(job)
    trainer.suspend()
    status = wait_for(lambda: job.status() if job.status().reason else None, 30)
    assert (status.state, status.reason_code) == ("running", ReasonCode.NO_SIGN)
    trainer.resume()
    wait_for(lambda: not job.status().reason, 30)
    job.ask_stop()
    assert end_of(job, 60).reason_code == ReasonCode.STOPPED_SAVED


def test_restarted_machine_is_seen(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: job.progress()[0] >= 1, 120)
    file = job.path / "process.json"
    who = json.loads(file.read_text())
    file.write_text(json.dumps(who | {"boot_id": "an earlier boot"}))
    assert (job.status().state, job.status().reason_code) == ("lost", ReasonCode.MACHINE_RESTARTED)
    file.write_text(json.dumps(who | {"pid": os.getpid()}))  # the pid belongs to somebody else by now
    assert job.status().state == "lost"
    file.write_text(json.dumps(who))
    job.ask_stop()
    end_of(job, 60)


def test_run_of_another_machine_is_judged_by_what_it_writes(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: job.progress()[0] >= 1, 120)
    file = job.path / "process.json"
    who = json.loads(file.read_text())
    file.write_text(json.dumps(who | {"host": "elsewhere", "boot_id": "another"}))
    assert (job.status().state, job.status().reason_code) == ("running", ReasonCode.ON_OTHER_HOST)
    assert "elsewhere" in job.status().reason
    file.write_text(json.dumps(who | {"host": "an earlier name of this host"}))
    assert job.status().state == "running"  # the lock is held
    file.write_text(json.dumps(who))
    job.ask_stop()
    end_of(job, 60)
    status = json.loads((job.path / "status.json").read_text())
    (job.path / "status.json").write_text(json.dumps(status | {"state": "running"}))
    file.write_text(json.dumps(who | {"host": "an earlier name of this host"}))
    assert job.status().state == "lost"  # the lock is free
    file.write_text(json.dumps(who | {"host": "elsewhere", "boot_id": "another"}))
    beat = json.loads((job.path / "heartbeat.json").read_text())
    (job.path / "heartbeat.json").write_text(json.dumps(beat | {"time": time.time() - 7200}))
    assert (job.status().state, job.status().reason_code) == ("lost", ReasonCode.HOST_SILENT)
    assert "120 minutes" in job.status().reason


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_last_and_best_checkpoints_are_kept(workspace, pair, texts, tmp_path, precision):
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("\n".join(f"{i} {i * 7} {i * 13}" for i in range(4000)))
    options = {"max_steps": 20, "eval_every": 5, "learning_rate": 0.03, "precision": precision}
    job = train_here(workspace, train_options(pair, (numbers, texts[1]), **options))
    scores = {line["step"]: line["bits_per_byte"] for line in job.metrics() if line.get("bits_per_byte")}
    best = min((step for step in scores if step), key=scores.get)
    kept = {int(path.name.rpartition("-")[2]): path for path in job.checkpoints()}
    assert set(kept) == {best, 15, 20}, scores
    assert best not in (15, 20), scores  # numbers teach it no German
    assert read_manifest(kept[best])["resumable"] is False
    assert not (kept[best] / "optimizer.pt").exists()
    assert (kept[best] / "model.safetensors").is_file()
    assert read_manifest(kept[20])["resumable"] is True


def test_only_what_is_over_and_has_steps_left_is_resumed(workspace, pair, texts, uninterrupted):
    with pytest.raises(InputError, match="has done all its steps"):
        resume(Workspace(uninterrupted.path.parent.parent), uninterrupted)
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    with pytest.raises(InputError, match="only what is over can be resumed"):
        resume(workspace, job)
    job.ask_stop()
    end_of(job, 120)
    other, _ = JobStore(workspace.jobs).create("project", {}, ["-c", "pass"], "clp project")
    other.write_status("failed")
    with pytest.raises(InputError, match="only training runs"):
        resume(workspace, other)


@real
def test_two_resumes_at_once_start_one_supervisor(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    job.ask_stop()
    end_of(job, 60)
    refused = []

    def press():
        try:
            resume(workspace, job)
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert all("only what is over" in told for told in refused)
    wait_for(lambda: job.status().state == "running", 60)
    assert sum(job.id in " ".join(p.info["cmdline"] or []) and "clp_core.jobs.supervisor" in (p.info["cmdline"] or [])
               for p in psutil.process_iter(["cmdline"])) == 1  # fmt: skip
    job.ask_stop()
    end_of(job, 120)
    assert job.status().attempt == 2


def test_run_without_a_checkpoint_begins_again(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, **LONG | {"save_every": 100_000}))
    wait_for(lambda: job.progress()[0] >= 30, 60)
    os.kill(supervisor_of(job).pid, signal.SIGKILL)
    wait_for(lambda: job.status().state == "lost", 30)
    reached = job.progress()[0]
    resume(workspace, job)
    wait_for(lambda: job.metrics() and job.metrics()[-1]["attempt"] == 2, 60)
    assert job.metrics()[-1]["step"] < reached  # what the first attempt measured beyond is not the present
    assert metrics_of_run(job).step < reached
    wait_for(lambda: len(losses(job)) > 3, 60)
    assert {line["attempt"] for line in job.metrics() if line["step"]} == {2}
    job.ask_stop(kill=True)
    end_of(job, 60)


def test_checkpoint_with_a_malicious_optimiser_runs_nothing(workspace, pair, texts, tmp_path):
    import pickle

    job = submit_train(workspace, train_options(pair, texts, **LONG))
    wait_for(lambda: has_checkpoint(job), 120)
    job.ask_stop()
    end_of(job, 60)
    marker = tmp_path / "was here"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch '{marker}'",)

    checkpoint = resumable_checkpoint(job.path / "checkpoints")
    state = checkpoint / "optimizer.pt"
    state.write_bytes(pickle.dumps(Attack()))
    manifest = read_manifest(checkpoint)
    manifest["files"]["optimizer.pt"] = state.stat().st_size
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    resume(workspace, job)
    assert end_of(job, 120).state == "failed"
    assert not marker.exists()


def test_samples_are_written_at_every_evaluation(uninterrupted):
    samples = [json.loads(line) for line in (uninterrupted.path / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 20, 40, 43]
    assert all(sample["text"].startswith("Der") for sample in samples)
    assert len({sample["text"] for sample in samples}) > 1
