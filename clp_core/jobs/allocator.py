"""How the C library keeps the memory of freed tensors, by variables of the environment of jobs."""

from __future__ import annotations

import platform
import re


def allocator_settings(library: str, version: str) -> dict[str, str]:
    """Choose the bounds up to which glibc keeps the memory of freed tensors.

    By itself it gives every large tensor back to the kernel and takes its pages anew in the next step, which costs a
    training step on a CPU up to half its time. Before 2.35 it ignores a bound above 32 MiB, and, as the other is set,
    would stay at 128 KiB.

    Args:
        library: the C library, as ``platform.libc_ver`` names it.
        version: its version, such as ``2.36``.
    """
    numbers = tuple(int(number) for number in re.findall("[0-9]+", version)[:2])
    is_bounded = library != "glibc" or numbers < (2, 35)
    return {"MALLOC_MMAP_THRESHOLD_": str(32 << 20 if is_bounded else 1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


ALLOCATOR = allocator_settings(*platform.libc_ver())
"""Variables of the environment of jobs."""
