"""Memory that this process can still take: what the machine has free, within the limits of its control groups.

Containers and Slurm give a process less than the machine has, and end it where it takes more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS, MOUNTS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a control group, in its second and its first version."""


def free_memory() -> int:
    """Return the bytes that this process can still take."""
    return min([psutil.virtual_memory().available, *free_in_groups()])


def free_in_groups(groups: Path = GROUPS, mounts: Path = MOUNTS) -> Iterator[int]:
    """Yield what each limited control group of this process has left, in bytes; cached files count as free.

    Args:
        groups: the groups of the process, as ``/proc/self/cgroup`` lists them.
        mounts: where the control groups are mounted.
    """
    for folder in folders(groups, mounts):
        for limit_file, use_file in FILES:
            limit, use = number_in(folder / limit_file), number_in(folder / use_file)
            if limit is not None and use is not None:
                yield max(0, limit - use + reclaimable(folder))


def folders(groups: Path, mounts: Path) -> Iterator[Path]:
    """Yield the folders of the memory groups of a process, from its own to the root of the mount."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not a Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mounts / "memory" if controllers else mounts
        place = root / path.lstrip("/")
        yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(root))


def number_in(file: Path) -> int | None:
    """Return the number in a file; ``None`` where there is none, as in ``max``."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def reclaimable(folder: Path) -> int:
    """Return the bytes of a control group that are cached files and not in use."""
    try:
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def peak_rss_bytes() -> int | None:
    """Return the peak resident memory of this process (VmHWM), or ``None`` where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return None
