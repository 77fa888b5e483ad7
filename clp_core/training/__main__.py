"""``python -m clp_core.training JOB_DIR``: the process of a run. Jobs and scripts on disk name it so."""

from clp_core.training.main import main

main()
