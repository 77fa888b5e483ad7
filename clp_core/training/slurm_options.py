"""Validation of the Slurm options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clp_core.errors import InputError

if TYPE_CHECKING:
    from clp_core.training.options import TrainOptions

LAUNCHERS = ("local", "slurm")
TIME_LIMIT = re.compile(
    r"(?:(?P<days>[0-9]{1,6})-)?(?P<first>[0-9]{1,9})(?::(?P<second>[0-9]{1,2}))?(?::(?P<third>[0-9]{1,2}))?"
)
UNLIMITED = ("UNLIMITED", "INFINITE")
NAME = re.compile(r"[\w.@+-]+(,[\w.@+-]+)*")
DIRECTIVE = re.compile(r"--?[A-Za-z][\w-]*([= ].*)?")
NOT_ALLOWED = ("--array", "-a", "--no-requeue", "--wrap", "--output", "--error", "--chdir", "--open-mode", "--signal")
"""Directives that would break what the supervisor relies on."""
LEAST_SIGNAL_S, MOST_SIGNAL_S = 10, 65_535
CLUSTER_FIELDS = (
    *("nodes", "gpus_per_node", "cpus_per_process", "memory_gb"),
    *("time_limit", "partition", "account", "sbatch", "script", "signal_before_s"),
)


def cluster_problems(options: TrainOptions, changed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield which options of a cluster are not valid, and which have no effect where the run is started.

    Args:
        options: the options of a run.
        changed: names of the fields that differ from their defaults.
    """
    if options.launcher == "local":
        for name in changed:
            if name in CLUSTER_FIELDS:
                yield name, "only for a cluster; give --launcher slurm with it"
        return
    if "device" in changed:
        yield "device", "only for this machine; with --launcher slurm give --gpus-per-node, or 0 of them"
    if options.gpus_per_node and options.processes_per_node != 1:
        yield "processes_per_node", "only for CPUs: each GPU has one process; give --gpus-per-node 0 with it"
    for line in options.sbatch:
        if problem := directive_problem(line):
            yield "sbatch", problem
    if problem := time_problem(options.time_limit, options.signal_before_s):
        yield "time_limit", problem


def directive_problem(line: str) -> str:
    """Explain why a line is not an option of sbatch, or one that the supervisor relies on; empty where it is fine."""
    if not line.isprintable() or not DIRECTIVE.fullmatch(line.strip()):
        return f"{line!r} is not an option of sbatch; write it as in --sbatch=--mem=64G"
    name = re.split(r"[= ]", line.strip())[0]
    return f"{name} is not possible: the run's supervisor sets it; leave it out" if name in NOT_ALLOWED else ""


def time_problem(limit: str, signal_before_s: int) -> str:
    """Explain why a time limit is not valid, or leaves no time before the signal; empty where it is fine."""
    try:
        seconds = seconds_of(limit)
    except InputError as error:
        return str(error)
    if seconds is not None and seconds < 2 * signal_before_s:
        return (
            f"{limit} is less than twice --signal-before-s ({signal_before_s}), so half of each attempt would be lost; "
            "give more time, or an earlier signal"
        )
    return ""


def seconds_of(limit: str) -> int | None:
    """Return the seconds of a time limit as Slurm writes it; ``None`` where it is empty or without end.

    Slurm's forms are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.

    Raises:
        InputError: it is none of them.
    """
    if not limit or limit.upper() in UNLIMITED:
        return None
    found = TIME_LIMIT.fullmatch(limit)
    if not found:
        raise InputError(f"{limit!r} is none of Slurm's forms; write minutes, 12:00:00 or 2-00:00:00")
    parts = [int(found[name] or 0) for name in ("first", "second", "third")]
    if found["days"] is not None:
        days, (hours, minutes, seconds) = int(found["days"]), parts
    elif found["third"] is not None:
        days, (hours, minutes, seconds) = 0, parts
    else:
        days, hours, minutes, seconds = 0, 0, parts[0], parts[1]
    total = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise InputError(f"{limit!r} is no time at all; leave it out for the partition's own limit")
    return total
