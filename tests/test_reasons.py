"""Why a job ended, in one plain line, from the errors that the libraries really raise."""

import errno
import shutil
import subprocess
import sys

import pytest
import torch

from clp_core.errors import ClpError, InputError
from clp_core.jobs.reasons import oom_kills, reason_of, reason_of_exit

TORCHRUN = """Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
clp_core.training FAILED
Root Cause (first observed failure):
[0]:
  exitcode  : {code} (pid: 12)
============================================================
"""


def raised_by(act):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    return caught.value


def test_memory_that_cannot_be_had_is_out_of_memory():
    assert reason_of(raised_by(lambda: torch.empty(2**58))).startswith("out of memory: ")
    assert reason_of(raised_by(lambda: bytearray(2**60))).startswith("out of memory")
    assert reason_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")).startswith(
        "out of memory: "
    )


def test_disk_without_room_is_told_whoever_raises_it():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert reason_of(OSError(number, "no room")).startswith("disk full: ")
    for text in ("PytorchStreamWriter failed writing file data/0", "I/O error: No space left on device (os error 28)"):
        assert reason_of(RuntimeError(text)).startswith("disk full: ")
    assert reason_of(OSError(errno.EACCES, "Permission denied")) == "PermissionError: [Errno 13] Permission denied"


def test_error_without_a_cause_on_a_full_disk_is_that_of_the_disk(tmp_path, monkeypatch):
    error = RuntimeError("basic_ios::clear: iostream error")  # what torch's writer may say of it
    assert reason_of(error, tmp_path).startswith("RuntimeError")
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert reason_of(error, tmp_path).startswith("disk full: ")
    assert reason_of(ClpError("the loss is infinite"), tmp_path) == "the loss is infinite"


def test_bad_data_and_own_words_and_anything_else():
    assert reason_of(InputError("there is no text x")) == "data error: there is no text x"
    assert reason_of(ClpError("the loss is infinite at step 3")) == "the loss is infinite at step 3"
    assert reason_of(ValueError("two\nlines")) == "ValueError: two lines"
    assert reason_of(KeyError()) == "KeyError"
    assert len(reason_of(ValueError("x" * 10_000))) <= 500


@pytest.mark.parametrize(
    ("code", "output", "oom_killed", "reason"),
    [
        (-9, "", False, "killed by signal 9 (SIGKILL)"),
        (1, TORCHRUN.format(code=-9), False, "killed by signal 9 (SIGKILL)"),
        (1, TORCHRUN.format(code=-11), True, "killed by signal 11 (SIGSEGV)"),
        (2, "some words\nclp: there is no text x\n", False, "there is no text x"),
        (1, "a\n\nlast words\n", False, "last words"),
        (3, "", False, "exit code 3"),
        (-99, "", False, "killed by signal 99 (a signal without a name)"),
    ],
)
def test_process_without_a_word_of_its_own_is_told_by_how_it_ended(code, output, oom_killed, reason):
    assert reason_of_exit(code, output, oom_killed=oom_killed) == reason


def test_kill_for_want_of_memory_is_told_from_any_other():
    for code, output in ((-9, ""), (1, TORCHRUN.format(code=-9))):
        reason = reason_of_exit(code, output, oom_killed=True)
        assert reason.startswith("out of memory: the kernel killed the process for want of memory")


def test_kernels_count_of_such_kills_does_not_grow_with_other_deaths():
    before = oom_kills()
    subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    assert oom_kills() == before >= 0
