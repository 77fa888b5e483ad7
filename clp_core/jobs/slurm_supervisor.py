"""``python -m clp_core.jobs.slurm_supervisor DIR COMMAND...``: what scripts that are handed to Slurm start.

Such scripts lie in job directories and in Slurm's queue, where users edit them, so this name is part of their format.
"""

from clp_core.jobs.slurm.supervisor import main

if __name__ == "__main__":
    main()
