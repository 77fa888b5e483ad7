"""Jobs in tests: waiting for them, the options of small runs, and training in this process."""

from __future__ import annotations

import json
import time

import psutil

from clp_core.jobs.launcher import LOCAL, register
from clp_core.jobs.local_launcher import LocalLauncher
from clp_core.jobs.reason_codes import NO_REASON, reason_in
from clp_core.training.options import TrainOptions
from clp_core.training.plan import plan
from clp_core.training.submit import resume, submit_train


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def end_of(job, seconds=120.0):
    wait_for(lambda: job.status().is_over, seconds)
    return job.status()


def train_options(pair, texts, **more):
    settings = {"eval_every": 10, "block_length": 32, "batch_tokens": 128, "seed": 1} | more
    return TrainOptions(model=str(pair[0]), text=(str(texts[0]),), eval_text=str(texts[1]), **settings)


class HereLauncher(LocalLauncher):
    """Trains in this process: for tests of what is computed, not of how processes live and die."""

    def start(self, job):
        from clp_core.training.main import train
        from clp_core.workspace import Workspace

        job.write_status("running")
        result = train(job, Workspace.current())
        job.write_status(result["outcome"], reason_in(result) or NO_REASON, 0)


def plan_of(options, folder):
    """Plan a run, its preset resolved first as ever."""
    return plan(options.resolved(), folder)


def train_here(workspace, options):
    """Plan a run as ever, train it in this process, and return its job, which is over."""
    return _here(lambda: submit_train(workspace, options))


def resume_here(workspace, job):
    """Resume a run in this process; return its job, which is over."""
    return _here(lambda: resume(workspace, job))


def _here(act):
    register(LOCAL, HereLauncher())
    try:
        return act()
    finally:
        register(LOCAL, LocalLauncher())


def process_of(session):
    supervisor = json.loads((session.job.path / "process.json").read_text())["pid"]
    return wait_for(lambda: psutil.Process(supervisor).children())[0]


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def losses(job):
    return {line["step"]: line["loss"] for line in job.metrics() if "loss" in line}


def held_out(job):
    return {line["step"]: line["eval_loss"] for line in job.metrics() if "eval_loss" in line}


def assert_same_curve(job, uninterrupted):
    expected = losses(uninterrupted)
    assert set(losses(job)) == set(expected)
    assert max(abs(losses(job)[step] - loss) for step, loss in expected.items()) < 1e-6
    assert all(abs(held_out(job)[step] - loss) < 1e-6 for step, loss in held_out(uninterrupted).items())
    keys = [(line["step"], "eval_loss" in line) for line in job.metrics()]
    assert len(keys) == len(set(keys))
    tokens = [line["seconds"] for line in job.metrics()]
    assert tokens == sorted(tokens)
