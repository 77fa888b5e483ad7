"""What a run may ask of a cluster: checked by naming the option, before anything is planned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clp_core.errors import InputError

if TYPE_CHECKING:
    from clp_core.train_options import TrainOptions

LAUNCHERS = ("local", "slurm")
TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?")
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


def check_cluster_options(options: TrainOptions, changed: list[str]) -> None:
    """Refuse what no cluster could make sense of, and what has no effect on this machine.

    Args:
        options: what was asked for.
        changed: names of the fields that differ from their defaults.

    Raises:
        InputError: a field is refused.
    """
    if options.launcher == "local":
        if given := [name for name in changed if name in CLUSTER_FIELDS]:
            raise InputError(f"{flag(given[0])} is for a cluster; give --launcher slurm with it")
        return
    if "device" in changed:
        raise InputError("--device is for this machine; with --launcher slurm give --gpus-per-node, or 0 of them")
    if options.gpus_per_node and options.processes_per_node != 1:
        raise InputError("--processes-per-node is for CPUs: each GPU has one process; give --gpus-per-node 0 with it")
    for name in ("partition", "account"):
        value = getattr(options, name)
        if value and not NAME.fullmatch(value):
            raise InputError(f"{flag(name)} {value!r} is no name that Slurm uses; `sinfo` and `sacctmgr` show them")
    check_directives(options.sbatch)
    check_times(options)


def check_directives(directives: tuple[str, ...]) -> None:
    """Refuse lines that are no directives of sbatch, or that the supervisor could not live with."""
    for line in directives:
        if not line.isprintable() or not DIRECTIVE.fullmatch(line.strip()):
            raise InputError(f"--sbatch {line!r} is no option of sbatch; write it as in --sbatch=--mem=64G")
        name = re.split(r"[= ]", line.strip())[0]
        if name in NOT_ALLOWED:
            raise InputError(f"--sbatch {name} is not possible: the run's supervisor decides that")


def check_times(options: TrainOptions) -> None:
    """Refuse a time limit that Slurm cannot read, or that leaves no time before the signal."""
    if not LEAST_SIGNAL_S <= options.signal_before_s <= MOST_SIGNAL_S:
        raise InputError(f"--signal-before-s must be {LEAST_SIGNAL_S} to {MOST_SIGNAL_S:,} seconds")
    seconds = seconds_of(options.time_limit)
    if seconds is not None and seconds < 2 * options.signal_before_s:
        raise InputError(
            f"--time-limit {options.time_limit} is less than twice --signal-before-s ({options.signal_before_s}), so "
            "half of each attempt would be lost; give more time, or an earlier signal"
        )


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
        raise InputError(f"--time-limit {limit!r} is none of Slurm's forms; write minutes, 12:00:00 or 2-00:00:00")
    parts = [int(found[name] or 0) for name in ("first", "second", "third")]
    if found["days"] is not None:
        days, (hours, minutes, seconds) = int(found["days"]), parts
    elif found["third"] is not None:
        days, (hours, minutes, seconds) = 0, parts
    else:
        days, hours, minutes, seconds = 0, 0, parts[0], parts[1]
    total = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    if not total:
        raise InputError("--time-limit is no time at all; leave it out for the partition's own limit")
    return total


def flag(name: str) -> str:
    """Return the option of a field."""
    return "--" + name.replace("_", "-")
