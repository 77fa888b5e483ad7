"""Where the supervisor of a job runs: each launcher starts its own jobs, and judges those whose files cannot say.

The job's directory says how the job stands. A launcher is asked only what the directory cannot say: whether a
supervisor that has not begun, cannot be seen from here or left no last word is still to be expected.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clp_core.files.json_files import number_in
from clp_core.jobs.status import Status

if TYPE_CHECKING:
    from clp_core.jobs.job import Job

TOLD_SILENCE_S = 120.0


class Launcher(ABC):
    """Starts supervisors, and says of a job what its files cannot."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start the supervisor of a job, or have it started.

        Raises:
            InputError: it is refused.
        """

    @abstractmethod
    def judge(self, job: Job, status: Status, who: Mapping[str, Any]) -> Status:
        """Say how a job stands whose supervisor is not seen to live on this machine.

        Args:
            job: the job; it is not over by its files.
            status: how it stands by them.
            who: its supervisor by process.json; empty where none has begun.
        """

    def stop(self, job: Job, *, kill: bool) -> None:  # noqa: B027 (most supervisors see the request themselves)
        """Carry a request to stop to where no supervisor sees it yet."""

    def facts(self, job: Job) -> dict[str, Any]:  # noqa: ARG002
        """Return what else ``clp jobs show`` says of a job."""
        return {}


def silence_of(job: Job, status: Status) -> tuple[float, float]:
    """Return how long a job of another machine has given no sign, and how long it had said; by the wall clock."""
    heartbeat = job.heartbeat()
    age = max(0.0, time.time() - number_in(heartbeat, "time", status.time))
    return age, number_in(heartbeat, "expect_next_s", 0.0)


_LAUNCHERS: dict[str, Launcher] = {}
LOCAL = "local"


def register(name: str, launcher: Launcher) -> None:
    """Let a launcher start and judge the jobs whose spec names it."""
    _LAUNCHERS[name] = launcher


def launcher_of(job: Job) -> Launcher:
    """Return the launcher that a job's spec names; jobs of earlier versions ran on their own machine."""
    return _LAUNCHERS.get(str(job.spec.get("launcher")), _LAUNCHERS[LOCAL])


def start(job: Job) -> None:
    """Start a job's supervisor where its spec says.

    Raises:
        InputError: it is refused there.
    """
    launcher_of(job).start(job)
