"""Slurm's own commands, each with a time-out: hand over a script, ask how jobs stand, cancel, requeue."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from clp_core.errors import InputError, JobError
from clp_core.progress import JOB_ENVIRONMENT

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0
"""A controller that is down is only noticed by its silence, and pages wait for the answer."""
SUBMIT_TIMEOUT_S = 60.0
KEPT_S = 5.0
SILENCE_KEPT_S = 30.0
"""How long nobody asks again where Slurm did not answer, or did not know the job."""
SQUEUE_FORMAT = "%i|%T|%S|%r|%Z"
OWN_SETTINGS = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Of the SLURM_ variables those that a user sets; all others are of the allocation that this process runs in."""
NO_SUCH_JOB = "Invalid job id"
SUBMITTED = re.compile(r"(\d+)(?:;(\S+))?")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
FORGOTTEN = "FORGOTTEN"
WAITS = {
    "Resources": "waits for resources",
    "Priority": "others are before it",
    "BeginTime": "waits for its time to begin",
    "Dependency": "waits for another job",
    "JobHeldUser": "is held by its user",
    "JobHeldAdmin": "is held by an administrator",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "PartitionNodeLimit": "asks for more machines than its partition has",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs",
    "ReqNodeNotAvail": "machines that it needs are not available",
    "NodeDown": "machines that it needs are down",
    "Licenses": "waits for a licence",
    "Reservation": "waits for its reservation",
}
ENDS = {
    "COMPLETED": "its script ended, but its supervisor left no word",
    "FAILED": "its supervisor ended without a word",
    "CANCELLED": "it was cancelled",
    "TIMEOUT": "it ran into its time limit",
    "DEADLINE": "it ran into its deadline",
    "NODE_FAIL": "one of its machines failed",
    "BOOT_FAIL": "one of its machines did not start",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "another job took its machines",
    "REVOKED": "another cluster took it",
    FORGOTTEN: "it is not in the queue any more, and how it ended is not known",
}


@dataclass(frozen=True)
class SlurmWord:
    """What Slurm says of a job.

    Attributes:
        state: Slurm's own name of it, such as ``PENDING``; ``FORGOTTEN`` where Slurm does not know the job.
        reason: Slurm's own word for why it waits or how it ended.
        begins: when Slurm expects to start it, as Slurm writes it; empty where it does not say.
        restarts: how often Slurm has started it again; ``None`` where that was not asked.
        folder: name of the folder it runs in, which tells a job from one of another cluster, or of another time, with
            the same number; empty where it was not said.
    """

    state: str
    reason: str = ""
    begins: str = ""
    restarts: int | None = None
    folder: str = ""

    def of(self, folder: str) -> SlurmWord:
        """Return this word if it is about the job in that folder, else that Slurm does not know that job."""
        return self if self.folder in (folder, "") else SlurmWord(FORGOTTEN)

    @property
    def waits(self) -> bool:
        """Whether it has not begun, or will begin again."""
        return self.state in WAITING

    @property
    def runs(self) -> bool:
        """Whether it has begun and has not ended."""
        return self.state in RUNNING

    @property
    def told(self) -> str:
        """The word in plain words, Slurm's own in brackets."""
        if self.waits:
            own = self.reason or self.state
            plain = next((words for key, words in WAITS.items() if own.startswith(key)), "waits")
            begins = f", to begin about {self.begins.replace('T', ' ')}" if self.begins else ""
            return f"Slurm: {plain} ({own}){begins}" if own != "None" else f"Slurm: waits{begins}"
        if self.runs:
            return f"Slurm: {self.state.lower()}"
        known = ENDS.get(self.state, "it ended")
        return f"Slurm: {known}" if self.state == FORGOTTEN else f"Slurm: {known} ({self.state})"


class NoAnswerError(JobError):
    """Slurm did not answer, or not in time."""


def is_available() -> bool:
    """Say whether jobs can be handed to Slurm from this machine."""
    return shutil.which("sbatch") is not None


def require() -> None:
    """Refuse where there is no Slurm.

    Raises:
        InputError: there is no ``sbatch`` on the PATH.
    """
    if not is_available():
        raise InputError(
            "there is no sbatch on the PATH; run this on a machine of the cluster, or use --launcher local"
        )


def environment() -> dict[str, str]:
    """Return the environment of Slurm's commands: what an allocation around this process has set is not the job's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in OWN_SETTINGS or not (name.startswith("SLURM_") or name == JOB_ENVIRONMENT)
    }
    return kept | {"SLURM_TIME_FORMAT": "standard"}


def call(arguments: Sequence[str], timeout: float = ASK_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands.

    Raises:
        NoAnswerError: it is not there, took too long, or could not reach the controller.
    """
    try:
        done = subprocess.run(
            list(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswerError(f"{arguments[0]} gave no answer: {error}") from error
    if done.returncode and "Unable to contact" in done.stderr:
        raise NoAnswerError(last_line(done.stderr))
    return done


def last_line(text: str) -> str:
    """Return the last line that says anything, without the command's name before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else ""


def submit(script: Path, job: Path) -> tuple[str, str]:
    """Hand a script over; return Slurm's id of the job, and its cluster where Slurm names one.

    Where it writes and what it is given stands on the command line, which goes before what a script says.

    Args:
        script: the file.
        job: the job's directory, which the script gets as its first argument.

    Raises:
        InputError: Slurm refuses it, or does not answer.
    """
    require()
    log_file = str(job / "output.log").replace("%", "%%")  # Slurm fills in what follows a %
    command = ["sbatch", "--parsable", f"--chdir={job}", f"--output={log_file}"]
    command += [f"--error={log_file}", "--open-mode=append", str(script), str(job)]
    try:
        done = call(command, SUBMIT_TIMEOUT_S)
    except NoAnswerError as error:
        raise InputError(f"Slurm does not answer ({error}); try again once sinfo does") from error
    found = SUBMITTED.fullmatch(done.stdout.strip())
    if "configuration source" in done.stderr:
        raise InputError("sbatch is here, but no cluster is configured (there is no slurm.conf); train on this machine")
    if done.returncode or not found:
        raise InputError(f"Slurm refuses the script: {last_line(done.stderr) or done.stdout.strip()}")
    return found[1], found[2] or ""


def cancel(job_id: str, cluster: str = "", *, pending_only: bool = False) -> None:
    """Cancel a job; with ``pending_only``, not if it has begun.

    Raises:
        NoAnswerError: Slurm did not take it.
    """
    done = call(["scancel", *cluster_flag(cluster), *(["--state=PENDING"] if pending_only else []), job_id])
    if done.returncode and NO_SUCH_JOB not in done.stderr:
        raise NoAnswerError(last_line(done.stderr))


def requeue(job_id: str) -> str:
    """Give a running job back to the queue, which ends it here; return what is wrong, or nothing."""
    try:
        done = call(["scontrol", "requeue", job_id], SUBMIT_TIMEOUT_S)
    except NoAnswerError as error:
        return str(error)
    return (last_line(done.stderr) or f"scontrol ended with {done.returncode}") if done.returncode else ""


def cluster_flag(cluster: str) -> list[str]:
    """Return what names another cluster than the one at hand."""
    return ["-M", cluster] if cluster else []


def show(job_id: str, cluster: str = "") -> SlurmWord:
    """Return what Slurm says of one job.

    Raises:
        NoAnswerError: Slurm does not answer.
    """
    done = call(["scontrol", *cluster_flag(cluster), "show", "job", "-o", job_id])
    if done.returncode and NO_SUCH_JOB in done.stderr:
        return SlurmWord(FORGOTTEN)
    fields = dict(re.findall(r"(?:^| )(JobState|Reason|Restarts)=(\S*)", done.stdout))
    if done.returncode or "JobState" not in fields:
        raise NoAnswerError(last_line(done.stderr) or "scontrol said nothing")
    restarts = fields.get("Restarts", "")
    folder = re.search(r" WorkDir=(.*?)(?: Std(?:Err|In|Out)=|$)", done.stdout)
    return SlurmWord(
        fields["JobState"],
        fields.get("Reason", ""),
        restarts=int(restarts) if restarts.isdigit() else 0,
        folder=PurePath(folder[1].strip()).name if folder else "",
    )


def parse_queue(output: str) -> dict[str, SlurmWord]:
    """Return the jobs of squeue's lines, in ``SQUEUE_FORMAT``, by id."""
    found = {}
    for line in output.splitlines():
        job_id, *rest = line.strip().split("|", 4)
        if job_id.isdigit() and len(rest) == 4:
            state, begins, reason, folder = rest
            found[job_id] = SlurmWord(state, reason, "" if begins == "N/A" else begins, folder=PurePath(folder).name)
    return found


@dataclass
class SlurmReply:
    """What Slurm answered, and when; ``None`` where it did not."""

    words: Mapping[str, SlurmWord] | None
    time: float

    @property
    def is_fresh(self) -> bool:
        """Whether it may still be given."""
        is_news = self.words is not None and SlurmWord(FORGOTTEN) not in self.words.values()
        return time.monotonic() - self.time < (KEPT_S if is_news else SILENCE_KEPT_S)


@dataclass
class SlurmWords:
    """What Slurm said last, for all that ask in this process: one squeue for all jobs, every few seconds."""

    _answers: dict[str, SlurmReply] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def word_of(self, job_id: str, cluster: str = "") -> SlurmWord | None:
        """Return what Slurm says of a job, or ``None`` while it does not answer."""
        with self._lock:
            words = self._ask(f"queue of {cluster}", lambda: self._queue(cluster))
            if words is None:
                return None
            if job_id in words:
                return words[job_id]
            # Jobs of other users, and those that ended: asked one by one.
            told = self._ask(f"{job_id} on {cluster}", lambda: {job_id: show(job_id, cluster)})
            return told[job_id] if told is not None else None

    def forget(self) -> None:
        """Ask anew next time."""
        with self._lock:
            self._answers.clear()

    def _ask(self, key: str, question: Callable[[], Mapping[str, SlurmWord]]) -> Mapping[str, SlurmWord] | None:
        answer = self._answers.get(key)
        if answer is None or not answer.is_fresh:
            try:
                words: Mapping[str, SlurmWord] | None = question()
            except NoAnswerError as error:
                log.warning("Slurm does not answer: %s", error)
                words = None
            self._answers[key] = answer = SlurmReply(words, time.monotonic())
        return answer.words

    @staticmethod
    def _queue(cluster: str) -> dict[str, SlurmWord]:
        done = call(
            ["squeue", *cluster_flag(cluster), "--me", "--noheader", "--states=all", f"--format={SQUEUE_FORMAT}"]
        )
        if done.returncode:
            raise NoAnswerError(last_line(done.stderr))
        return parse_queue(done.stdout)


REGISTRY = SlurmWords()
