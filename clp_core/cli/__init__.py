"""The command line: ``clp ...`` and ``python -m clp_core ...``, one module for each group of commands."""

from clp_core.cli.app import main, run

__all__ = ["main", "run"]
