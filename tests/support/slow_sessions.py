"""Sessions of the playground that take their time, so that a test can look at a text while it grows.

One that is forked from the template imports this module first; one that is an interpreter of its own finds a
``sitecustomize`` that does.
"""

import os
import time
from pathlib import Path

SECONDS = "CLP_TEST_SECONDS_PER_TOKEN"
FIRST = "CLP_TEST_FIRST"
CODE = """
import importlib.abc, sys

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "clp_core.playground.server":
            sys.meta_path.remove(self)
            import support.slow_sessions

sys.meta_path.insert(0, Slow())
"""


def slow_down(monkeypatch, folder, seconds):
    """Let every token of sessions that start from now on take so long at least."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CODE)
    paths = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv(SECONDS, str(seconds))
    monkeypatch.setenv(FIRST, __name__)


def take_time(seconds):
    from clp_core.playground import generation

    advance = generation.Generation.advance
    generation.Generation.advance = lambda self: (time.sleep(seconds), advance(self))[1]


if SECONDS in os.environ:
    take_time(float(os.environ[SECONDS]))
