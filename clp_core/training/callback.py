"""The callback of a run: dispatches the Trainer's events to the units that record, save and stop."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainingArguments

from clp_core.jobs.reason_codes import NO_REASON
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.checkpointing import CheckpointSealer
from clp_core.training.distributed import ControlGroup, is_distributed, is_first
from clp_core.training.divergence import DivergenceGuard
from clp_core.training.heartbeat import StepHeartbeat
from clp_core.training.memory_fit import FSDP
from clp_core.training.options import TrainOptions
from clp_core.training.parameter_groups import refuse_unsharded, refuse_untied
from clp_core.training.plan import early_steps
from clp_core.training.recorder import RunRecorder
from clp_core.training.samples import SampleWriter
from clp_core.training.step_losses import StepLosses
from clp_core.training.stop_request import StopRequest
from clp_core.training.telemetry import RunTelemetry, Stopwatch
from clp_core.training.time_budget import TimeBudget

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunUnits:
    """The units of a run beside its training, one duty each.

    Attributes:
        telemetry: the plan in force, the seconds of training, metrics.jsonl.
        losses: of the steps since the last line.
        stopwatch: speed without evaluations and checkpoints.
        recorder: lines of metrics.
        heartbeat: signs of life.
        time_budget: number of steps of a run by time.
        stop_request: control/stop.
        samples: texts at every evaluation.
        sealer: checkpoints.
    """

    telemetry: RunTelemetry
    losses: StepLosses
    stopwatch: Stopwatch
    recorder: RunRecorder
    heartbeat: StepHeartbeat
    time_budget: TimeBudget
    stop_request: StopRequest
    samples: SampleWriter
    sealer: CheckpointSealer

    @classmethod
    def of_run(
        cls,
        telemetry: RunTelemetry,
        options: TrainOptions,
        companions: Path,
        vocabulary: Vocabulary,
        group: ControlGroup,
    ) -> RunUnits:
        """Make the units of a run.

        Args:
            telemetry: of the run.
            options: of the run.
            companions: folder whose files every checkpoint gets.
            vocabulary: the tokenizer.
            group: the processes that train together.
        """
        job = telemetry.job
        losses, stopwatch = StepLosses(), Stopwatch(telemetry.plan.step_tokens)
        guard = DivergenceGuard(job)
        return cls(
            telemetry,
            losses,
            stopwatch,
            RunRecorder(telemetry, losses, stopwatch, guard),
            StepHeartbeat(stopwatch),
            TimeBudget(telemetry, options, stopwatch, group),
            StopRequest(job, group),
            SampleWriter(telemetry, vocabulary, options.prompt, guard),
            CheckpointSealer(job, companions, options.keep_last, keep_best=not options.only_last),
        )

    def seal(self, folder: Path, step: int, seconds: float) -> None:
        """Seal a checkpoint once all processes have written their parts; every process must call this.

        Args:
            folder: ``checkpoint-<step>``.
            step: steps done.
            seconds: that the Trainer took to write it.
        """
        if is_distributed():
            torch.distributed.barrier()  # every process has written its random state
        began = time.monotonic()
        losses = self.losses.means() if len(self.losses) else []
        if not is_first():
            return
        self.sealer.seal(folder, step, self.telemetry.seconds, losses, self.recorder.scores.get(step, {}))
        self.stopwatch.leave_out(seconds + time.monotonic() - began, "save")


class JobCallback(TrainerCallback):
    """Dispatches the events of the Trainer; holds only whether and why the run was stopped before its last step."""

    def __init__(self, units: RunUnits, options: TrainOptions) -> None:
        """Dispatch to the units of a run, whose options say when it is evaluated early."""
        self._units, self._early_evals = units, options.early_evals
        self.stopped = False
        self.reason = NO_REASON

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        model: torch.nn.Module,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Check the model as it will train, sharded or not."""
        refuse_untied(model)
        if self._units.telemetry.plan.sharding == FSDP:
            refuse_unsharded(model)

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Note the learning rates of the step that is just done."""
        self._units.recorder.note_rates(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Give a sign of life, look for a reason to stop, and check the losses before anything is saved."""
        units, step = self._units, state.global_step
        units.losses.end_step()
        if step in early_steps(units.telemetry.plan.eval_every, self._early_evals):
            control.should_evaluate = True
        if is_first():
            evaluates, saves = bool(control.should_evaluate), bool(control.should_save)
            units.heartbeat.beat(step, state.max_steps, evaluates=evaluates, saves=saves)
        if plan := units.time_budget.settle(step, state.max_steps):
            state.max_steps, state.eval_steps, state.save_steps = plan.steps, plan.eval_every, plan.save_every
        is_spent = units.time_budget.is_spent()
        if is_spent:
            self.reason = units.time_budget.reason
        if is_spent or units.stop_request.is_raised():
            self.stopped = step < state.max_steps
            control.should_training_stop = True
            control.should_save = True
            control.should_evaluate = True
        # No checkpoint of weights that are lost: the Trainer reports the gradient's norm only to a log.
        control.should_log = units.recorder.is_due(step, state.max_steps) or control.should_save
        if control.should_log:
            units.recorder.check_losses(step)


class LogLines(TrainerCallback):
    """Logs what the Trainer reports; unlike a print, a log line that a full disk refuses ends no run."""

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Log one report."""
        if state.is_local_process_zero and logs:
            log.info("step %d: %s", state.global_step, logs)
