"""The queue for devices: one run at a time on each, first come first served, on this machine, for this user.

A job draws a numbered ticket when it is made. It starts once no job with an earlier ticket waits for one of its devices
and all of them are free. A device is held by a lock on a file, which the kernel releases when its holder dies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from clp_core.files.json_files import read_json_file, write_json
from clp_core.jobs.job import job_is_over
from clp_core.jobs.process_identity import boot_id

ENVIRONMENT = "CLP_QUEUE"
TICKET = re.compile(r"(\d{10})\.json")
LOCK_WAIT_S = 30.0


@dataclass(frozen=True)
class Ticket:
    """A job's place in the queue.

    Attributes:
        number: lower is earlier.
        job: the job's directory.
        devices: what it wants, such as ``("cpu",)`` or ``("cuda:0", "cuda:1")``.
        holds: whether it has them.
    """

    number: int
    job: Path
    devices: tuple[str, ...]
    holds: bool = False


@dataclass
class Held:
    """The devices a job holds until ``release``, or until its process dies."""

    locks: list[FileLock] = field(default_factory=list)

    def release(self) -> None:
        """Give the devices back."""
        for lock in self.locks:
            lock.release()


class DeviceQueue:
    """The tickets and locks of one machine."""

    def __init__(self, root: Path, is_over: Callable[[Path], bool]) -> None:
        """Take the folder of the queue, and what says of a job's directory whether the job is over."""
        self._root = root
        self._is_over = is_over

    @classmethod
    def of_this_machine(cls) -> DeviceQueue:
        """Return the queue of this machine and user; ``CLP_QUEUE`` names another folder."""
        default = Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")) / "clp-workbench" / f"queue-{boot_id()}"
        return cls(Path(os.environ.get(ENVIRONMENT, default)).expanduser(), job_is_over)

    def enter(self, job: Path, devices: Sequence[str]) -> Ticket:
        """Draw the next ticket for a job; one that it had before is void."""
        job = job.resolve()
        with self._locked():
            earlier = list(self._tickets())
            for ticket in earlier:
                if ticket.job == job:
                    self._file(ticket.number).unlink(missing_ok=True)
            number = 1 + max([self._last_number(), *(ticket.number for ticket in earlier)])
            (self._root / "last").write_text(str(number))
            ticket = Ticket(number, job, tuple(devices))
            self._write(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give a ticket back; one that the job has drawn since stays."""
        with self._locked():
            self._file(ticket.number).unlink(missing_ok=True)

    def tickets(self) -> list[Ticket]:
        """Return the tickets of all jobs that are not over, in order."""
        return [ticket for ticket in self._tickets() if not self._is_over(ticket.job)]

    def ticket_of(self, job: Path) -> Ticket | None:
        """Return a job's ticket, or ``None``."""
        return next((ticket for ticket in self._tickets() if ticket.job == job.resolve()), None)

    def before(self, ticket: Ticket) -> list[Ticket]:
        """Return the jobs that a ticket waits for, in order: those on its devices, and those that came before."""
        wanted = set(ticket.devices)
        others = [other for other in self.tickets() if other.job != ticket.job and wanted & set(other.devices)]
        return [other for other in others if other.holds or other.number < ticket.number]

    def ahead(self, devices: Iterable[str]) -> list[Ticket]:
        """Return the jobs that one with these devices would wait for if it came now."""
        wanted = set(devices)
        return [ticket for ticket in self.tickets() if wanted & set(ticket.devices)]

    def try_to_hold(self, ticket: Ticket) -> Held | None:
        """Take all devices of a ticket if it is its turn, else none."""
        with self._locked():
            for other in self._tickets():
                if self._is_over(other.job):
                    self._file(other.number).unlink(missing_ok=True)
            if any(not other.holds for other in self.before(ticket)):
                return None
            held = Held()
            for device in sorted(ticket.devices):
                lock = FileLock(self._root / f"{device.replace(':', '-')}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    held.release()
                    return None
                held.locks.append(lock)
            self._write(Ticket(ticket.number, ticket.job, ticket.devices, holds=True))
        return held

    def borrow(self, device: str) -> Held | None:
        """Take a device for a short while if no job has it or waits for it; jobs that come then wait as for another."""
        with self._locked():
            lock = FileLock(self._root / f"{device.replace(':', '-')}.lock")
            try:
                if self.ahead([device]):
                    return None
                lock.acquire(timeout=0)
            except Timeout:
                return None
        return Held([lock])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self._root / "tickets.lock", timeout=LOCK_WAIT_S):
            yield

    def _tickets(self) -> Iterator[Ticket]:
        for path in sorted(self._root.glob("*.json")):
            if not (match := TICKET.fullmatch(path.name)):
                continue
            try:
                told = read_json_file(path)
                ticket = Ticket(int(match[1]), Path(told["job"]), tuple(told["devices"]), bool(told["holds"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            yield ticket

    def _last_number(self) -> int:
        file = self._root / "last"
        text = file.read_text() if file.is_file() else ""
        return int(text) if text.isdigit() else 0

    def _file(self, number: int) -> Path:
        return self._root / f"{number:010d}.json"

    def _write(self, ticket: Ticket) -> None:
        content = {"job": str(ticket.job), "devices": list(ticket.devices), "holds": ticket.holds}
        write_json(self._file(ticket.number), content)
