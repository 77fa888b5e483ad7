"""Start, stop, kill and resume short runs at random; check that no state lies and that no metric is lost.

    python benchmarks/soak.py --runs 50 --seed 0

Every run trains the same small model on the same text with the same seed, so an undisturbed run says what each must
have measured in the end. Meanwhile a watcher looks at the processes themselves, by psutil, and at the bytes of
metrics.jsonl: a state that says a run goes on needs a process of it, a state that says it is over may leave none, and
what was written once must stay. The script ends with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

STEPS = 160
LIMIT_S = 30.0
"""Within so long a state must be true."""
ACTIONS = (
    "let it finish",
    "stop and save",
    "end at once",
    "kill the supervisor",
    "kill the trainer",
    "SIGTERM to the supervisor",
)
MAX_ATTEMPTS = 4
TEXT = "Der schnelle braune Fuchs springt über den faulen Hund.\nEin Modell liest Wörter und schreibt sie.\n"


def make_model(folder: Path, text: Path) -> None:
    """Make a small model with a tokenizer of its own; it has dropout, so its random state matters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    set_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<end>"], initial_alphabet=alphabet)
    tokenizer.train([str(text)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")
    config = GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def processes_of(job: Path) -> list[psutil.Process]:
    """Return the living processes whose command line names a job, supervisor first."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if str(job) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> bool:
    """Wait until something is so; say whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Watcher(threading.Thread):
    """Compares what a job says with its processes, and its metrics with what they were."""

    def __init__(self, jobs: list, findings: list[str]) -> None:
        """Watch jobs that are added to a list; add to the findings what is wrong."""
        super().__init__(daemon=True)
        self.jobs, self.findings = jobs, findings
        self.looks = 0
        self._wrong_since: dict[tuple[str, str], float] = {}
        self._seen: dict[str, bytes] = {}

    def run(self) -> None:
        """Look until the program ends."""
        while True:
            for job in list(self.jobs):
                self._look(job)
            time.sleep(0.2)

    def _look(self, job) -> None:  # noqa: ANN001
        status, alive = job.status(), processes_of(job.path)
        self.looks += 1
        wrong = {
            f"says {status.state}, has no process": not status.is_over and not alive,
            f"says {status.state}, has processes": status.is_over and bool(alive),
        }
        for told, is_so in wrong.items():
            key = (job.id, told)
            if not is_so:
                self._wrong_since.pop(key, None)
            elif time.monotonic() - self._wrong_since.setdefault(key, time.monotonic()) > LIMIT_S:
                self.findings.append(f"{job.id} {told} for {LIMIT_S:.0f} s")
                self._wrong_since[key] = math.inf  # once is enough
        data = job.metrics_file.read_bytes() if job.metrics_file.is_file() else b""
        if not data.startswith(self._seen.get(job.id, b"")):
            self.findings.append(f"{job.id}: what metrics.jsonl held is gone")
        self._seen[job.id] = data


def disturb(job, action: str, rng: random.Random) -> None:  # noqa: ANN001
    """Do one thing to a run at a random step, and wait until it is over."""
    at = rng.randrange(1, STEPS - 10)
    wait_for(lambda: job.status().is_over or job.progress()[0] >= at)
    if not job.status().is_over:
        if action == "stop and save":
            job.ask_stop()
        elif action == "end at once":
            job.ask_stop(kill=True)
        elif action != "let it finish":
            supervisor = next(p for p in processes_of(job.path) if "clp_core.jobs.supervisor" in p.cmdline())
            victims = supervisor.children() if action == "kill the trainer" else [supervisor]
            for process in victims:
                os.kill(process.pid, signal.SIGTERM if action.startswith("SIGTERM") else signal.SIGKILL)
    wait_for(lambda: job.status().is_over)


def check_end(job, reference: dict[int, float], findings: list[str]) -> None:  # noqa: ANN001
    """Hold what a finished run has measured against an undisturbed one."""
    lines = [line for line in job.metrics() if "loss" in line]
    steps = [line["step"] for line in lines]
    if steps != sorted(set(steps)):
        findings.append(f"{job.id}: double points")
    if missing := set(reference) - set(steps):
        findings.append(f"{job.id}: no loss of step {min(missing)}")
    off = max((abs(line["loss"] - reference[line["step"]]) for line in lines if line["step"] in reference), default=0.0)
    if off > 1e-6:
        findings.append(f"{job.id}: losses are off by {off:.1e}")


def main() -> int:
    """Run the soak; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    root = Path(tempfile.mkdtemp(prefix="clp-soak-"))
    os.environ |= {"CLP_WORKSPACE": str(root / "workspace"), "CLP_QUEUE": str(root / "queue"), "HF_HUB_OFFLINE": "1"}

    from clp_core.training.options import TrainOptions
    from clp_core.training.submit import resume, submit_train
    from clp_core.workspace import Workspace

    text = root / "text.txt"
    text.write_text(TEXT * 400, encoding="utf-8")
    make_model(root / "model", text)
    space, findings, jobs = Workspace.current(), [], []

    def options(name: str) -> TrainOptions:
        return TrainOptions(
            str(root / "model"),
            (str(text),),
            str(text),
            name=name,
            max_steps=STEPS,
            block_length=32,
            batch_tokens=256,
            eval_every=80,
            save_every=20,
            device="cpu",
        )

    undisturbed = submit_train(space, options("undisturbed"))
    wait_for(lambda: undisturbed.status().is_over)
    assert undisturbed.status().state == "finished", undisturbed.log_tail()
    reference = {line["step"]: line["loss"] for line in undisturbed.metrics() if "loss" in line}
    watcher = Watcher(jobs, findings)
    watcher.start()
    done: collections.Counter[str] = collections.Counter()
    states: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    attempts = 0
    waiting = None
    for i in range(arguments.runs):
        job = waiting or submit_train(space, options(f"run {i}"))
        # Now and then the next run stands in the queue already.
        waiting = (
            submit_train(space, options(f"run {i + 1}")) if rng.random() < 0.3 and i + 1 < arguments.runs else None
        )
        jobs += [found for found in (job, waiting) if found is not None and found not in jobs]
        for attempt in range(MAX_ATTEMPTS):
            action = rng.choice(ACTIONS) if attempt < MAX_ATTEMPTS - 1 else "let it finish"
            done[action] += 1
            attempts += 1
            disturb(job, action, rng)
            state = job.status()
            states[f"{state.state}: {state.reason_code.value}".removesuffix(": ")] += 1
            if not wait_for(lambda job=job: not processes_of(job.path), LIMIT_S):
                findings.append(f"{job.id}: processes are left {LIMIT_S:.0f} s after {action!r}")
            if state.state == "finished":
                break
            resume(space, job)
        if job.status().state != "finished":
            findings.append(f"{job.id}: {job.status().state}, {job.status().reason}")
        else:
            check_end(job, reference, findings)
        print(f"{i + 1} of {arguments.runs} runs, {len(findings)} findings", file=sys.stderr)
    print(f"{arguments.runs} runs, {attempts} attempts, {watcher.looks} looks, {time.monotonic() - began:.0f} s")
    print("done to them: " + json.dumps(dict(done)))
    print("ended as: " + json.dumps(dict(states)))
    print(f"states that lied, metrics that were lost, processes that were left: {len(findings)}")
    for finding in findings:
        print("  " + finding)
    return int(bool(findings))


if __name__ == "__main__":
    raise SystemExit(main())
