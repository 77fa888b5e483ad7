"""Runs of ``clp train`` on a device: loss curves, stop and resume, kill, queue, out of memory, memory that is free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from clp_core.jobs.job import Job
from clp_core.training.options import TrainOptions
from clp_core.training.submit import resume, submit_train
from clp_core.workspace import Workspace
from gpu_items import made
from gpu_items.findings import NEEDS_GPU, Findings
from gpu_items.setting import Setting, gpu_bytes, note, wait_until
from gpu_items.texts import copy_demo

START_S, RUN_S, POLL_S = 120.0, 240.0, 0.05
SLACK_BYTES = 64 << 20
LEFT_FOR_RUN = 3 << 29
"""Bytes of GPU memory that the run which is to run out of memory finds: enough to start with, too few for a step."""
GREEDY_TOKENS = 65_536
EQUAL_CPU, EQUAL_GPU = 1e-6, 2e-3
"""Relative differences of losses that count as equal: a GPU adds up gradients in an order that changes."""
MOST_APART = 0.05
"""Nats per token by which bfloat16 on the GPU may differ from float32 on the CPU, mean over the last quarter."""
HOG = """
import sys, torch
torch.zeros(1, device="cuda")
print("ready", flush=True)
sys.stdin.readline()
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("holds", held.numel(), flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Size:
    """How long the runs are, and where they are interrupted.

    Attributes:
        steps: optimiser steps.
        save_every: steps between checkpoints.
        stop_at: step from which a stop is asked for; 0: as soon as the run has begun.
        kill_at: step from which the trainer is killed; 0: as soon as its process is there.
    """

    steps: int
    save_every: int
    stop_at: int
    kill_at: int


FULL, SMOKE = Size(400, 80, 150, 120), Size(6, 6, 0, 0)


def run(setting: Setting, findings: Findings) -> None:
    """Do all runs; those that share a purpose are shared."""
    Runs(setting, findings).run()


class Runs:
    """The runs of this item, in a workspace of their own."""

    def __init__(self, setting: Setting, findings: Findings) -> None:
        """Make the model and the texts."""
        self._setting, self._findings = setting, findings
        self._size = SMOKE if setting.smoke else FULL
        self._space = Workspace.current()
        used = gpu_bytes() if setting.on_gpu else None
        self._used_before = used[0] if used else 0
        folder = setting.work / "inputs"
        if setting.smoke:
            made.write_model(folder / "source", made.llama_config(300, 64, 2, 1, 1, 128, 64, tied=True))
            made.write_text(folder / "train.txt", 20_000, 300)
            made.write_text(folder / "valid.txt", 300, 300, seed=1)
        else:
            copy_demo(folder)
        self._options = TrainOptions(
            model=str(folder / "source"), text=(str(folder / "train.txt"),), eval_text=str(folder / "valid.txt"),
            max_steps=self._size.steps, batch_tokens=256 if setting.smoke else 4096,
            block_length=64 if setting.smoke else 256, eval_every=self._size.steps, save_every=self._size.save_every,
            device=setting.device, learning_rate=1e-3,
        )  # fmt: skip

    def run(self) -> None:
        """Do the runs in an order in which each can wait for the one before."""
        reference = self.submit_reference() if self._setting.on_gpu else None
        killed = self.kill_and_resume()
        stopped = self.queue_and_stop(killed)
        whole, again = (
            self.finish(self.submit(name)) if self._setting.on_gpu else killed for name in ("whole", "again")
        )
        self.compare_attempts(whole, again, stopped, killed)
        self.check_free("after all runs")
        if reference is None:
            self._findings.skip("bfloat16 against float32", f"{NEEDS_GPU}: here every run is float32 on the CPU")
        else:
            self.compare_precisions(whole, self.finish(reference))
        self.run_out_of_memory()

    def submit(self, name: str, **changed: Any) -> Job:
        """Start a run."""
        return submit_train(self._space, replace(self._options, name=name, **changed))

    def submit_reference(self) -> Job:
        """Start the run in float32 on the CPU, which sees no GPU, beside those on the GPU."""
        with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
            return self.submit("float32 on the CPU", device="cpu", precision="float32")

    def finish(self, job: Job) -> Job:
        """Wait for a run to finish.

        Raises:
            RuntimeError: it ended otherwise.
        """
        wait_until(lambda: job.status().is_over, RUN_S, f"the end of {job.name}", poll_s=POLL_S)
        status = job.status()
        if status.state != "finished":
            note(job.log_tail())
            raise RuntimeError(f"{job.name} {status.state}: {status.reason}")
        return job

    def wait_for_step(self, job: Job, step: int) -> None:
        """Wait until a run has done so many steps; with 0, until its process runs."""

        def is_there() -> bool:
            status = job.status()
            return status.is_over or (status.state == "running" and job.progress()[0] >= step)

        wait_until(is_there, START_S, f"step {step} of {job.name}", poll_s=POLL_S)

    def kill_and_resume(self) -> Job:
        """Kill a run's trainer, look at what is said of it, and resume it; it is under way on return."""
        job = self.submit("killed")
        self.wait_for_step(job, self._size.kill_at)
        os.kill(int(events(job, "started")[-1]["pid"]), signal.SIGKILL)
        wait_until(lambda: job.status().is_over, START_S, "the end of the killed run", poll_s=POLL_S)
        status = job.status()
        named = status.state == "failed" and "signal 9" in status.reason
        self._findings.check("a killed trainer is named", named, f"{status.state}: {status.reason}")
        self.check_free("after a kill")
        return resume(self._space, job)

    def queue_and_stop(self, first: Job) -> Job:
        """Submit a second run, which waits for the first; stop it, and resume it to its end."""
        second = self.submit("stopped")
        reasons: list[str] = []

        def has_begun() -> bool:
            status = second.status()
            reasons.append(status.reason if status.state == "queued" else "")
            return status.is_over or status.state == "running"

        wait_until(has_begun, RUN_S, "the start of the second run", poll_s=POLL_S)
        ended, began = events(first, "ended")[-1]["time"], events(second, "started")[0]["time"]
        waited = next((reason for reason in reasons if "queue" in reason), "")
        in_turn = first.status().state == "finished" and bool(waited) and ended <= began
        detail = f"{waited or 'not queued'}; began {began - ended:.1f} s after the first had ended"
        self._findings.check("a second run waits for the device", in_turn, detail)
        self.wait_for_step(second, self._size.stop_at)
        second.ask_stop()
        wait_until(lambda: second.status().is_over, START_S, "the end of the stopped run", poll_s=POLL_S)
        status = second.status()
        saved = status.state == "stopped" and bool(second.checkpoints())
        detail = f"{status.state}: {status.reason}; step {second.progress()[0]}"
        self._findings.check("a stopped run saves", saved, detail)
        self.check_free("after a stop")
        return self.finish(resume(self._space, second))

    def compare_attempts(self, whole: Job, again: Job, stopped: Job, killed: Job) -> None:
        """Compare the losses of runs that were interrupted with those of one that was not, and of that one again."""
        self.finish(killed)
        curves = {"whole": losses(whole), "stopped": losses(stopped), "killed": losses(killed)}
        self._findings.figure("losses", {name: list(curve.values()) for name, curve in curves.items()})
        self._findings.figure(
            "bits_per_byte", {job.name: job.result().get("bits_per_byte") for job in (whole, stopped)}
        )
        noise = largest_difference(curves["whole"], losses(again))
        bound = max(EQUAL_GPU, 3 * noise) if self._setting.on_gpu else EQUAL_CPU
        for name in ("stopped", "killed"):
            if whole is killed and name == "killed":
                reason = f"{NEEDS_GPU}: in miniature the killed run begins again and is the uninterrupted one"
                self._findings.skip("a killed and resumed run has the same losses", reason)
                continue
            apart = largest_difference(curves["whole"], curves[name])
            complete = curves[name].keys() == curves["whole"].keys()
            detail = (
                f"{len(curves[name])} steps, relative difference at most {apart:.2g}, of the same run twice {noise:.2g}"
            )
            self._findings.check(f"a {name} and resumed run has the same losses", complete and apart <= bound, detail)

    def compare_precisions(self, run: Job, reference: Job) -> None:
        """Compare a run in bfloat16 on the GPU with one in float32 on the CPU."""
        curve, expected = losses(run), losses(reference)
        self._findings.figure("losses_float32_cpu", list(expected.values()))
        late = [step for step in expected if step > 0.75 * self._size.steps]
        apart = sum(abs(curve[step] - expected[step]) for step in late) / len(late)
        ends = [f"{job.result()['bits_per_byte']:.4f}" for job in (run, reference)]
        detail = f"{apart:.4f} nats per token apart over the last quarter; bits per byte {ends[0]}, float32 {ends[1]}"
        is_bf16 = bool(run.plan["bf16"]) and not reference.plan["bf16"]
        self._findings.check("bfloat16 on the GPU follows float32 on the CPU", is_bf16 and apart <= MOST_APART, detail)

    def check_free(self, when: str) -> None:
        """Check that the GPU's memory is back to what it was before the first run."""
        name = f"GPU memory is free {when}"
        if not self._setting.on_gpu:
            self._findings.skip(name, NEEDS_GPU)
            return

        def kept() -> int:
            used = gpu_bytes()
            return used[0] - self._used_before if used else 0

        with suppress(TimeoutError):
            wait_until(lambda: kept() < SLACK_BYTES, 15, "free memory")
        self._findings.check(name, kept() < SLACK_BYTES, f"{kept() / 1e6:,.0f} MB more than before the first run")

    def run_out_of_memory(self) -> None:
        """Take the GPU's memory away from a run that was planned with it; resume it when that is free again."""
        if not self._setting.on_gpu:
            self._findings.skip("out of memory is named", NEEDS_GPU)
            return
        with hog() as take:
            job = self.submit("too large", batch_tokens=GREEDY_TOKENS, max_steps=3, eval_every=3, save_every=3)
            take()
            wait_until(lambda: job.status().is_over, START_S, "the end of the run without memory")
        status = job.status()
        named = status.state == "failed" and status.reason.startswith("out of memory")
        self._findings.check("out of memory is named", named, f"{status.state}: {status.reason}")
        if status.state == "finished":  # it had enough after all, so there is nothing more to see
            return
        half_written = list((job.path / "checkpoints").glob("*")) if (job.path / "checkpoints").is_dir() else []
        self._findings.check(
            "a run out of memory leaves nothing half-written", not half_written, f"{len(half_written)} folders"
        )
        self.check_free("after a run out of memory")
        again = self.finish(resume(self._space, job))
        self._findings.check("it resumes once memory is free", True, f"{again.progress()[0]} steps")


@contextmanager
def hog() -> Iterator[Callable[[], None]]:
    """Start a process that takes nearly all of the GPU's memory when what this yields is called."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOG, str(LEFT_FOR_RUN)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process that takes the memory has no pipes")
    stdin, stdout = process.stdin, process.stdout

    def take() -> None:
        stdin.write("\n")
        stdin.flush()
        note(f"the hog {stdout.readline().strip()} bytes")

    try:
        if stdout.readline().strip() != "ready":
            raise RuntimeError("the process that takes the memory did not start")
        yield take
    finally:
        process.kill()
        process.wait()


def events(job: Job, name: str) -> list[dict[str, Any]]:
    """Events of a job with this name, oldest first."""
    lines = (job.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def losses(job: Job) -> dict[int, float]:
    """Losses of a run in nats per token, by step."""
    return {line["step"]: line["loss"] for line in job.metrics() if "loss" in line}


def largest_difference(one: dict[int, float], other: dict[int, float]) -> float:
    """Largest relative difference of two curves at the steps that both have; 0 without any."""
    return max((abs(one[step] - other[step]) / abs(one[step]) for step in one.keys() & other.keys()), default=0.0)
