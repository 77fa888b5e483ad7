"""``python -m clp_core.jobs.supervisor DIR``: run one job's process and write how it stands, to the last word."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from filelock import FileLock, Timeout

from clp_core.environment.gpus import cuda_environment
from clp_core.files.json_files import read_state, write_json
from clp_core.jobs.device_queue import DeviceQueue, Held, Ticket
from clp_core.jobs.failure_reason import oom_kills, reason_of_exit
from clp_core.jobs.job import LOCK_FILE, LOG_FILE, Job
from clp_core.jobs.process_identity import identity
from clp_core.jobs.reason_codes import BEFORE_START, NO_REASON, Reason, ReasonCode, reason_in
from clp_core.jobs.spawning import Child, spawner
from clp_core.jobs.training_checkpoints import step_of
from clp_core.progress import JOB_ENVIRONMENT

log = logging.getLogger(__name__)

POLL_S = 0.25
LOCK_WAIT_S = 30.0
QUEUE_POLL_S = 1.0
MOST_PATIENCE = 10
STOP_GRACE_S = {"train": 600.0, "playground": 1.5}
"""Seconds from a stop request until the process is signalled: a run saves first, other jobs write nothing by halves."""
KILL_GRACE_S = 40.0
"""Seconds from that signal until the process is killed; torchrun itself allows its workers 30 s."""
ENDED_BY_SIGTERM = (-signal.SIGTERM, 128 + signal.SIGTERM)
LAST_OUTPUT_BYTES = 16_384
SAVED = Reason(ReasonCode.STOPPED_SAVED, "stopped on request, saved")


class Supervisor:
    """Runs one attempt of one job."""

    lock_wait_s = LOCK_WAIT_S

    def __init__(self, job: Job, queue: DeviceQueue | None = None) -> None:
        """Take a job whose directory is made."""
        self._job = job
        self._queue = queue or DeviceQueue.of_this_machine()
        self._stop_seen_at: float | None = None
        self._signalled_at: float | None = None
        self._signalled = False
        self._ticket: Ticket | None = None
        self._log_start = 0
        self._oom_kills = 0

    def run(self) -> int:
        """Run the job to its end; return 0 unless it failed."""
        job = self._job
        lock = FileLock(job.path / LOCK_FILE)
        try:
            lock.acquire(timeout=self.lock_wait_s)  # that of the attempt before may be in its last moments
        except Timeout:
            log.warning("%s has a supervisor already", job.id)
            return 1
        with lock:
            self._listen()
            if not self._may_begin():
                return 0
            write_json(job.path / "process.json", identity(os.getpid()), durable=True)
            try:
                held = self._wait_for_devices()
                if held is None:
                    job.write_status("stopped", BEFORE_START)
                    return 0
                return self._conclude(self._run_process())
            finally:
                self._leave_queue()

    def _listen(self) -> None:
        """Take signals."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _may_begin(self) -> bool:
        """Say whether this attempt is to run at all."""
        return True

    def _leave_queue(self) -> None:
        if self._ticket is None:
            return
        try:
            self._queue.leave(self._ticket)
        except (OSError, Timeout):  # readers pass over the ticket of a job that is over
            log.warning("the ticket of %s could not be given back", self._job.id)

    def _wait_for_devices(self) -> Held | None:
        """Return the devices the job asked for, once it is its turn; ``None`` if it was asked to stop before."""
        job, told = self._job, ""
        devices = tuple(job.spec.get("devices", ()))
        if not devices:
            return None if self._stop_is_asked() else Held()
        self._ticket = self._queue.ticket_of(job.path) or self._queue.enter(job.path, devices)
        while not self._stop_is_asked():
            try:
                held = self._queue.try_to_hold(self._ticket)
            except Timeout:  # somebody else looks into the queue for long
                continue
            if held is not None:
                return held
            before = self._queue.before(self._ticket)
            first = f", {Job(before[0].job).name} is first" if before else ""
            reason = f"place {max(len(before), 1)} in the queue for {', '.join(devices)}{first}"
            if reason != told:
                job.write_status("queued", Reason(ReasonCode.WAITS_FOR_DEVICE, reason))
                told = reason
            self._be_patient(len(before))
        return None

    def _be_patient(self, place: int) -> None:
        """Wait until it is worth looking into the queue again, the longer the more jobs are before; a stop ends it.

        So many waiting jobs together look no more often than a few.
        """
        until = time.monotonic() + QUEUE_POLL_S * min(max(place, 1), MOST_PATIENCE)
        while time.monotonic() < until and not self._stop_is_asked():
            time.sleep(min(QUEUE_POLL_S, max(0.0, until - time.monotonic())))

    def _stop_is_asked(self) -> bool:
        """Say whether a stop is asked for, by its file or by a signal, which asks by the same file."""
        if self._signalled and not self._job.stop_asked:
            self._job.ask_stop()
        return self._job.stop_asked

    def _run_process(self) -> int:
        """Start the job's process and stay until it ends; return its exit code."""
        job = self._job
        attempt = job.written_status().attempt
        job.write_status("starting")
        self._oom_kills = oom_kills()
        argv = self._command()
        environment = os.environ | {JOB_ENVIRONMENT: str(job.path), "PYTHONUNBUFFERED": "1"}
        if gpus := [device for device in job.spec.get("devices", ()) if device.startswith("cuda:")]:
            environment |= cuda_environment(gpus)
        log_file = job.path / LOG_FILE
        self._log_start = log_file.stat().st_size if log_file.is_file() else 0
        child = spawner().child(argv, log_file, environment)
        job.add_event("started", pid=child.pid, attempt=attempt)
        job.write_status("running")
        while (code := child.poll()) is None:
            self._look_for_stop(child)
            time.sleep(POLL_S)
        return code

    def _command(self) -> list[str]:
        """Return what the job's process runs."""
        return [sys.executable, *[str(part).replace("{job}", str(self._job.path)) for part in self._job.spec["argv"]]]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Turn a signal into a request to save and stop, which the loop makes: a handler writes no files."""
        self._signalled = True

    def _look_for_stop(self, child: Child) -> None:
        if not self._stop_is_asked():
            return
        now = time.monotonic()
        if self._job.kill_asked and child.poll() is None:
            child.kill()  # its own processes die with it
            return
        if self._stop_seen_at is None:
            self._stop_seen_at = now
            self._job.write_status("stopping", self._job.stopping_reason)
        grace = STOP_GRACE_S.get(self._job.kind, 0.0)
        if self._signalled_at is None and now - self._stop_seen_at > grace:
            self._signalled_at = now
            child.terminate()
        if self._signalled_at is not None and now - self._signalled_at > KILL_GRACE_S:
            child.kill()

    def _conclude(self, code: int) -> int:
        job = self._job
        result = job.result()
        outcome = str(result.get("outcome", "finished"))
        ended_from_outside = job.stop_asked and (job.kill_asked or code in ENDED_BY_SIGTERM)
        if code == 0:
            reason = reason_in(result) or (SAVED if outcome == "stopped" else NO_REASON)
            state = outcome if outcome in ("finished", "stopped") else "finished"
        elif self._signalled_at is not None or ended_from_outside:
            state, reason = "stopped", self._kept_reason()
        else:
            state, reason = "failed", self._failure(code)
        job.write_status(state, reason, code)
        job.add_event("ended", exit_code=code)
        return 1 if state == "failed" else 0

    def _kept_reason(self) -> Reason:
        """Return what is left of a job that was ended from outside."""
        if self._job.kind == "playground":  # it has nothing to save
            return reason_in(self._job.result()) or Reason(ReasonCode.ENDED, "ended on request; its memory is free")
        if self._job.result():
            return SAVED
        checkpoints = self._job.checkpoints()
        kept = f"its newest checkpoint is that of step {step_of(checkpoints[-1])}" if checkpoints else ""
        told = f"ended on request before it had saved; {kept or 'nothing was written'}"
        return Reason(ReasonCode.STOPPED_UNSAVED, told)

    def _failure(self, code: int) -> Reason:
        """Return why the process failed: what it says itself, else what its end tells."""
        told = reason_in(read_state(self._job.path / "error.json"))
        if told:
            return told
        return reason_of_exit(code, self._own_output(), oom_killed=oom_kills() > self._oom_kills)

    def _own_output(self) -> str:
        """Return the end of what this attempt has put out."""
        file = self._job.path / LOG_FILE
        with open(file, "rb") as log_file:
            log_file.seek(max(self._log_start, file.stat().st_size - LAST_OUTPUT_BYTES))
            return log_file.read().decode("utf-8", errors="replace")


def main() -> None:
    """Supervise the job whose directory is named on the command line."""
    job = Job(Path(sys.argv[1]).resolve())
    supervise(job, Supervisor(job))


def supervise(job: Job, supervisor: Supervisor) -> NoReturn:
    """Run a supervisor to its end, and end with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code = supervisor.run()
    except Exception as error:
        log.exception("the supervisor failed")
        if not job.written_status().is_over:
            job.write_status("failed", Reason(ReasonCode.SUPERVISOR_FAILED, f"the supervisor failed: {error}"))
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
