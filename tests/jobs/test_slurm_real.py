"""Runs through a real Slurm: two slurmd on this host, one process on each, gloo."""

import json
import os
import signal

import psutil
import pytest
from support.jobs import assert_same_curve, end_of, is_gone, train_options, wait_for
from support.slurm_cluster import cluster, missing, running_cluster

from clp_core.errors import InputError
from clp_core.jobs import JobStore, process_identity
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.slurm import control
from clp_core.jobs.slurm.control import REGISTRY
from clp_core.jobs.slurm.launcher import ticket_of
from clp_core.jobs.training_checkpoints import step_of
from clp_core.training.submit import resume, submit_train
from clp_core.workspace import Workspace

pytestmark = pytest.mark.slurm
if missing and not os.environ.get("CLP_REQUIRE_SLURM"):
    pytest.skip(f"NO SLURM FOUND: install slurm-wlm and munge to run these (no {missing[0]})", allow_module_level=True)

pytestmark = pytest.mark.slurm

STEPS = 300
START_S = 180


def options_of(pair, texts, **more):
    settings = {
        "max_steps": STEPS,
        "save_every": 50,
        "eval_every": 100,
        "learning_rate": 5e-3,
        "launcher": "slurm",
        "nodes": 2,
        "gpus_per_node": 0,
        "cpus_per_process": 1,
    }
    return train_options(pair[::-1], texts, **settings | more)  # the helper has dropout


def on_one(pair, texts, **more):
    """A run on one machine that goes on until it is stopped."""
    return options_of(pair, texts, nodes=1, max_steps=100_000, eval_every=100_000, save_every=20, **more)


def ranks_of(job):
    return [
        found
        for found in psutil.process_iter(["cmdline"])
        if "clp_core.training" in " ".join(found.info["cmdline"] or []) and str(job.path) in found.info["cmdline"]
    ]


def reach(job, condition):
    """Wait until something is so of a run that goes on."""

    def so_or_over():
        found = condition()
        assert found or not job.status().is_over, (job.status(), job.log_tail())
        return found

    return wait_for(so_or_over, START_S)


def supervisor_of(job):
    return json.loads((job.path / "process.json").read_text())["pid"]


def fill(cluster):
    done = cluster.ask("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "R" in cluster.ask("squeue", "-h", "-o", "%t").stdout.split(), 30)


@pytest.fixture(scope="module")
def undisturbed(running_cluster, tmp_path_factory, pair, texts):
    """A run on two machines to its end."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("undisturbed")
        patch.setenv("CLP_WORKSPACE", str(root / "a workspace's folder"))
        patch.setenv("SLURM_CONF", running_cluster.environment["SLURM_CONF"])
        job = submit_train(Workspace.current(), options_of(pair, texts, name="two machines' run"))
        assert end_of(job, START_S).state == "finished", (job.status(), job.log_tail())
    return job


def test_run_on_two_machines_ends_as_one_job(cluster, undisturbed):
    assert undisturbed.result()["step"] == STEPS
    assert undisturbed.spec["plan"]["processes"] == 2
    assert undisturbed.summary()["slurm_job"] == ticket_of(undisturbed)[0]
    slurm_id = ticket_of(undisturbed)[0]
    wait_for(lambda: control.show(slurm_id).state == "COMPLETED", 30)
    (checkpoint,) = [path for path in undisturbed.checkpoints() if path.name == f"checkpoint-{STEPS}"]
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}


def test_time_that_is_nearly_up_saves_requeues_and_goes_on_with_equal_losses(
    cluster, workspace, pair, texts, undisturbed
):
    job = submit_train(workspace, options_of(pair, texts))
    reach(job, lambda: job.progress()[0] >= 20)
    cluster.ask("scancel", "--signal=USR1", "--batch", ticket_of(job)[0])
    waiting = wait_for(lambda: job.status() if job.status().state == "queued" else None, 60)
    saved = job.result()["step"]
    assert 20 <= saved < STEPS
    assert waiting.reason_code == ReasonCode.SLURM_REQUEUED
    assert f"step {saved}" in waiting.reason
    assert end_of(job, START_S).state == "finished", (job.status(), job.log_tail())
    assert job.status().attempt == 2
    assert_same_curve(job, undisturbed)
    first, second = [
        json.loads(line) for line in (job.path / "events.jsonl").read_text().splitlines() if "started" in line
    ]
    assert (first["attempt"], second["attempt"]) == (1, 2)


def test_stopped_run_goes_on_by_its_edited_script_and_is_ended_at_once(cluster, workspace, pair, texts):
    job = submit_train(workspace, on_one(pair, texts))
    before = ticket_of(job)[0]
    reach(job, lambda: job.progress()[0] >= 20)
    job.ask_stop()
    status = end_of(job, 60)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_SAVED), job.log_tail()
    saved = job.result()["step"]
    script = job.path / "slurm.sbatch"
    script.write_text(script.read_text().replace("exec ", "echo edited by hand\nexec "))
    resume(workspace, job)
    assert ticket_of(job)[0] != before
    reach(job, lambda: job.progress()[0] > saved)
    assert "edited by hand" in job.log_tail(100_000)
    assert job.status().attempt == 2
    ranks = ranks_of(job)
    job.ask_stop(kill=True)
    status = end_of(job, 60)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_UNSAVED)
    assert f"step {step_of(job.checkpoints()[-1])}" in status.reason
    wait_for(lambda: all(is_gone(rank) for rank in ranks), 30)
    wait_for(cluster.is_idle, 60)


def test_run_waits_where_the_cluster_is_full_is_not_lost_when_slurm_is_down_and_leaves(cluster, workspace, pair, texts):
    fill(cluster)
    job = submit_train(workspace, options_of(pair, texts))
    status = wait_for(lambda: job.status() if "Resources" in job.status().reason else None, 30)
    assert (status.state, status.reason_code) == ("queued", ReasonCode.SLURM_WAITS)
    cluster.stop("slurmctld")
    REGISTRY.forget()
    status = job.status()
    assert (status.state, status.reason_code) == ("queued", ReasonCode.SLURM_NO_ANSWER)
    with cluster.impatient(), pytest.raises(InputError, match="does not answer"):
        submit_train(workspace, options_of(pair, texts, seed=7))
    assert JobStore(workspace.jobs).jobs() == [job]
    cluster.start_controller()
    REGISTRY.forget()
    assert job.status().state == "queued"
    job.ask_stop()
    status = job.status()
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_BEFORE_START)
    assert ticket_of(job)[0] not in cluster.ask("squeue", "-h", "-o", "%i").stdout.split()


def test_waiting_run_that_is_cancelled_in_slurm_says_so(cluster, workspace, pair, texts):
    fill(cluster)
    job = submit_train(workspace, options_of(pair, texts))
    cluster.ask("scancel", ticket_of(job)[0])
    REGISTRY.forget()
    status = job.status()
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.SLURM_CANCELLED)
    assert "before it started" in status.reason


def test_run_that_is_cancelled_in_slurm_says_what_is_left(cluster, workspace, pair, texts, monkeypatch):
    job = submit_train(workspace, on_one(pair, texts))
    reach(job, lambda: job.checkpoints())
    with monkeypatch.context() as elsewhere:  # as a login node sees it
        elsewhere.setattr(process_identity.socket, "gethostname", lambda: "login")
        status = job.status()
    assert (status.state, status.reason_code) == ("running", ReasonCode.ON_OTHER_HOST)
    ranks = ranks_of(job)
    assert ranks
    cluster.ask("scancel", ticket_of(job)[0])
    status = end_of(job, 60)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.SLURM_CANCELLED)
    assert f"step {step_of(job.checkpoints()[-1])}" in status.reason
    wait_for(lambda: all(is_gone(rank) for rank in ranks), 30)


def test_killed_supervisor_takes_its_ranks_along_and_is_lost(cluster, workspace, pair, texts):
    job = submit_train(workspace, options_of(pair, texts, max_steps=100_000, eval_every=100_000))
    reach(job, lambda: job.progress()[0] >= 1)
    ranks = ranks_of(job)
    assert len(ranks) >= 2
    os.kill(supervisor_of(job), signal.SIGKILL)
    wait_for(lambda: all(is_gone(rank) for rank in ranks), 30)
    status = end_of(job, 60)
    assert (status.state, status.reason_code) == ("lost", ReasonCode.SLURM_GONE)
    assert "FAILED" in status.reason


def test_script_that_slurm_refuses_leaves_no_job(cluster, workspace, pair, texts):
    with pytest.raises(InputError, match=r"Slurm refuses the script: .*partition"):
        submit_train(workspace, options_of(pair, texts, partition="nowhere"))
    assert JobStore(workspace.jobs).jobs() == []
