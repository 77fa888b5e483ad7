"""The time budget of a run: how many steps fit, and when it is spent."""

from __future__ import annotations

from clp_core.files.json_files import write_json
from clp_core.jobs.job import PLAN_FILE
from clp_core.jobs.reason_codes import Reason, ReasonCode
from clp_core.training.distributed import ControlGroup, is_first
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan
from clp_core.training.telemetry import RunTelemetry, Stopwatch, steps_that_fit

SHARE_TO_MEASURE, SHARE_TO_FILL = 0.02, 0.97
"""Of the time of a run: what is measured before its steps are settled, and what they are to fill."""
SETTLED = ("steps", "stages", "warmup_steps", "eval_every", "save_every", "loss_every", "bf16")
"""Fields of the plan that plan.json holds once the steps are settled."""


class TimeBudget:
    """Settles the number of steps of a run by time, and ends it when its time is over.

    All processes decide alike, by the clock of the first one.
    """

    def __init__(
        self, telemetry: RunTelemetry, options: TrainOptions, stopwatch: Stopwatch, group: ControlGroup
    ) -> None:
        """Watch the time of a run.

        Args:
            telemetry: the run; its plan names the minutes, 0 for a run by steps.
            options: of the run, from which the plan follows.
            stopwatch: seconds per step and per evaluation.
            group: the processes that train together.
        """
        self._telemetry, self._options, self._stopwatch, self._group = telemetry, options, stopwatch, group

    @property
    def reason(self) -> Reason:
        """Why a run ends whose time is over."""
        minutes = self._telemetry.plan.minutes
        text = f"its {minutes:g} minutes are over, saved; resume does the rest of its steps"
        return Reason(ReasonCode.TIME_BUDGET_SPENT, text)

    def is_spent(self) -> bool:
        """Whether the time of the first attempt is over; a resumed run does the rest of its steps."""
        run = self._telemetry
        if run.attempt > 1 or not run.plan.minutes:
            return False
        return self._group.any(run.seconds > 60 * run.plan.minutes)

    def settle(self, step: int, max_steps: int) -> TrainPlan | None:
        """Settle the steps once the first process has measured enough; call it after every step until it has.

        Args:
            step: steps done.
            max_steps: number of steps so far, which the settled one does not exceed.

        Returns:
            The plan in force from now on; ``None`` where the steps were settled before, or too little is measured.
        """
        run, watch, group = self._telemetry, self._stopwatch, self._group
        if run.is_fitted:
            return None
        budget = 60 * run.plan.minutes
        pure = watch.pure_step_seconds()
        enough = pure is not None and run.seconds > SHARE_TO_MEASURE * budget
        if not group.broadcast(float(enough)):
            return None
        step_seconds = group.broadcast(pure or 0.0)
        evaluation = group.broadcast(watch.last["evaluation"])
        left = SHARE_TO_FILL * (budget - group.broadcast(run.seconds))
        steps = steps_that_fit(left, step_seconds, evaluation, self._options.eval_every)
        plan = run.plan.with_steps(self._options, min(step + steps, max_steps))
        run.settle(plan)
        if is_first():
            content = {name: value for name, value in plan.to_json().items() if name in SETTLED}
            write_json(run.job.path / PLAN_FILE, content, durable=True)
            run.job.add_event("steps settled", steps=plan.steps, step_seconds=step_seconds)
        return plan
