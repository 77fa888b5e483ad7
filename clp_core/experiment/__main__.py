"""``python -m clp_core.experiment FILE`` is ``clp experiment FILE``."""

import sys

from clp_core.cli import run

if __name__ == "__main__":
    sys.argv.insert(1, "experiment")
    run()
