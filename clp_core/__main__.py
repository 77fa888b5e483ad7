"""``python -m clp_core``: the command line."""

from clp_core.cli import run

run()
