"""The memory that jobs keep between steps, by glibc's own account."""

import os
import platform
import subprocess
import sys

import pytest

from clp_core.jobs.allocator import ALLOCATOR, allocator_settings

MAPPED = """
import ctypes
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
class Account(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
library.mallinfo.restype = Account
before = library.mallinfo().hblks
library.malloc(ctypes.c_size_t(31 << 20))
print(library.mallinfo().hblks - before)
"""  # noqa: E501


@pytest.mark.parametrize(
    ("library", "version", "bound"),
    [("glibc", "2.36", 1 << 30), ("glibc", "2.35", 1 << 30), ("glibc", "2.34", 32 << 20), ("glibc", "2.4", 32 << 20),
     ("glibc", "2.17.1", 32 << 20), ("", "", 32 << 20), ("musl", "2.40", 32 << 20)],
)  # fmt: skip
def test_the_bound_is_one_that_the_c_library_takes(library, version, bound):
    assert allocator_settings(library, version)["MALLOC_MMAP_THRESHOLD_"] == str(bound)


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the bounds are glibc's")
@pytest.mark.parametrize("settings", [ALLOCATOR, allocator_settings("glibc", "2.34")], ids=["here", "older"])
def test_large_blocks_come_from_memory_that_is_kept(settings):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def mapped(environment):
        command = [sys.executable, "-S", "-c", MAPPED]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    assert (mapped(bare), mapped(bare | settings)) == (1, 0)
