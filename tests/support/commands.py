"""``clp`` commands in this process: arguments in, exit code and output out, as a process would give them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import subprocess
import sys
from typing import NamedTuple

from clp_core.cli import main


class Done(NamedTuple):
    """What a command left; the names are those of ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


def clp(*arguments, cwd=None):
    """Run a command in this process; an error that escapes it is the test's."""
    stdout, stderr = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(stderr)
    handler.setLevel(logging.INFO)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), within(cwd):
            code = main([str(argument) for argument in arguments])
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return Done(code, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def within(folder):
    """Be in another folder meanwhile, if one is named."""
    before = os.getcwd()
    try:
        os.chdir(folder or before)
        yield
    finally:
        os.chdir(before)


def clp_process(*arguments, cwd=None, **environment):
    """Run a command as users do: in a process of its own."""
    command = [sys.executable, "-m", "clp_core", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env=os.environ | environment)


def result_of(*arguments, run=clp):
    """Run a command that must succeed; return the JSON object in the last line of its output."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    check_numbers(found)
    return found


def refused(*arguments, run=clp, code=2):
    """Run a command that must be refused; return the one line that says why."""
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.strip().splitlines() if line.startswith("clp: ")]
    assert done.stderr.strip().splitlines()[-1] == line
    return line


def check_numbers(value):
    """Hold that no number in JSON is infinite or no number."""
    if isinstance(value, dict):
        [check_numbers(item) for item in value.values()]
    elif isinstance(value, list):
        [check_numbers(item) for item in value]
    elif isinstance(value, float):
        assert math.isfinite(value)
