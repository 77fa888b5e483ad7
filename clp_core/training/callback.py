"""What a run does beside training: metrics, heartbeat, obeying a stop, samples, checkpoints that can be trusted."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainingArguments

from clp_core.checkpoints.finite import NonFiniteError
from clp_core.errors import DivergedError, InputError
from clp_core.evaluation.bits_per_byte import generate
from clp_core.files.json_files import read_state, write_json
from clp_core.jobs.job import PLAN_FILE
from clp_core.jobs.reason_codes import NO_REASON, Reason, ReasonCode
from clp_core.jobs.training_checkpoints import RUN_STATE_FILE, keep_only, seal, step_of
from clp_core.progress import HEART
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.companion_files import complete_folder
from clp_core.training.distributed import ControlGroup, is_distributed, is_first
from clp_core.training.options import TrainOptions
from clp_core.training.parameter_groups import refuse_unsharded, refuse_untied
from clp_core.training.placement import FSDP
from clp_core.training.plan import early_steps
from clp_core.training.telemetry import RunTelemetry, Stopwatch, steps_that_fit, system_figures

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState

log = logging.getLogger(__name__)

FIRST_STEPS_EXPECT_S = 600.0
MIN_EXPECT_S = 15.0
SHARE_TO_MEASURE, SHARE_TO_FILL = 0.02, 0.97
"""Of the time of a run: what is measured before its steps are settled, and what they are to fill."""
SAMPLES_FILE = "samples.jsonl"


class JobCallback(TrainerCallback):
    """Writes metrics and heartbeat, obeys control/stop, and seals checkpoints. Only the first process writes."""

    def __init__(
        self,
        telemetry: RunTelemetry,
        options: TrainOptions,
        companions: Path,
        vocabulary: Vocabulary,
        group: ControlGroup,
    ) -> None:
        """Take the run, what it was asked, the folder whose files every checkpoint gets, tokenizer and processes."""
        self._telemetry = telemetry
        self._companions = companions
        self._vocabulary = vocabulary
        self._options = options
        self._prompts = options.prompt or ("",)
        self._rates = (math.nan, math.nan)
        self._group = group
        self._micro_losses: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []
        self._stopwatch = Stopwatch(telemetry.plan.step_tokens)
        self._took_longer = False
        self.stopped = False
        self.reason = NO_REASON
        self.scores: dict[int, dict[str, float]] = {}

    def go_on_from(self, checkpoint: Path, device: torch.device) -> None:
        """Take up the losses that the checkpoint's step left without a line."""
        state = read_state(checkpoint / RUN_STATE_FILE)
        self._losses = [torch.tensor(value, device=device) for value in state["losses"]]

    def add_loss(self, loss: torch.Tensor) -> None:
        """Take the loss of a part of a step; it stays on its device until a line is due."""
        self._micro_losses.append(loss.detach())

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        model: torch.nn.Module,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Look once more at the model as it will train, sharded or not."""
        refuse_untied(model)
        if self._telemetry.plan.sharding == FSDP:
            refuse_unsharded(model)

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Note the rates of the step that is just done."""
        self._rates = self._telemetry.rates(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Beat, look for a stop request, and look at the losses before anything is saved."""
        self._losses.append(torch.stack(self._micro_losses).sum())
        self._micro_losses = []
        if state.global_step in early_steps(self._telemetry.plan.eval_every, self._options.early_evals):
            control.should_evaluate = True
        self._beat(state, control)
        if not self._telemetry.is_fitted:
            self._fit_to_time(state)
        if self._all_agree_to_stop():
            self.stopped = state.global_step < state.max_steps
            control.should_training_stop = True
            control.should_save = True
            control.should_evaluate = True
        # No checkpoint of weights that are lost: the Trainer hands over the gradient's norm only to a log.
        control.should_log = self._line_is_due(state) or control.should_save
        if control.should_log:
            self._refuse_divergence(state.global_step)

    def _line_is_due(self, state: TrainerState) -> bool:
        step = state.global_step
        return step == 1 or step % self._telemetry.plan.loss_every == 0 or step == state.max_steps

    def _mean_losses(self) -> list[float]:
        """Return the losses of the steps since the last line, each the mean over all processes."""
        losses = torch.stack(self._losses).float()
        if is_distributed():
            torch.distributed.all_reduce(losses)
            losses /= torch.distributed.get_world_size()
        return [float(value) for value in losses.cpu()]

    def _refuse_divergence(self, step: int) -> None:
        losses = self._mean_losses()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                at = step - len(losses) + 1 + i
                raise DivergedError(f"the loss is {told(loss)} at step {at}; {self._cure()}")

    def _cure(self) -> str:
        kept = self._telemetry.job.checkpoints()
        newest = f"the newest checkpoint is that of step {step_of(kept[-1])}" if kept else "nothing is kept"
        return f"{newest}; a smaller learning rate or a longer warm-up may help"

    def _all_agree_to_stop(self) -> bool:
        """Say whether any process has seen a request to stop, so that all leave at the same step."""
        run = self._telemetry
        if run.attempt == 1 and run.plan.minutes and self._group.any(run.seconds > 60 * run.plan.minutes):
            told = f"its {run.plan.minutes:g} minutes are over, saved; resume does the rest of its steps"
            self.reason = Reason(ReasonCode.TIME_BUDGET_SPENT, told)
            return True
        return self._group.any(run.job.stop_asked)

    def _fit_to_time(self, state: TrainerState) -> None:
        """Settle the steps of a run by time, once the first process has measured enough of them."""
        run, watch = self._telemetry, self._stopwatch
        budget = 60 * run.plan.minutes
        pure = watch.pure_step_seconds()
        enough = pure is not None and run.seconds > SHARE_TO_MEASURE * budget
        if not self._group.broadcast(float(enough)):
            return
        step_seconds = self._group.broadcast(pure or 0.0)
        evaluation = self._group.broadcast(watch.last["evaluation"])
        left = SHARE_TO_FILL * (budget - self._group.broadcast(run.seconds))
        steps = steps_that_fit(left, step_seconds, evaluation, self._options.eval_every)
        plan = run.plan.with_steps(self._options, min(state.global_step + steps, state.max_steps))
        run.settle(plan)
        state.max_steps, state.eval_steps, state.save_steps = plan.steps, plan.eval_every, plan.save_every
        if state.is_world_process_zero:
            settled = {"steps", "stages", "warmup_steps", "eval_every", "save_every", "loss_every", "bf16"}
            content = {name: value for name, value in plan.as_json().items() if name in settled}
            write_json(run.job.path / PLAN_FILE, content, durable=True)
            run.job.add_event("steps settled", steps=plan.steps, step_seconds=step_seconds)

    def _beat(self, state: TrainerState, control: TrainerControl) -> None:
        if not state.is_world_process_zero:
            return
        watch, longer = self._stopwatch, []
        if control.should_evaluate:
            longer.append(watch.longest["evaluation"])
        if control.should_save:
            longer.append(watch.longest["save"])
        # What was not measured yet may take long.
        is_known = watch.step_seconds and all(longer)
        HEART.beat(
            "training",
            state.global_step / max(state.max_steps, 1),
            step=state.global_step,
            expect_next_s=max(MIN_EXPECT_S, 10 * (watch.step_seconds + sum(longer)))
            if is_known
            else FIRST_STEPS_EXPECT_S,
            force=bool(longer) or self._took_longer,
        )
        self._took_longer = bool(longer)

    def line(self, logs: dict[str, Any], state: TrainerState) -> dict[str, float]:
        """Refuse a gradient that is lost; write the line of loss that is due, the mean of the steps since the last.

        Returns:
            What the line holds; nothing where none is due.
        """
        norm = float(logs.get("grad_norm", math.nan))
        if "grad_norm" in logs and not math.isfinite(norm):
            raise DivergedError(f"the gradient is {told(norm)} at step {state.global_step}; {self._cure()}")
        if not self._line_is_due(state):
            return {}
        losses = self._mean_losses()
        self._losses = []
        figures = {"loss": sum(losses) / len(losses), "grad_norm": norm}
        figures |= dict(zip(("lr", "lr_embeddings"), self._rates, strict=True))
        if self._telemetry.plan.teacher:
            figures["teacher_weight"] = self._telemetry.teacher_weight(state.global_step - 1)
        figures |= self._stopwatch.lap(state.global_step) | system_figures(self._telemetry.plan.device)
        share = self._telemetry.utilisation(figures["tokens_per_s"]) if "tokens_per_s" in figures else None
        figures |= {"mfu": share} if share is not None else {}
        if state.is_world_process_zero:
            self._telemetry.write(state.global_step, **figures)
        return figures

    def after_evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write the line of an evaluation."""
        self.scores[step] = scores
        self._telemetry.write(step, **scores)

    def write_samples(self, model: PreTrainedModel, step: int, *, sharded: bool) -> None:
        """Let the model go on from each prompt, and write what it says; every process asks a sharded model."""
        run = self._telemetry
        try:
            texts = [generate(model, self._vocabulary, prompt, synced=sharded) for prompt in self._prompts]
        except NonFiniteError as error:
            raise DivergedError(f"the scores of the model are not finite at step {step}; {self._cure()}") from error
        except InputError as error:  # a class that cannot generate fails in all processes alike
            log.warning("the run has no samples: %s", error)
            self._prompts = ()
            return
        if not is_first():
            return
        told = {"step": step, "tokens": step * run.plan.step_tokens, "attempt": run.attempt}
        with open(run.job.path / SAMPLES_FILE, "a", encoding="utf-8") as file:
            for prompt, text in zip(self._prompts, texts, strict=True):
                file.write(json.dumps(told | {"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")

    def leave_out_evaluation(self, seconds: float) -> None:
        """Keep the time of an evaluation out of the training speed."""
        self._stopwatch.leave_out(seconds, "evaluation")

    def seal(self, folder: Path, state: TrainerState, seconds: float) -> None:
        """Complete a checkpoint with its tokenizer and what a resume needs, seal it, and let older ones go."""
        if is_distributed():
            torch.distributed.barrier()  # every process has written its random state
        began = time.monotonic()
        losses = self._mean_losses() if self._losses else []
        if not state.is_world_process_zero:
            return
        run = self._telemetry
        complete_folder(folder, self._companions, state.global_step)
        state_beside = {"step": state.global_step, "seconds": run.seconds, "losses": losses}
        write_json(folder / RUN_STATE_FILE, state_beside)
        scores = self.scores.get(state.global_step, {})
        seal(folder, {key: value for key, value in scores.items() if math.isfinite(value)})
        run.job.add_event("checkpoint", step=state.global_step, path=str(folder))
        options = run.job.spec["arguments"]
        for gone in keep_only(folder.parent, options["keep_last"], best=not options["only_last"]):
            run.job.add_event("checkpoint removed", path=str(gone))
        self._stopwatch.leave_out(seconds + time.monotonic() - began, "save")


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


def told(value: float) -> str:
    """Return a number that is not finite in words."""
    return "not a number (NaN)" if math.isnan(value) else "infinite"
