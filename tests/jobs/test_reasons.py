"""Why a job ended, as a code and one plain line, from the errors that the libraries really raise."""

import errno
import json
import shutil
import subprocess
import sys

import pytest
import torch
from support.made_runs import lines_of, make_run

from clp_core.errors import ClpError, DivergedError, InputError
from clp_core.jobs.failure_reason import MAX_REASON, oom_kills, reason_of, reason_of_exit
from clp_core.jobs.reason_codes import NO_REASON, Reason, ReasonCode, known_code, reason_in

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


NO_MEMORY = "CUDA out of memory. Tried to allocate 20 GiB"
TORN = "PytorchStreamWriter failed writing file data/0"
FULL = "I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("there is no text x"), ReasonCode.DATA_ERROR),
        (DivergedError("the loss is nan at step 3"), ReasonCode.DIVERGED),
        (ClpError("a word of its own"), ReasonCode.ERROR),
        (raised_by(lambda: torch.empty(2**58)), ReasonCode.OUT_OF_MEMORY),
        (raised_by(lambda: bytearray(2**60)), ReasonCode.OUT_OF_MEMORY),
        (torch.OutOfMemoryError(NO_MEMORY), ReasonCode.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "no room"), ReasonCode.DISK_FULL),
        (OSError(errno.EDQUOT, "no room"), ReasonCode.DISK_FULL),
        (OSError(errno.EFBIG, "no room"), ReasonCode.DISK_FULL),
        (RuntimeError(TORN), ReasonCode.DISK_FULL),
        (RuntimeError(FULL), ReasonCode.DISK_FULL),
        (OSError(errno.EACCES, "Permission denied"), ReasonCode.ERROR),
        (ValueError("two\nlines"), ReasonCode.ERROR),
        (KeyError(), ReasonCode.ERROR),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}"[:50] if isinstance(value, Exception) else value.value,
)
def test_error_has_the_code_of_its_kind_and_is_quoted_in_one_line(error, code):
    reason = reason_of(error)
    assert reason.code is code
    assert " ".join(str(error).split()) in reason.text
    assert reason.text.splitlines() == [reason.text]


def test_error_of_another_kind_is_named_by_its_class():
    assert reason_of(OSError(errno.EACCES, "Permission denied")).text == "PermissionError: [Errno 13] Permission denied"
    assert reason_of(ValueError("two\nlines")).text == "ValueError: two lines"
    assert reason_of(KeyError()).text == "KeyError"
    assert reason_of(ClpError("a word of its own")).text == "a word of its own"
    assert len(reason_of(ValueError("x" * 10_000)).text) == MAX_REASON == 500


def test_error_without_a_cause_on_a_full_disk_is_that_of_the_disk(tmp_path, monkeypatch):
    error = RuntimeError("basic_ios::clear: iostream error")  # what torch's writer may say of it
    assert reason_of(error, tmp_path).code is ReasonCode.ERROR
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert reason_of(error, tmp_path).code is ReasonCode.DISK_FULL
    assert reason_of(ClpError("a word of its own"), tmp_path) == (ReasonCode.ERROR, "a word of its own")


@pytest.mark.parametrize(
    ("code", "output", "oom_killed", "reason", "told"),
    [
        (-9, "", False, ReasonCode.KILLED_BY_SIGNAL, "signal 9 (SIGKILL)"),
        (1, TORCHRUN.format(code=-9), False, ReasonCode.KILLED_BY_SIGNAL, "signal 9 (SIGKILL)"),
        (1, TORCHRUN.format(code=-11), True, ReasonCode.KILLED_BY_SIGNAL, "signal 11 (SIGSEGV)"),
        (-99, "", False, ReasonCode.KILLED_BY_SIGNAL, "signal 99 (a signal without a name)"),
        (-9, "", True, ReasonCode.OUT_OF_MEMORY, "signal 9 (SIGKILL)"),
        (1, TORCHRUN.format(code=-9), True, ReasonCode.OUT_OF_MEMORY, "signal 9 (SIGKILL)"),
        (2, "some words\nclp: there is no text x\n", False, ReasonCode.ERROR, "there is no text x"),
        (1, "a\n\nlast words\n", False, ReasonCode.ERROR, "last words"),
        (3, "", False, ReasonCode.ERROR, "exit code 3"),
    ],
)
def test_process_without_a_word_of_its_own_is_told_by_how_it_ended(code, output, oom_killed, reason, told):
    found = reason_of_exit(code, output, oom_killed=oom_killed)
    assert found.code is reason
    assert found.text.endswith(told)


def test_a_code_is_kept_beside_the_words_and_told_by_every_reader(workspace):
    job = make_run(workspace, "a run", lines_of(3))
    for code in ReasonCode:
        job.write_status("failed", Reason(code, f"because of {code.name}") if code else NO_REASON, 1)
        status = job.status()
        assert (status.reason_code, status.reason) == (code, f"because of {code.name}" if code else "")
        assert json.loads((job.path / "status.json").read_text())["reason_code"] == code.value
        assert job.summary()["reason_code"] == code.value


def test_codes_of_other_versions_are_passed_over():
    assert known_code("from-the-future") is known_code(None) is ReasonCode.NONE
    assert reason_in({"reason": "as before", "reason_code": "from-the-future"}) == (ReasonCode.NONE, "as before")
    assert reason_in({"reason": "as before"}) == (ReasonCode.NONE, "as before")
    assert reason_in({"reason": "no room", "reason_code": "disk-full"}) == (ReasonCode.DISK_FULL, "no room")
    assert reason_in({"reason_code": "disk-full"}) is None


@pytest.mark.process
def test_kernels_count_of_such_kills_does_not_grow_with_other_deaths():
    before = oom_kills()
    subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    assert oom_kills() == before >= 0
