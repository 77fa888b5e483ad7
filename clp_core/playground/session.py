"""Sessions of the playground: a job that keeps models in memory and completes prompts.

A session is a job of kind ``playground``. Pages write a request into its directory, and read
the completions from another file::

    requests/0001.json    the prompt with its settings (``GenerateOptions``), written atomically
    requests/0001.stop    its presence ends that completion
    answers/0001.jsonl    append-only: for each model its prompt's tokens, each token with its text, and how it ended
    session.json          device of the models, and the memory they take
    closed                its presence: no further prompt is accepted

The session ends by itself; its memory is released with its process.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from clp_core.errors import ClpError, InputError
from clp_core.files.hashing import fingerprint
from clp_core.files.json_files import read_json_file, read_state, write_json
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.jobs.job import Job
from clp_core.jobs.store import JobStore
from clp_core.jobs.submit import submit
from clp_core.playground.answers import Completion, CompletionsReader, GenerateOptions
from clp_core.playground.options import IDLE_SECONDS, PlaygroundOptions
from clp_core.progress import boot_clock
from clp_core.workspace import Workspace

KIND = "playground"
READY, ANSWERING, IDLE = "ready", "answering", "idle"
"""Phases of the heartbeat once the models are loaded; before, it names the model being loaded."""
CLOSING_WAIT_S = 20.0


class ClosedError(ClpError):
    """A session that accepts no further prompt."""


@dataclass(frozen=True)
class Session:
    """A session by its job."""

    job: Job

    @property
    def models(self) -> tuple[str, ...]:
        """The models it holds."""
        return tuple(self.job.spec["arguments"]["models"])

    @property
    def is_open(self) -> bool:
        """Whether it accepts prompts."""
        return not (self.job.path / "closed").exists() and not self.job.stop_asked and not self.job.status().is_over

    @property
    def held(self) -> dict[str, Any]:
        """Content of ``session.json``: ``device``, ``name``, ``memory_bytes``, ``why``; empty while models load."""
        return read_state(self.job.path / "session.json")

    @property
    def phase(self) -> str:
        """Phase of its heartbeat: loading, ``READY``, ``ANSWERING`` or ``IDLE``."""
        return str(self.job.heartbeat().get("phase") or "starting")

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it ends by itself; ``None`` while it loads or answers."""
        heartbeat = self.job.heartbeat()
        if heartbeat.get("phase") not in (READY, IDLE):
            return None
        passed = boot_clock() - float(heartbeat["boot_clock"])
        return max(0.0, float(self.job.spec["arguments"]["idle_seconds"]) - passed)

    @property
    def lock(self) -> FileLock:
        """Lock under which prompts get their numbers and the session closes."""
        return FileLock(self.job.path / ".requests.lock", timeout=CLOSING_WAIT_S)

    def numbers(self) -> list[int]:
        """Numbers of all prompts, in order."""
        return sorted(int(path.stem) for path in self.job.path.glob("requests/*.json") if path.stem.isdecimal())

    def request_file(self, number: int) -> Path:
        """File of a prompt."""
        return self.job.path / "requests" / f"{number:04}.json"

    def answers_file(self, number: int) -> Path:
        """File of the completions of a prompt."""
        return self.job.path / "answers" / f"{number:04}.jsonl"

    def stop_file(self, number: int) -> Path:
        """File whose presence ends the completions of a prompt."""
        return self.job.path / "requests" / f"{number:04}.stop"

    def request(self, number: int) -> GenerateOptions:
        """Read a prompt with its settings.

        Raises:
            InputError: its file is not a valid request, or names a model that is not in this session.
        """
        try:
            content = read_json_file(self.request_file(number))
        except (OSError, ValueError) as error:
            raise InputError(f"prompt {number} cannot be read: {error}") from error
        found = GenerateOptions.of_json(content)
        if absent := [model for model in found.models if model not in self.models]:
            raise InputError(f"this session does not hold {absent[0]}")
        return found

    def answers(self, number: int) -> list[Completion]:
        """Read the completions of a prompt as they stand."""
        return CompletionsReader(self.answers_file(number), self.request(number).models).read()

    def ask(self, options: GenerateOptions) -> int:
        """Submit a prompt; return its number. One that is still being completed is not submitted twice.

        Raises:
            ClosedError: the session accepts no further prompt.
            InputError: the prompt holds an access token.
        """
        refuse_access_tokens([options.prompt])
        with self.lock:
            if not self.is_open:
                raise ClosedError("this session is over; start another one")
            numbers = self.numbers()
            if numbers and self._is_under_way(numbers[-1], options):
                return numbers[-1]
            number = numbers[-1] + 1 if numbers else 1
            self.request_file(number).parent.mkdir(exist_ok=True)
            write_json(self.request_file(number), asdict(options))
        return number

    def _is_under_way(self, number: int, options: GenerateOptions) -> bool:
        try:
            if self.request(number) != options:
                return False
        except InputError:
            return False
        return not all(answer.stopped for answer in self.answers(number))

    def stop(self, number: int) -> None:
        """Request the end of the completions of a prompt."""
        self.stop_file(number).touch()


def sessions(workspace: Workspace) -> list[Session]:
    """All sessions of a workspace, newest first."""
    return [Session(job) for job in JobStore(workspace.jobs).jobs() if job.kind == KIND]


def session_for(workspace: Workspace, models: Sequence[str]) -> Session | None:
    """Find the open session that holds these models with their present content."""
    content = contents(models)
    for session in sessions(workspace):
        held = session.job.spec["arguments"]["content"]
        if content.items() <= held.items() and session.is_open:
            return session
    return None


def ask(workspace: Workspace, options: GenerateOptions, idle_seconds: int = IDLE_SECONDS) -> tuple[Session, int]:
    """Submit a prompt to the session that holds its models; where there is none, start one.

    Args:
        workspace: the workspace.
        options: the prompt; its models are folders.
        idle_seconds: seconds without a prompt after which a session started here ends.

    Returns:
        The session and the prompt's number.

    Raises:
        InputError: the models do not fit in memory, or cannot be read.
    """
    deadline = time.monotonic() + CLOSING_WAIT_S
    while True:
        session = session_for(workspace, options.models)
        session = session or start_session(workspace, PlaygroundOptions(options.models, idle_seconds))
        try:
            return session, session.ask(options)
        except ClosedError:  # it has closed this moment, and will be over in the next
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def start_session(workspace: Workspace, options: PlaygroundOptions) -> Session:
    """Start a session as a job, unless one with the same models is under way, which is then returned.

    Raises:
        InputError: the models do not fit in memory, or cannot be read.
    """
    from clp_core.playground.memory_placement import Needs, check_room

    models = sorted(options.models)
    check_room(Needs.of(models))
    argv = ["playground", *models, "--idle-seconds", str(options.idle_seconds)]
    arguments = {"models": models, "idle_seconds": options.idle_seconds, "content": contents(models)}
    names = ", ".join(Path(model).name for model in models)
    job = submit(
        workspace,
        KIND,
        arguments,
        ["-m", "clp_core", *argv, "--json"],
        command=shlex.join(["clp", *argv]),
        name=f"playground of {names}"[:100],
    )
    return Session(job)


def contents(models: Sequence[str]) -> dict[str, str]:
    """Fingerprint of the present content of each model that is a folder."""
    return {model: fingerprint(Path(model)) for model in models}
