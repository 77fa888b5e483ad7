"""``python -m clp_core.jobs.supervisor DIR``: run one job's process and write how it stands, to the last word."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from clp_core.jobs.process import die_with_parent, identity
from clp_core.jobs.store import Job
from clp_core.locate import read_json
from clp_core.progress import JOB_ENVIRONMENT, write_json

log = logging.getLogger(__name__)

POLL_S = 0.25
STOP_GRACE_S = {"train": 600.0}
"""Seconds from a stop request until the process is signalled: a run saves first, other jobs write nothing by halves."""
KILL_GRACE_S = 40.0
"""Seconds from that signal until the process is killed; torchrun itself allows its workers 30 s."""


class Supervisor:
    """Runs one job."""

    def __init__(self, job: Job) -> None:
        """Take a job whose directory is made."""
        self._job = job
        self._stop_seen_at: float | None = None
        self._signalled_at: float | None = None

    def run(self) -> int:
        """Run the job to its end; return 0 unless it failed."""
        job = self._job
        write_json(job.path / "process.json", identity(os.getpid()))
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if job.stop_asked:
            job.write_status("stopped", "stopped before it started")
            return 0
        job.write_status("starting")
        argv = [str(part).replace("{job}", str(job.path)) for part in job.spec["argv"]]
        with open(job.path / "output.log", "ab") as output:
            child = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {JOB_ENVIRONMENT: str(job.path), "PYTHONUNBUFFERED": "1"},
                preexec_fn=die_with_parent,
            )
            job.add_event("started", pid=child.pid)
            job.write_status("running")
            while child.poll() is None:
                self._look_for_stop(child)
                time.sleep(POLL_S)
        return self._conclude(child.returncode)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Turn a signal into a request to save and stop."""
        self._job.ask_stop()

    def _look_for_stop(self, child: subprocess.Popen[bytes]) -> None:
        if not self._job.stop_asked:
            return
        now = time.monotonic()
        if self._stop_seen_at is None:
            self._stop_seen_at = now
            self._job.write_status("stopping", "saves and stops at the end of this step")
        grace = STOP_GRACE_S.get(self._job.kind, 0.0)
        if self._signalled_at is None and now - self._stop_seen_at > grace:
            self._signalled_at = now
            child.terminate()
        if self._signalled_at is not None and now - self._signalled_at > KILL_GRACE_S:
            child.kill()

    def _conclude(self, code: int) -> int:
        job = self._job
        outcome = str(job.result().get("outcome", "finished"))
        if code == 0:
            reason = "stopped on request, saved" if outcome == "stopped" else ""
            job.write_status(outcome if outcome in ("finished", "stopped") else "finished", reason, code)
        elif self._signalled_at is not None:
            job.write_status("stopped", "stopped on request, nothing was written", code)
        else:
            job.write_status("failed", self._failure(code), code)
        job.add_event("ended", exit_code=code)
        return 0 if code == 0 or self._signalled_at is not None else 1

    def _failure(self, code: int) -> str:
        """Return one plain line that says why the process failed."""
        told = read_json(self._job.path / "error.json").get("reason")
        if told:
            return str(told)
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        lines = [line.strip() for line in self._job.log_tail().splitlines() if line.strip()]
        told_lines = [line for line in lines if line.startswith("clp: ")] or lines
        last = told_lines[-1] if told_lines else ""
        return last.removeprefix("clp: ")[:500] or f"exit code {code}"


def main() -> None:
    """Supervise the job whose directory is named on the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    job = Job(Path(sys.argv[1]).resolve())
    try:
        code = Supervisor(job).run()
    except Exception as error:
        log.exception("the supervisor failed")
        job.write_status("failed", f"the supervisor failed: {error}")
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
