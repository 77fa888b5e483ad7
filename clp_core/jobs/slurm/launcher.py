"""Runs through Slurm: the job's directory is the truth, Slurm is asked whether the job lives."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from clp_core.errors import InputError
from clp_core.files.json_files import read_state, write_json
from clp_core.jobs.job import NO_SIGN, SLURM_END_FILE, Job
from clp_core.jobs.launcher import TOLD_SILENCE_S, Launcher, register, silence_of
from clp_core.jobs.reason_codes import BEFORE_START, Reason, ReasonCode
from clp_core.jobs.slurm import control
from clp_core.jobs.slurm.control import FORGOTTEN, REGISTRY, NoAnswerError, SlurmWord
from clp_core.jobs.status import Status
from clp_core.jobs.training_checkpoints import step_of

log = logging.getLogger(__name__)

SCRIPT_FILE = "slurm.sbatch"
TICKET_FILE = "slurm.json"
SUBMIT_GRACE_S = control.SUBMIT_TIMEOUT_S + 10
NO_ANSWER = "Slurm does not answer"
STARTS = ("RUNNING", "CONFIGURING")


class SlurmLauncher(Launcher):
    """Supervisors that Slurm starts, on the first machine of those it gives a run."""

    def start(self, job: Job) -> None:
        """Hand the job's script to Slurm, as it is now: a user may have edited it since.

        Raises:
            InputError: Slurm refuses it, or does not answer.
        """
        (job.path / TICKET_FILE).unlink(missing_ok=True)
        try:
            job_id, cluster = control.submit(job.path / SCRIPT_FILE, job.path)
        except InputError as error:
            job.write_status("failed", Reason(ReasonCode.SLURM_REFUSED, str(error)))
            raise
        write_json(job.path / TICKET_FILE, {"job_id": job_id, "cluster": cluster}, durable=True)
        job.add_event("handed to Slurm", job_id=job_id)

    def judge(self, job: Job, status: Status, who: Mapping[str, Any]) -> Status:
        """Say how a job stands by Slurm's word: it waits, runs as its files say, or is gone."""
        job_id, cluster = ticket_of(job)
        if not job_id:
            if time.time() - status.time > SUBMIT_GRACE_S:
                return status.because(ReasonCode.SLURM_NOT_SUBMITTED, "it was never handed to Slurm", state="lost")
            return status.because(ReasonCode.SLURM_SUBMITTING, "is being handed to Slurm")
        ended = read_state(job.path / SLURM_END_FILE)
        if ended.get("job_id") == job_id:
            return gone(job, status, SlurmWord(str(ended.get("state")), str(ended.get("reason", ""))))
        word = REGISTRY.word_of(job_id, cluster)
        if word is None:
            return status.because(ReasonCode.SLURM_NO_ANSWER, joined(status.reason, NO_ANSWER))
        word = word.of(job.id)
        if word.waits:
            told = joined(self._before(job, status), word.told)
            return status.because(ReasonCode.SLURM_WAITS, told, state="queued")
        if word.runs:
            return running(job, status, word, who)
        if word.state == FORGOTTEN:  # perhaps this machine asks another Slurm than the one that runs it
            return gone(job, status, word) if is_silent(job, status) else running(job, status, word, who)
        # Slurm forgets within minutes, so whoever reads its last word first keeps it for all.
        with contextlib.suppress(OSError):  # another user's job, or a full disk
            write_json(job.path / SLURM_END_FILE, {"job_id": job_id, "state": word.state, "reason": word.reason})
        return gone(job, status, word)

    @staticmethod
    def _before(job: Job, status: Status) -> str:
        """Return what a waiting job has behind it: what its supervisor said last, or that Slurm took it off."""
        if status.state == "queued":
            return status.reason
        return f"Slurm took its machines; it {goes_on_from(job)}"

    def stop(self, job: Job, *, kill: bool) -> None:
        """Cancel a job that waits; one that runs is stopped by its supervisor, and ended at once by Slurm too.

        Where Slurm does not answer, the request stays in the directory, and the supervisor obeys it once it starts.
        """
        job_id, cluster = ticket_of(job)
        if not job_id:
            return
        try:
            word = control.show(job_id, cluster).of(job.id)
            if word.waits or word.runs:
                control.cancel(job_id, cluster, pending_only=not kill)
                word = control.show(job_id, cluster)
            REGISTRY.forget()
        except NoAnswerError as error:
            log.warning("%s could not be cancelled: %s", job.id, error)
            return
        written = job.written_status()
        if written.state == "queued" and not word.waits and not word.runs:
            job.write_status("stopped", before_start_again(job) if job.checkpoints() else BEFORE_START)

    def facts(self, job: Job) -> dict[str, Any]:
        """Return Slurm's id of the job."""
        return {"slurm_job": ticket_of(job)[0] or None}


def ticket_of(job: Job) -> tuple[str, str]:
    """Return Slurm's id of a job and its cluster; empty where it has none yet."""
    ticket = read_state(job.path / TICKET_FILE)
    return str(ticket.get("job_id", "")), str(ticket.get("cluster", ""))


def running(job: Job, status: Status, word: SlurmWord, who: Mapping[str, Any]) -> Status:
    """Judge a job that Slurm runs by what it writes."""
    if status.state == "queued":
        if word.state not in STARTS:
            return status
        return status.because(ReasonCode.SLURM_STARTS, joined(status.reason, "Slurm: starts it"))
    if status.state == "running" and job.stop_asked:
        status = status.because(*job.stopping_reason, state="stopping")
    silent = f"{NO_SIGN} for {silence_of(job, status)[0]:.0f} s" if is_silent(job, status) else ""
    told = joined(status.reason, f"on {who['host']}" if "host" in who else "", silent)
    code = ReasonCode.NO_SIGN if silent else status.reason_code or ReasonCode.ON_OTHER_HOST
    return status.because(code if told else ReasonCode.NONE, told)


def is_silent(job: Job, status: Status) -> bool:
    """Say whether a job of another machine has given no sign for longer than it said."""
    age, expected = silence_of(job, status)
    return age > max(expected, TOLD_SILENCE_S)


def gone(job: Job, status: Status, word: SlurmWord) -> Status:
    """Judge a job that has no last word of its own and is in Slurm's queue no more."""
    if status.state == "queued":
        if job.stop_asked and not job.requeue_asked:
            return status.because(*BEFORE_START, state="stopped")
        if word.state == "CANCELLED":
            told = "Slurm: it was cancelled before it started"
            return status.because(ReasonCode.SLURM_CANCELLED, told, state="stopped")
    if word.state == "CANCELLED" and job.kill_asked:  # its supervisor hung, or its machine did
        return status.because(ReasonCode.STOPPED_UNSAVED, joined("ended on request", kept(job)), state="stopped")
    return status.because(ReasonCode.SLURM_GONE, joined(word.told, kept(job)), state="lost")


def before_start_again(job: Job) -> Reason:
    """Return the reason of a run that was stopped while it waited for another start."""
    return Reason(BEFORE_START.code, joined(f"{BEFORE_START.text} again", kept(job)))


def kept(job: Job) -> str:
    """Return what is left of a run that did not save at its end."""
    checkpoints = job.checkpoints()
    return f"its newest checkpoint is that of step {step_of(checkpoints[-1])}" if checkpoints else "nothing was saved"


def goes_on_from(job: Job) -> str:
    """Return where a run goes on that Slurm starts again."""
    checkpoints = job.checkpoints()
    return f"goes on from step {step_of(checkpoints[-1])}" if checkpoints else "begins again"


def joined(*parts: str) -> str:
    """Return what there is to say in one line."""
    return "; ".join(part for part in parts if part)


register("slurm", SlurmLauncher())
