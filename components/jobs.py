"""Jobs as pages show them: the state as a badge, and progress that moves by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

from clp_core.files.json_files import number_in
from clp_core.jobs import Job, JobStore
from clp_core.workspace import Workspace
from components.messages import command, number, plain, size

T = TypeVar("T")
STATE_COLOURS = {
    "queued": "gray",
    "starting": "gray",
    "running": "blue",
    "stopping": "orange",
    "finished": "green",
    "stopped": "orange",
    "failed": "red",
    "lost": "red",
}
REFRESH_S = 1.0
ESTIMATE_AFTER_S = 3.0
LARGEST_SIZE = 1e18


def result_or_error(job: Job, read: Callable[[Mapping[str, Any]], T]) -> T | None:
    """Return the result of a finished job; where it cannot be read, say so and return ``None``.

    Args:
        job: the job.
        read: makes the result of the job's JSON, and raises ``ValueError`` where it cannot.
    """
    try:
        return read(job.result())
    except ValueError:
        file = job.path / "result.json"
        st.error(
            plain(f"The result of {job.name} cannot be read: {file} is missing or damaged. Run it again."),
            icon=":material/error:",
        )
        return None


def badge(job: Job, *, with_reason: bool = True) -> None:
    """Show the state of a job with its reason."""
    status = job.status()
    st.badge(status.state, color=STATE_COLOURS.get(status.state, "gray"))  # type: ignore[arg-type]
    if status.reason and with_reason:
        st.caption(plain(status.reason))


def progress(job: Job) -> None:
    """Show what a job is doing and how much of it is done."""
    heartbeat = job.heartbeat()
    fraction = min(max(number_in(heartbeat, "fraction", 0.0), 0.0), 1.0)
    told = [str(heartbeat.get("phase") or "starting")]
    if total := number_in(heartbeat, "bytes_total", 0.0, LARGEST_SIZE):
        told.append(f"{size(number_in(heartbeat, 'bytes_done', 0.0, LARGEST_SIZE))} of {size(total)}")
    elapsed = number_in(heartbeat, "phase_seconds", 0.0)
    if fraction > 0 and elapsed > ESTIMATE_AFTER_S:
        told.append(f"about {number(elapsed * (1 - fraction) / fraction, 0, 's')} left")
    st.progress(fraction, text=plain(" · ".join(told)))


@st.fragment(run_every=REFRESH_S)
def follow(job: Job) -> None:
    """Show a short job until it is over, then run the page again."""
    status = job.status()
    if status.is_over:
        st.rerun()
    st.markdown(f"**{plain(job.name)}**: {status.state}")
    progress(job)
    if st.button("Stop", icon=":material/stop:", key=f"stop_{job.id}"):
        job.ask_stop()


def last_job(kind: str, arguments: Sequence[str]) -> Job | None:
    """Return the newest job of a kind that was started with these arguments."""
    wanted = {"arguments": list(arguments)}
    jobs = JobStore(Workspace.current().jobs).jobs()
    return next((job for job in jobs if job.kind == kind and job.spec.get("arguments") == wanted), None)


def last_of(kind: str, argument: str, value: str) -> Job | None:
    """Return the newest job of a kind one of whose arguments has this value."""
    jobs = JobStore(Workspace.current().jobs).jobs()
    return next(
        (job for job in jobs if job.kind == kind and job.spec.get("arguments", {}).get(argument) == value), None
    )


def wait_or_offer(job: Job | None, label: str, told: str) -> bool:
    """Follow a job that is under way, else show its command and a button; return whether the button was pressed."""
    if job is not None and not job.status().is_over:
        follow(job)
        return False
    if job is not None and job.status().state == "failed":
        st.error(plain(f"The last try failed: {job.status().reason}"), icon=":material/error:")
    command(told)
    return st.button(label, icon=":material/play_arrow:")
