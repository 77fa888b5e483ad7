"""The job directory: the one place that says what a job is, how it stands and what it measured.

Pages and commands only read it, and ask for a stop by a file; the supervisor and the job itself write it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.files.json_files import number_in, read_state, write_json
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.jobs.launcher import Launcher, launcher_of
from clp_core.jobs.metrics import read_lines, read_tail
from clp_core.jobs.process_identity import boot_id, is_alive
from clp_core.jobs.reason_codes import NO_REASON, Reason, ReasonCode, known_code
from clp_core.jobs.status import STATES, Status
from clp_core.jobs.training_checkpoints import complete_checkpoints
from clp_core.progress import HEARTBEAT_FILE, boot_clock

log = logging.getLogger(__name__)

FIRST_SIGN_S = 120.0
LOCK_FILE = "supervisor.lock"
LOG_FILE = "output.log"
LABEL_FILE = "label.json"
PLAN_FILE = "plan.json"
WARNINGS_FILE = "warnings.json"
RESERVE_FILE = "reserve"
SLURM_END_FILE = "slurm_end.json"
ATTEMPT_FILES = (
    *("control/stop", "control/kill", "control/requeue"),
    *("result.json", "error.json", "process.json", SLURM_END_FILE),
)
"""What belongs to one attempt alone."""
RESERVE_BYTES = 64 << 10
STOPPING = Reason(ReasonCode.STOP_REQUESTED, "saves and stops at the end of this step")
YIELDING = Reason(
    ReasonCode.TIME_NEARLY_UP, "its time is nearly up: saves at the end of this step, then waits to go on"
)
NO_SIGN = "no sign"
MAX_NAME = 120
SPEC_KINDS: dict[str, type] = {
    "arguments": dict,
    "plan": dict,
    "versions": dict,
    "fingerprints": dict,
    "argv": list,
    "devices": list,
}
"""What the parts of a spec are; a damaged or foreign one must not break the pages, which show all jobs."""
PLAN_NUMBERS = (
    *("parameters", "nodes", "processes", "block_length", "step_blocks", "micro_blocks", "steps"),
    *("memory_bytes", "disk_bytes"),
)
"""Fields of a plan that are numbers; pages and commands calculate with them."""
LARGEST_PLAN_NUMBER = 1e18
LOG_TAIL_BYTES = 16_384


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
        return read_spec(self.path / "spec.json")

    @property
    def plan(self) -> dict[str, Any]:
        """What was planned for a run, with what it has found out itself since; empty for other jobs."""
        planned = dict(self.spec.get("plan", {}))
        settled = usable_plan(read_state(self.path / PLAN_FILE))
        return planned | {key: value for key, value in settled.items() if is_alike(value, planned.get(key))}

    @property
    def warnings(self) -> list[str]:
        """What was found out about a run's data and settings, when it was planned and when it began."""
        told = [content.get("warnings") for content in (self.plan, read_state(self.path / WARNINGS_FILE))]
        return list(dict.fromkeys(str(each) for texts in told if isinstance(texts, list) for each in texts))

    @property
    def kind(self) -> str:
        """What it does, such as ``train``."""
        return str(self.spec.get("kind", ""))

    @property
    def name(self) -> str:
        """What the user calls it."""
        return str(read_state(self.path / LABEL_FILE).get("name") or self.spec.get("name") or self.id)

    @property
    def launcher(self) -> Launcher:
        """What starts its supervisor, and is asked of it what the directory cannot say."""
        return launcher_of(self)

    @property
    def command(self) -> str:
        """The exact command."""
        file = self.path / "command.txt"
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return number_in(self.spec, "created", 0.0)

    @property
    def stop_asked(self) -> bool:
        """Whether it is to save and stop, for a user or because its time is nearly up."""
        return any((self.path / "control" / name).exists() for name in ("stop", "requeue"))

    @property
    def kill_asked(self) -> bool:
        """Whether somebody has asked it to end at once."""
        return (self.path / "control" / "kill").exists()

    @property
    def requeue_asked(self) -> bool:
        """Whether it is to save and stop because its time is nearly up, and to go on later; a user's stop wins."""
        return (self.path / "control" / "requeue").exists() and not (self.path / "control" / "stop").exists()

    def status(self) -> Status:
        """Return how the job stands; ``lost`` and ``stopping`` are derived here and written by nobody."""
        status = self.written_status()
        if status.is_over:
            return status
        who = read_state(self.path / "process.json")
        if is_alive(who):
            if status.state == "running" and self.stop_asked:
                status = status.because(*self.stopping_reason, state="stopping")
            return self._with_silence(status)
        judged = self.launcher.judge(self, status, who)
        # The supervisor may have written its last word between the two looks.
        again = self.written_status()
        return again if again.is_over else judged

    @property
    def stopping_reason(self) -> Reason:
        """What is said while it saves and stops."""
        return YIELDING if self.requeue_asked else STOPPING

    def written_status(self) -> Status:
        """Return how the job stands by its file, whoever still lives."""
        written = read_state(self.path / "status.json")
        return Status(
            state=state if (state := str(written.get("state"))) in STATES else "queued",
            reason=str(written.get("reason", "")),
            time=number_in(written, "time", self.created),
            exit_code=written.get("exit_code"),
            attempt=int(number_in(written, "attempt", 1)),
            boot_clock=number_in(written, "boot_clock", math.nan),
            boot_id=str(written.get("boot_id", "")),
            reason_code=known_code(written.get("reason_code")),
        )

    def _with_silence(self, status: Status) -> Status:
        if status.state not in ("running", "stopping"):
            return status
        heartbeat = self.heartbeat()
        age = boot_clock() - number_in(heartbeat, "boot_clock", status.boot_clock)
        if age > number_in(heartbeat, "expect_next_s", FIRST_SIGN_S):
            silent = f"{NO_SIGN} for {age:.0f} s"
            told = f"{status.reason}; {silent}" if status.reason else silent
            return status.because(ReasonCode.NO_SIGN, told)
        return status

    def heartbeat(self) -> dict[str, Any]:
        """Return the last sign of life: time, step, phase, fraction, expect_next_s."""
        return read_state(self.path / HEARTBEAT_FILE)

    def result(self) -> dict[str, Any]:
        """Return what the job reported at its end."""
        return read_state(self.path / "result.json")

    def ask_stop(self, *, kill: bool = False) -> None:
        """Ask the job to save and stop; with ``kill``, to end at once as it is."""
        names = ("kill", "stop") if kill else ("stop",)
        try:
            self._touch_control(*names)
        except OSError:  # a full disk
            (self.path / RESERVE_FILE).unlink(missing_ok=True)
            self._touch_control(*names)
        self.add_event("kill asked" if kill else "stop asked")
        self.launcher.stop(self, kill=kill)

    def ask_requeue(self) -> None:
        """Ask the job to save and stop, and to go on once it has time again."""
        self._touch_control("requeue")
        self.add_event("time nearly up")

    def _touch_control(self, *names: str) -> None:
        control = self.path / "control"
        control.mkdir(exist_ok=True)
        for name in names:
            (control / name).touch()

    def write_status(self, state: str, reason: Reason = NO_REASON, exit_code: int | None = None) -> None:
        """Write how the job stands: its maker once, then its supervisor alone. See ``write_last_word``."""
        content = {
            "state": state,
            "reason": reason.text,
            "reason_code": reason.code.value,
            "time": time.time(),
            "boot_clock": boot_clock(),
            "boot_id": boot_id(),
            "exit_code": exit_code,
            "attempt": self.written_status().attempt,
        }
        self.write_last_word("status.json", content)

    def write_last_word(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file that says how the job stands, on a full disk in the room that was set aside."""
        try:
            write_json(self.path / name, content, durable=True)
        except OSError:
            (self.path / RESERVE_FILE).unlink(missing_ok=True)
            write_json(self.path / name, content, durable=True)

    def begin_attempt(self) -> int:
        """Make a job that is over ready to run again; return the number of the attempt."""
        attempt = self.written_status().attempt + 1
        for name in (*ATTEMPT_FILES, HEARTBEAT_FILE):
            (self.path / name).unlink(missing_ok=True)
        self.set_room_aside()
        content = {"state": "queued", "time": time.time(), "boot_clock": boot_clock(), "boot_id": boot_id()}
        write_json(self.path / "status.json", content | {"attempt": attempt}, durable=True)
        self.add_event("resumed", attempt=attempt)
        return attempt

    def set_room_aside(self) -> None:
        """Fill a small file whose room the last word may take when the disk is full."""
        with open(self.path / RESERVE_FILE, "wb") as file:
            file.write(os.urandom(RESERVE_BYTES))  # some file systems store zeros as nothing
            file.flush()
            os.fsync(file.fileno())

    def rename(self, name: str) -> None:
        """Give the job another name; its directory keeps its own.

        Raises:
            InputError: that is no name.
        """
        write_json(self.path / LABEL_FILE, {"name": checked_name(name)}, durable=True)

    def add_event(self, event: str, **details: Any) -> None:
        """Append a line to events.jsonl; a full disk loses the line, not the job."""
        line = json.dumps({"time": time.time(), "event": event, **details}, ensure_ascii=False)
        try:
            with open(self.path / "events.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            log.warning("the event %r could not be written: %s", event, error)

    @property
    def metrics_file(self) -> Path:
        """The file of the metrics lines."""
        return self.path / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """Return all metrics lines that count, by step; see ``jobs.metrics``."""
        return read_lines(self.metrics_file)

    def progress(self) -> tuple[int, int]:
        """Return the steps and the tokens of the last metrics line."""
        lines = read_tail(self.metrics_file)
        return (int(lines[-1].get("step", 0)), int(lines[-1].get("tokens", 0))) if lines else (0, 0)

    def log_tail(self, n_bytes: int = LOG_TAIL_BYTES) -> str:
        """Return the end of output.log, from a line start."""
        file = self.path / LOG_FILE
        if not file.is_file():
            return ""
        with open(file, "rb") as log:
            log.seek(max(0, file.stat().st_size - n_bytes))
            text = log.read().decode("utf-8", errors="replace")
        return text if file.stat().st_size <= n_bytes else text.partition("\n")[2]

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return complete_checkpoints(self.path / "checkpoints")

    def summary(self) -> dict[str, Any]:
        """Return the figures of ``clp jobs show``."""
        status = self.status()
        step, tokens = self.progress()
        figures = {
            "job": str(self.path),
            "name": self.name,
            "state": status.state,
            "reason": status.reason,
            "reason_code": status.reason_code.value,
            "step": step,
            "tokens": tokens,
        }
        return figures | self.launcher.facts(self)


def read_spec(path: Path) -> dict[str, Any]:
    """Return a job's spec; an object or a list that is missing in it, or is something else, counts as empty."""
    content = read_state(path)
    wrong = [name for name, kind in SPEC_KINDS.items() if not isinstance(content.get(name), kind)]
    content |= {name: SPEC_KINDS[name]() for name in wrong}
    return content | {"plan": usable_plan(content["plan"])}


def usable_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan without those of its ``PLAN_NUMBERS`` that are not numbers, or cannot be."""
    wrong = [name for name in PLAN_NUMBERS if not number_in(plan, name, -1.0, LARGEST_PLAN_NUMBER) >= 0]
    return {name: value for name, value in plan.items() if name not in wrong}


def is_alike(value: Any, planned: Any) -> bool:
    """Say whether a value may take the place of a planned one: numbers for numbers, else the same type or for none."""
    numbers = (int, float)
    return planned is None or isinstance(value, numbers if isinstance(planned, numbers) else type(planned))


def job_is_over(path: Path) -> bool:
    """Say whether the job in a directory is over, or gone."""
    return not path.is_dir() or Job(path).status().is_over


def checked_name(name: str) -> str:
    """Return a name a user gave, without blanks around it.

    Raises:
        InputError: it is empty, too long, or holds what cannot be shown.
    """
    name = name.strip()
    refuse_access_tokens([name])
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f"a name has 1 to {MAX_NAME} characters that can be shown")
    return name
