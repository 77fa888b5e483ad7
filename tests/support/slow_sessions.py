"""Sessions of the playground that take their time, so that a test can look at a text while it grows."""

import os

CODE = """
import importlib.abc, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "clp_core.playground_session":
            sys.meta_path.remove(self)
            import clp_core.generation as generation
            put = generation.Answering.put
            generation.Answering.put = lambda self, tokens: (time.sleep({seconds}), put(self, tokens))[1]

sys.meta_path.insert(0, Slow())
"""


def slow_down(monkeypatch, folder, seconds):
    """Let every token of sessions that start from now on take so long at least."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CODE.replace("{seconds}", str(seconds)))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
