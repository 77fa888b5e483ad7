"""Jobs: every long action is one directory and one supervised process, here or through Slurm."""

from clp_core.jobs import local_launcher
from clp_core.jobs.job import Job
from clp_core.jobs.launcher import start
from clp_core.jobs.slurm import launcher as slurm_launcher
from clp_core.jobs.store import JobStore

__all__ = ["Job", "JobStore", "local_launcher", "slurm_launcher", "start"]
