"""Runs that somebody starts by hand, or by an edited script for Slurm, with each launcher that is documented."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs import train_options

from clp_core.jobs import submit
from clp_core.progress import JOB_ENVIRONMENT

BIN = Path(sys.executable).parent
TRAINER = ("-m", "clp_core.training")
LAUNCHERS = {
    "python": (sys.executable,),
    "torchrun": (BIN / "torchrun", "--nproc-per-node", "1"),
    "torchrun for two": (BIN / "torchrun", "--standalone", "--nproc-per-node", "2"),
    "module for two": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": (BIN / "accelerate", "launch", "--num_processes", "2", "--cpu"),
    "a wrapper": (BIN / "torchrun", "--nproc-per-node", "2", "--no-python", "WRAPPER", sys.executable),
}


@pytest.mark.nightly
@pytest.mark.parametrize("supervised", [False, True], ids=["by hand", "in a script for Slurm"])
@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)
def test_documented_launcher_trains_a_run(workspace, pair, texts, monkeypatch, tmp_path, launcher, supervised):
    monkeypatch.setattr(submit, "launch", lambda job: None)
    job = submit.submit_train(workspace, train_options(pair, texts, max_steps=2, eval_every=2))
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text('#!/bin/bash\n"$@"\nexit $?\n')
    wrapper.chmod(0o755)
    command = [str(wrapper if word == "WRAPPER" else word) for word in (*launcher, *TRAINER, job.path)]
    environment = os.environ | ({JOB_ENVIRONMENT: str(job.path)} if supervised else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.result()["step"] == 2
    assert len(job.checkpoints()) == 1
