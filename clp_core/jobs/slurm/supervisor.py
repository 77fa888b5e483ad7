"""The supervisor of a run that Slurm has started, see ``jobs.slurm_supervisor``.

It is the batch script's own process. It differs from the one on a machine of one's own in what it runs (the script says
so), in what a signal means (USR1: the time is nearly up; TERM: Slurm ends the job, its processes have the same signal),
and in that Slurm may start it again.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from clp_core.jobs.job import Job
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.jobs.slurm import control
from clp_core.jobs.slurm.control import NoAnswerError
from clp_core.jobs.slurm.launcher import before_start_again, goes_on_from, joined, kept
from clp_core.jobs.spawning import Child
from clp_core.jobs.supervisor import POLL_S, Supervisor, supervise

SRUN_GRACE_S = 10.0
"""Slurm kills everything 30 s (KillWait) after its TERM, also a supervisor that has not written its last word."""
HEARING_S = 3.0
SHARED_LOCK_WAIT_S = 180.0
"""NFS keeps the lock of a machine that failed until its lease is over, after 90 s by default."""
CAUSE = re.compile(r"\*\*\* JOB \d+ ON .* CANCELLED AT .*?DUE TO ([A-Z ]+)")
TIME_LIMIT = "TIME LIMIT"
OUT_OF_TIME = "Slurm: it ran into its time limit before it had saved"


class SlurmSupervisor(Supervisor):
    """Runs one attempt of a run on the machines that Slurm gave it."""

    lock_wait_s = SHARED_LOCK_WAIT_S

    def __init__(self, job: Job, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        """Take a job, what the script says to run for it, and what Slurm says of this start."""
        super().__init__(job)
        self._argv = list(command)
        self._slurm_id = environment["SLURM_JOB_ID"]
        self._restarts = int(environment.get("SLURM_RESTART_COUNT") or 0)
        self._time_is_near = False
        self._ended_by_slurm_at: float | None = None

    def _command(self) -> list[str]:
        return self._argv

    def _listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note what Slurm says; the loop acts on it: a handler writes no files."""
        if number == signal.SIGUSR1:
            self._time_is_near = True
        else:
            self._ended_by_slurm_at = time.monotonic()

    def _may_begin(self) -> bool:
        """Begin the next attempt where Slurm starts the script again, unless a user has stopped the run meanwhile."""
        job = self._job
        if not self._restarts:
            return True
        if job.written_status().is_over:
            return False
        if job.stop_asked and not job.requeue_asked:
            job.write_status("stopped", before_start_again(job))
            return False
        job.begin_attempt()
        return True

    def _look_for_stop(self, child: Child) -> None:
        if self._ended_by_slurm_at is not None:
            if time.monotonic() - self._ended_by_slurm_at > SRUN_GRACE_S:
                child.kill()
            return
        if self._time_is_near and not self._job.stop_asked:
            self._job.ask_requeue()
        super()._look_for_stop(child)

    def _conclude(self, code: int) -> int:
        job = self._job
        if code == 0 and job.result():
            wants_more = job.requeue_asked and job.result().get("outcome") == "stopped"
            return self._go_back_to_the_queue() if wants_more else super()._conclude(code)
        # Where Slurm ends the job, srun may be gone, even with 0, a moment before the supervisor hears of it.
        deadline = time.monotonic() + HEARING_S
        while self._ended_by_slurm_at is None and not job.kill_asked and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._ended_by_slurm_at is not None and not job.kill_asked:
            return self._end_for_slurm(code)
        if code == 0:
            told = "its processes ended without a result; the log may say why"
            job.write_status("failed", Reason(ReasonCode.NO_RESULT, told), code)
            return 1
        return super()._conclude(code)

    def _go_back_to_the_queue(self) -> int:
        """Ask Slurm for more time; the attempt that gets it begins at the script's next start."""
        job = self._job
        saved = f"its time was nearly up: saved at step {job.result().get('step')}"
        job.write_status("queued", Reason(ReasonCode.SLURM_REQUEUED, f"{saved}, waits to go on"), 0)
        job.add_event("goes back to the queue", step=job.result().get("step"))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm ends this start of the script
        refused = control.requeue(self._slurm_id)
        if refused:
            told = f"{saved}; Slurm does not take it back ({refused}): resume it"
            job.write_status("stopped", Reason(ReasonCode.SLURM_NOT_REQUEUED, told), 0)
        return 0

    def _end_for_slurm(self, code: int) -> int:
        """Write why Slurm ended the job, or that it will start it again."""
        job = self._job
        found = CAUSE.findall(self._own_output())
        cause = found[-1].strip() if found else ""
        if self._is_restarted():
            told = f"Slurm took its machines ({cause.lower() or 'requeued'})"
            job.write_status("queued", Reason(ReasonCode.SLURM_PREEMPTED, f"{told}; it {goes_on_from(job)}"), code)
        elif cause == TIME_LIMIT:
            cure = "give it a longer --time-limit or a longer --signal-before-s, and resume it"
            job.write_status("failed", Reason(ReasonCode.SLURM_TIME_LIMIT, joined(OUT_OF_TIME, kept(job), cure)), code)
        else:
            told = f"Slurm: it was cancelled{f' due to {cause.lower()}' if cause else ''}"
            job.write_status("stopped", Reason(ReasonCode.SLURM_CANCELLED, joined(told, kept(job))), code)
        job.add_event("ended by Slurm", exit_code=code, cause=cause)
        return 1 if job.written_status().state == "failed" else 0

    def _is_restarted(self) -> bool:
        """Say whether Slurm, which is ending the job, will start it again: it counts restarts as it decides on one."""
        try:
            return (control.show(self._slurm_id).restarts or 0) > self._restarts
        except NoAnswerError:
            return False


def main() -> None:
    """Supervise the job whose directory is named first, by the command that follows."""
    job = Job(Path(sys.argv[1]).resolve())
    supervise(job, SlurmSupervisor(job, sys.argv[2:]))
