"""The request to stop: the file control/stop of a job, seen by all processes at the same step."""

from __future__ import annotations

from clp_core.jobs.job import Job
from clp_core.training.distributed import ControlGroup


class StopRequest:
    """Whether a user or the supervisor has asked the run to save and stop."""

    def __init__(self, job: Job, group: ControlGroup) -> None:
        """Watch the control folder of a job, for all processes of a group."""
        self._job, self._group = job, group

    def is_raised(self) -> bool:
        """Whether any process has seen the request, so that all leave at the same step; every process must call this.

        Raises:
            ClpError: another process has ended.
        """
        return self._group.any(self._job.stop_asked)
