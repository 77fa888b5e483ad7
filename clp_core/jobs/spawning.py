"""How processes are started: a supervisor apart from this process, and below it the process of its job."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from clp_core.jobs.process_identity import die_with_parent

ENVIRONMENT = "CLP_SPAWNER"
"""Names a module that starts processes in place of ``Spawner``. The tests set it, to fork them from one process that
has the libraries loaded."""


class Child(Protocol):
    """A process that was started: what ``subprocess.Popen`` offers and a supervisor needs."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; ``None`` while it runs."""

    def wait(self) -> int:
        """Wait for its end and return the exit code."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Spawner:
    """Starts Python processes by executing the interpreter."""

    def detached(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
        """Start a process in a session of its own, which outlives this one.

        Args:
            argv: arguments of the interpreter.
            log: file to which its output is appended.
            environment: its environment.

        Returns:
            Its process id.
        """
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                close_fds=True,
                env=dict(environment),
            )
        return process.pid

    def child(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> Child:
        """Start a process that the kernel kills when this one dies.

        Args:
            argv: the command, its program first.
            log: file to which its output is appended.
            environment: its environment.
        """
        with open(log, "ab") as output:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                preexec_fn=partial(die_with_parent, os.getpid()),
            )


def spawner() -> Spawner:
    """Return what starts processes here."""
    if name := os.environ.get(ENVIRONMENT):
        return cast("Spawner", importlib.import_module(name).spawner())
    return Spawner()
