"""Another Hub for the libraries that are loaded already: they read its address and its cache while they are imported.

``use_hub`` sets the environment and lets the modules of settings work out their values anew, from their own source; a
job that is forked from the template does the same in its process (``HubSpawner``).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import runpy
import sys

from support.preloaded import PreloadedSpawner, settings

SETTINGS_MODULES = ("huggingface_hub.constants", "datasets.config")
"""Modules whose values come from the environment, in the order in which they are imported."""
READERS = (
    "huggingface_hub.utils",
    "huggingface_hub.hf_file_system",
    "huggingface_hub.hf_api",
    "transformers.utils.hub",
)
"""Modules that take values from those when they are imported."""
USERS = ("huggingface_hub", "datasets", "clp_core")
"""Packages whose modules may have taken such values by name."""
VALUES = (str, bool, int, float, os.PathLike, frozenset, type(None))
HANDED_ON = "CLP_TEST_HUB"
AT_START = settings(os.environ)
"""What the template has read."""


def adopt(put) -> None:
    """Let the libraries take their settings from the present environment.

    Args:
        put: sets an attribute, as ``setattr`` does.
    """
    for name in SETTINGS_MODULES:
        before = vars(importlib.import_module(name)).copy()
        fresh = importlib.util.module_from_spec(before["__spec__"])
        before["__spec__"].loader.exec_module(fresh)
        for key, value in vars(fresh).items():
            if isinstance(value, VALUES) and not key.startswith("__") and value != before[key]:
                for module in users():
                    if vars(module).get(key) == before[key]:
                        put(module, key, value)
    from huggingface_hub import HfFileSystem, close_session, constants, hf_api

    put(hf_api.api, "endpoint", constants.ENDPOINT)
    close_session()
    HfFileSystem.clear_instance_cache()


def users():
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in USERS and module]


def use_hub(monkeypatch, **environment: str) -> None:
    """Set environment variables of the Hub's client, here and for what is started, and let it read them anew."""
    for name in (*SETTINGS_MODULES, *READERS):  # with the settings of the tests, which are put back at the end
        importlib.import_module(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "CLP_SPAWNER" in os.environ:
        monkeypatch.setenv("CLP_SPAWNER", "support.hub")
    adopt(monkeypatch.setattr)


class HubSpawner(PreloadedSpawner):
    """Forks jobs from the template though their Hub is another one than the template's."""

    def detached(self, argv, log, environment):
        asked = settings(environment)
        others = {name for name in AT_START.keys() | asked if AT_START.get(name) != asked.get(name)}
        if argv[0] != "-m" or not all(name.startswith(("HF_", "HUGGING")) for name in others):
            return super().detached(argv, log, environment)
        plain = {name: value for name, value in environment.items() if name not in asked}
        handed_on = plain | AT_START | {HANDED_ON: json.dumps(asked)}
        return super().detached(["-m", "support.hub", *argv[1:]], log, handed_on)


def spawner():
    return HubSpawner()


def run_job() -> None:
    """Be a job's process, forked from the template, with the Hub that was meant."""
    meant = json.loads(os.environ.pop(HANDED_ON))
    for name in AT_START.keys() - meant:
        os.environ.pop(name, None)
    os.environ.update(meant)
    adopt(setattr)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_job()
