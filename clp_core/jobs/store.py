"""The job directory: the one place that says what a job is, how it stands and what it measured.

Pages and commands only read it, and ask for a stop by a file; the supervisor and the job itself write it.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from clp_core.errors import InputError, JobError
from clp_core.jobs.process import is_alive
from clp_core.locate import read_json
from clp_core.progress import HEARTBEAT_FILE, boot_clock, write_json
from clp_core.workspace import MANIFEST_FILE

SCHEMA_VERSION = 1
KINDS = ("demo", "prepare", "transfer", "compare-methods", "train", "project", "agreement", "near-duplicates")
TERMINAL = ("finished", "stopped", "failed", "lost")
START_GRACE_S = 60.0
JOB_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9-]{1,40}-[0-9a-f]{4}")
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "numpy")
LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Status:
    """How a job stands.

    Attributes:
        state: queued, starting, running, stopping, finished, stopped, failed or lost.
        reason: one plain line; empty where the state says it all.
        time: when that was written, seconds since 1970.
        exit_code: of the job's process, once it has ended.
    """

    state: str
    reason: str = ""
    time: float = 0.0
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class Job:
    """One job by its directory."""

    path: Path

    @property
    def id(self) -> str:
        """Name of the directory."""
        return self.path.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The frozen spec: kind, name, arguments, versions, fingerprints."""
        return read_json(self.path / "spec.json")

    @property
    def kind(self) -> str:
        """What it does: one of ``KINDS``."""
        return str(self.spec.get("kind", ""))

    @property
    def name(self) -> str:
        """What the user calls it."""
        return str(self.spec.get("name") or self.id)

    @property
    def command(self) -> str:
        """The exact command."""
        file = self.path / "command.txt"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return float(self.spec.get("created", 0.0))

    @property
    def stop_asked(self) -> bool:
        """Whether somebody has asked it to save and stop."""
        return (self.path / "control" / "stop").exists()

    def status(self) -> Status:
        """Return how the job stands; ``lost`` is derived here and written by nobody."""
        written = read_json(self.path / "status.json")
        status = Status(
            state=str(written.get("state", "queued")),
            reason=str(written.get("reason", "")),
            time=float(written.get("time", self.created)),
            exit_code=written.get("exit_code"),
        )
        if status.is_over:
            return status
        who = read_json(self.path / "process.json")
        if not who:
            if time.time() - status.time > START_GRACE_S:
                return Status("lost", "its supervisor never started", status.time)
            return status
        if is_alive(who):
            if status.state == "running" and self.stop_asked:
                return Status("stopping", "saves and stops at the end of this step", status.time)
            return self._with_silence(status)
        # The supervisor may have written its last word between the two looks.
        again = read_json(self.path / "status.json")
        if again.get("state") in TERMINAL:
            return self.status()
        return Status(
            "lost", "its supervisor is gone without a last word (killed, or the machine went down)", status.time
        )

    def _with_silence(self, status: Status) -> Status:
        heartbeat = self.heartbeat()
        if status.state != "running" or not heartbeat:
            return status
        age = boot_clock() - float(heartbeat.get("boot_clock", 0.0))
        if age > float(heartbeat.get("expect_next_s", 60.0)):
            return Status(status.state, f"no sign for {age:.0f} s", status.time)
        return status

    def heartbeat(self) -> dict[str, Any]:
        """Return the last sign of life: time, step, phase, fraction, expect_next_s."""
        return read_json(self.path / HEARTBEAT_FILE)

    def result(self) -> dict[str, Any]:
        """Return what the job reported at its end."""
        return read_json(self.path / "result.json")

    def ask_stop(self) -> None:
        """Ask the job to save and stop."""
        control = self.path / "control"
        control.mkdir(exist_ok=True)
        (control / "stop").touch()
        self.add_event("stop asked")

    def write_status(self, state: str, reason: str = "", exit_code: int | None = None) -> None:
        """Write how the job stands (supervisor only)."""
        content = {"state": state, "reason": reason, "time": time.time(), "exit_code": exit_code}
        write_json(self.path / "status.json", content)

    def add_event(self, event: str, **details: Any) -> None:
        """Append a line to events.jsonl."""
        line = json.dumps({"time": time.time(), "event": event, **details}, ensure_ascii=False)
        with open(self.path / "events.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return all complete metrics lines; of lines of one kind with one step the highest attempt wins."""
        return MetricsReader(self.path / "metrics.jsonl").read()

    def progress(self) -> tuple[int, int]:
        """Return the steps and the tokens of the last metrics line."""
        reader = MetricsReader(self.path / "metrics.jsonl")
        lines = reader.read_tail()
        return (int(lines[-1].get("step", 0)), int(lines[-1].get("tokens", 0))) if lines else (0, 0)

    def log_tail(self, n_bytes: int = LOG_TAIL_BYTES) -> str:
        """Return the end of output.log, from a line start."""
        file = self.path / "output.log"
        if not file.is_file():
            return ""
        with open(file, "rb") as log:
            log.seek(max(0, file.stat().st_size - n_bytes))
            text = log.read().decode("utf-8", errors="replace")
        return text if file.stat().st_size <= n_bytes else text.partition("\n")[2]

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        found = [manifest.parent for manifest in self.path.glob(f"checkpoints/checkpoint-*/{MANIFEST_FILE}")]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def summary(self) -> dict[str, Any]:
        """Return the figures of ``clp jobs show``."""
        status = self.status()
        step, tokens = self.progress()
        return {"job": str(self.path), "state": status.state, "reason": status.reason, "step": step, "tokens": tokens}


class MetricsReader:
    """Reads an append-only file of JSON lines, each time only what is new; a torn last line waits until it is whole."""

    def __init__(self, path: Path) -> None:
        """Start at the beginning of a file that need not be there yet."""
        self._path = path
        self._offset = 0
        self._lines: dict[tuple[int, bool], dict[str, Any]] = {}

    def read(self) -> list[dict[str, Any]]:
        """Return all lines so far, in the order of their steps."""
        for line in self._new_lines():
            key = (int(line.get("step", 0)), "eval_loss" in line)
            held = self._lines.get(key)
            if held is None or line.get("attempt", 1) >= held.get("attempt", 1):
                self._lines[key] = line
        return [self._lines[key] for key in sorted(self._lines)]

    def read_tail(self, n_bytes: int = 4096) -> list[dict[str, Any]]:
        """Return the last whole lines of the file without reading the rest."""
        if not self._path.is_file():
            return []
        with open(self._path, "rb") as file:
            file.seek(max(0, self._path.stat().st_size - n_bytes))
            data = file.read()
        return list(parsed(data[: data.rfind(b"\n") + 1].splitlines()))

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not self._path.is_file():
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        yield from parsed(data[:end].splitlines())


def parsed(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among lines; a line that was torn by a crash is passed over."""
    for line in lines:
        try:
            content = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(content, dict):
            yield content


@dataclass(frozen=True)
class JobStore:
    """All jobs of a workspace."""

    root: Path

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        found = [
            Job(path) for path in self.root.glob("*") if JOB_ID.fullmatch(path.name) and (path / "spec.json").is_file()
        ]
        return sorted(found, key=lambda job: (job.created, job.id), reverse=True)

    def get(self, job_id: str) -> Job:
        """Return a job by the name of its directory.

        Raises:
            InputError: that is no job's name, or there is no such job.
        """
        name = Path(job_id).name if Path(job_id).parent.resolve() == self.root.resolve() else job_id
        if not JOB_ID.fullmatch(name):
            raise InputError(f"{job_id!r} is no job's name; `clp jobs list` shows them")
        job = Job(self.root / name)
        if not (job.path / "spec.json").is_file():
            raise InputError(f"there is no job {name}; `clp jobs list` shows them")
        return job

    def create(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        argv: Sequence[str],
        command: str,
        *,
        name: str = "",
        plan: Mapping[str, Any] | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> tuple[Job, bool]:
        """Make the directory of a job, unless one with the same kind and arguments is under way.

        Args:
            kind: one of ``KINDS``.
            arguments: the options of the job.
            argv: what the supervisor runs; ``{job}`` stands for the directory.
            command: the command that a user would type.
            name: what the user calls it.
            plan: what was chosen where the options left it open.
            fingerprints: of the inputs.

        Returns:
            The job, and whether it is new. A double click or a second tab gets the job that is under way already.
        """
        if kind not in KINDS:
            raise JobError(f"there are no jobs of kind {kind!r}")
        self.root.mkdir(parents=True, exist_ok=True)
        frozen = json.loads(json.dumps(dict(arguments)))
        with FileLock(self.root / ".create.lock"):
            for job in self.jobs():
                same = job.kind == kind and job.spec.get("arguments") == frozen
                if same and not job.status().is_over:
                    return job, False
            now = datetime.now(timezone.utc)
            slug = slug_of(name or kind)
            path = self.root / f"{now:%Y%m%d-%H%M%S}-{slug}-{secrets.token_hex(2)}"
            path.mkdir()
            spec = {
                "schema": SCHEMA_VERSION,
                "kind": kind,
                "name": name,
                "created": now.timestamp(),
                "arguments": frozen,
                "argv": list(argv),
                "plan": dict(plan or {}),
                "versions": versions(),
                "fingerprints": dict(fingerprints or {}),
            }
            (path / "command.txt").write_text(command + "\n", encoding="utf-8")
            job = Job(path)
            job.write_status("queued")
            write_json(path / "spec.json", spec)
        return job, True

    def remove(self, job: Job) -> None:
        """Delete a job that is over.

        Raises:
            InputError: it is still under way.
        """
        if not job.status().is_over:
            raise InputError(f"{job.id} is {job.status().state}; stop it first")
        shutil.rmtree(job.path)


def slug_of(text: str) -> str:
    """Return a text as a short name for a directory: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "job"


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a job's result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
