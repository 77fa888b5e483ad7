"""Jobs: every long action is one directory and one supervised process."""

from clp_core.jobs.job import Job
from clp_core.jobs.launchers import start
from clp_core.jobs.store import JobStore

__all__ = ["Job", "JobStore", "start"]
