"""All jobs of a workspace: made, found and removed here."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from clp_core.environment.versions import code_version, versions
from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.files.slug import is_slug, slug_of
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.jobs.arguments import named_values, refuse_undecodable
from clp_core.jobs.job import Job, checked_name

SCHEMA_VERSION = 3
JOB_ID = re.compile(r"[0-9]{8}-[0-9]{6}-(.+)-[0-9a-f]{4}")
LATEST = "latest"
"""Stands for the newest job that a command can use."""
MOST_LISTED = 8


@dataclass(frozen=True)
class JobStore:
    """All jobs of a workspace."""

    root: Path

    def jobs(self) -> list[Job]:
        """Return all jobs, newest first."""
        found = [
            Job(path)
            for path in self.root.glob("*")
            if is_job_id(path.name) and not path.is_symlink() and (path / "spec.json").is_file()
        ]
        return sorted(found, key=lambda job: (job.created, job.id), reverse=True)

    def get(self, job_id: str) -> Job:
        """Return a job by the name of its directory.

        Raises:
            InputError: that is no job's name, or there is no such job.
        """
        if "\0" in job_id:
            raise InputError("a job's name cannot hold a NUL byte")
        name = Path(job_id).name if Path(job_id).parent.resolve() == self.root.resolve() else job_id
        if not is_job_id(name):
            raise InputError(f"{job_id!r} is no job's name; `clp jobs list` shows them")
        job = Job(self.root / name)
        if job.path.is_symlink() or not (job.path / "spec.json").is_file():
            raise InputError(f"there is no job {name}; `clp jobs list` shows them")
        return job

    def find(self, text: str, accepts: Callable[[Job], bool] = lambda _: True) -> Job:
        """Return the job that a user means.

        Args:
            text: the name of its directory; its own name, or the beginning of that where it is the only one; or
                ``latest`` for the newest that is accepted.
            accepts: whether a job can be used. One that cannot is returned only where no other is meant, so that the
                caller says what is wrong with it.

        Raises:
            InputError: no job is meant, or more than one; these are listed.
        """
        if "\0" in text or is_job_id(Path(text).name):
            return self.get(text)
        jobs = self.jobs()
        accepted = [job for job in jobs if accepts(job)]
        if text == LATEST:
            if not accepted:
                raise InputError("no job can be used here; `clp jobs list` shows them")
            return accepted[0]
        wanted = composed(text)
        for among in (accepted, jobs) if text else ():
            names = {job.id: composed(job.name) for job in among}
            named = [job for job in among if names[job.id] == wanted]
            named = named or [job for job in among if names[job.id].startswith(wanted)]
            if len(named) > 1:
                shown = ", ".join(f"{job.id} ({job.name}, {made_at(job)})" for job in named[:MOST_LISTED])
                more = f" and {len(named) - MOST_LISTED} more" if len(named) > MOST_LISTED else ""
                raise InputError(f"{text!r} names several jobs; give the directory of one of them: {shown}{more}")
            if named:
                return named[0]
        raise InputError(f"there is no job {text!r}; `clp jobs list` shows them")

    def create(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        argv: Sequence[str],
        command: str,
        *,
        name: str = "",
        plan: Mapping[str, Any] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        devices: Sequence[str] = (),
        launcher: str = "local",
    ) -> tuple[Job, bool]:
        """Make the directory of a job, unless one with the same kind and arguments is under way.

        Args:
            kind: what it does, such as ``train``.
            arguments: the options of the job.
            argv: what the supervisor runs; ``{job}`` stands for the directory.
            command: the command that a user would type.
            name: what the user calls it.
            plan: what was chosen where the options left it open.
            fingerprints: of the inputs.
            devices: what it needs for itself, such as ``cpu`` or ``cuda:0``; it waits until these are free.
            launcher: who starts its supervisor, one of ``LAUNCHERS``.

        Returns:
            The job, and whether it is new. A double click or a second tab gets the job that is under way already.

        Raises:
            InputError: the name is not a valid one, or an argument holds an access token or is not valid UTF-8.
        """
        frozen = json.loads(json.dumps(dict(arguments)))
        refuse_undecodable(named_values({**arguments, "name": name, "command": command, "argv": list(argv)}))
        refuse_access_tokens([json.dumps(frozen), command, name, *argv])
        name = checked_name(name) if name else ""
        with self.lock():
            for job in self.jobs():
                same = job.kind == kind and job.spec.get("arguments") == frozen
                if same and not job.status().is_over:
                    return job, False
            now = datetime.now(timezone.utc)
            slug = slug_of(name or kind)
            path = self.root / f"{now:%Y%m%d-%H%M%S}-{slug}-{secrets.token_hex(2)}"
            path.mkdir()
            spec = {
                "schema": SCHEMA_VERSION,
                "kind": kind,
                "name": name,
                "created": now.timestamp(),
                "arguments": frozen,
                "argv": list(argv),
                "plan": dict(plan or {}),
                "versions": versions(),
                "code": code_version(),
                "fingerprints": dict(fingerprints or {}),
                "devices": list(devices),
                "launcher": launcher,
            }
            (path / "command.txt").write_text(command + "\n", encoding="utf-8")
            job = Job(path)
            job.set_room_aside()
            job.write_status("queued")
            write_json(path / "spec.json", spec, durable=True)
        return Job(path), True

    def lock(self) -> FileLock:
        """Return the lock under which jobs are made and started again."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".create.lock")

    def remove(self, job: Job) -> None:
        """Delete a job that is over.

        It is put aside under another name first: what is half deleted is no job any more.

        Raises:
            InputError: it is still under way, or it is no directory of this store.
        """
        job = self.get(job.id)
        with self.lock():
            for left in self.root.glob(".removed-*"):  # of a removal that was interrupted
                shutil.rmtree(left, ignore_errors=True)
            if not job.status().is_over:
                raise InputError(f"{job.id} is {job.status().state}; stop it first")
            aside = self.root / f".removed-{job.id}"
            os.rename(job.path, aside)
        shutil.rmtree(aside)


def is_job_id(name: str) -> bool:
    """Say whether a name is that of a job's directory: when it was made, a slug, and what sets it apart."""
    match = JOB_ID.fullmatch(name)
    return match is not None and is_slug(match[1])


def composed(name: str) -> str:
    """Compose the letters of a name (NFC): terminals and file systems give the same name in either form."""
    return unicodedata.normalize("NFC", name)


def made_at(job: Job) -> str:
    """Return when a job was made, in local time."""
    return datetime.fromtimestamp(job.created).astimezone().strftime("%Y-%m-%d %H:%M")
