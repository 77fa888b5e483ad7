"""Curves by their keys: runs, imported and published curves, arms of experiments."""

from __future__ import annotations

from clp_core.errors import InputError
from clp_core.experiments.records import saved_curve
from clp_core.jobs.run_metrics import metrics_of_run
from clp_core.jobs.store import JobStore
from clp_core.run_comparison.curve import (
    Curve,
    IncompleteRunError,
    curve_of_run,
    imported_curves,
    incomplete,
    published_curves,
)
from clp_core.workspace import Workspace


def curve_named(workspace: Workspace, key: str) -> Curve:
    """Return a curve by its key: ``import:NAME``, ``published:clp|scratch``, ``experiment:NAME/ARM``, or a run.

    A run is named as ``JobStore.find`` takes it.

    Raises:
        IncompleteRunError: its plan lacks what a comparison needs.
        InputError: there is none, or the job is no training run.
    """
    if key.startswith("experiment:"):
        return saved_curve(key)
    if key.startswith(("import:", "published:")):
        found = {curve.key: curve for curve in [*imported_curves(workspace), *published_curves()]}
        if key not in found:
            raise InputError(f"there is no curve {key}; there are {', '.join(found)}")
        return found[key]
    job = JobStore(workspace.jobs).find(key, lambda job: job.kind == "train")
    if job.kind != "train" or not job.spec.get("plan"):
        raise InputError(f"{job.id} is no training run; only runs are compared")
    if why := incomplete(job):
        raise IncompleteRunError(why)
    return curve_of_run(job, metrics_of_run(job))
