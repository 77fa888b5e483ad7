"""What a run does beside training: metrics, heartbeat, obeying a stop, samples, checkpoints that can be trusted."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback, TrainingArguments

from clp_core.blocks import Blocks
from clp_core.errors import ClpError
from clp_core.evaluation import generate
from clp_core.jobs.checkpoints import RUN_STATE_FILE, keep_only, remove, seal, step_of
from clp_core.jobs.job import PLAN_FILE, Job, read_state
from clp_core.jobs.metrics import MetricsWriter
from clp_core.locate import read_json
from clp_core.progress import HEART, write_json
from clp_core.provenance import PROVENANCE_FILE
from clp_core.schedule import Schedule
from clp_core.target_files import TOKENIZER_COMPANIONS
from clp_core.train_options import TrainOptions
from clp_core.training_plan import EVALUATIONS, TrainPlan
from clp_core.training_stages import refuse_untied
from clp_core.vocabulary import TOKENIZER_FILES, Vocabulary
from clp_core.workspace import REPORT_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState

FIRST_STEPS_EXPECT_S = 600.0
MIN_EXPECT_S = 15.0
STEPS_TO_MEASURE = 4
SHARE_TO_MEASURE, SHARE_TO_FILL = 0.02, 0.97
"""Of the time of a run: what is measured before its steps are settled, and what they are to fill."""
SAMPLES_FILE = "samples.jsonl"
PROCESS = psutil.Process()


class DivergedError(ClpError):
    """The loss or its gradient is not a finite number any more."""


class Measured:
    """What the metrics lines of a run are computed from: the run, its plan, its text, and the time it took."""

    def __init__(self, job: Job, plan: TrainPlan, blocks: Blocks, attempt: int = 1) -> None:
        """Take the run, its settings, its training text, and how often the run was started, from 1."""
        self.job, self.blocks, self.attempt = job, blocks, attempt
        self.seconds_before = 0.0
        """Seconds of training until the checkpoint that this attempt goes on from."""
        self.is_fitted = not plan.minutes or (job.path / PLAN_FILE).is_file()
        """Whether the number of steps is settled: that of a run by time is, once some steps were measured."""
        self._began = time.monotonic()
        self._writer: MetricsWriter | None = None
        self._take(plan)

    def _take(self, plan: TrainPlan) -> None:
        self.plan = plan
        self.schedule: Schedule = plan.schedule

    def settle(self, plan: TrainPlan) -> None:
        """Take the plan whose steps fit into the time of the run."""
        self._take(plan)
        self.is_fitted = True

    def rates(self, step: int) -> tuple[float, float]:
        """Return the rates of body and embeddings at a step, counted from 0."""
        return self.schedule.rates(step)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, evaluations and checkpoints included, what was lost with a crash not."""
        return self.seconds_before + time.monotonic() - self._began

    def utilisation(self, tokens_per_s: float) -> float | None:
        """Return the share of the devices' peak that a speed takes (MFU); ``None`` where the peak is not known."""
        if not self.plan.peak_flops:
            return None
        return tokens_per_s * self.plan.flops_per_token / (self.plan.peak_flops * self.plan.processes)

    def write(self, step: int, **figures: Any) -> None:
        """Append a line to metrics.jsonl; what is not finite becomes null."""
        if self._writer is None:
            self._writer = MetricsWriter(self.job.metrics_file)
        tokens = step * self.plan.step_tokens
        line: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "bytes": round(tokens * self.blocks.counts.bytes_per_token),
            "seconds": round(self.seconds, 3),
            "time": time.time(),
            "attempt": self.attempt,
        }
        self._writer.write(line | {key: value if math.isfinite(value) else None for key, value in figures.items()})


class JobCallback(TrainerCallback):
    """Writes metrics and heartbeat, obeys control/stop, and seals checkpoints. Only the first process writes."""

    def __init__(self, measured: Measured, options: TrainOptions, companions: Path, vocabulary: Vocabulary) -> None:
        """Take the run, what it was asked, the folder whose files every checkpoint gets, and the tokenizer."""
        self._measured = measured
        self._companions = companions
        self._vocabulary = vocabulary
        self._options = options
        self._prompts = options.prompt or ("",)
        self._rates = (math.nan, math.nan)
        self._control_group = control_group()
        self._micro_losses: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []
        self._stopwatch = Stopwatch(measured.plan.step_tokens)
        self._took_longer = False
        self.stopped = False
        self.reason = ""
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

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Note the rates of the step that is just done."""
        self._rates = self._measured.rates(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Beat, look for a stop request, and look at the losses before anything is saved."""
        self._losses.append(torch.stack(self._micro_losses).sum())
        self._micro_losses = []
        self._beat(state, control)
        if not self._measured.is_fitted:
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
        return step == 1 or step % self._measured.plan.loss_every == 0 or step == state.max_steps

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
        kept = self._measured.job.checkpoints()
        newest = f"the newest checkpoint is that of step {step_of(kept[-1])}" if kept else "nothing is kept"
        return f"{newest}; a smaller learning rate or a longer warm-up may help"

    def _all_agree_to_stop(self) -> bool:
        """Say whether any process has seen a request to stop, so that all leave at the same step."""
        run = self._measured
        is_late = run.attempt == 1 and run.plan.minutes > 0 and run.seconds > 60 * run.plan.minutes
        if is_late and not self.reason:
            self.reason = f"its {run.plan.minutes:g} minutes are over, saved; resume does the rest of its steps"
        return bool(self._most(float(run.job.stop_asked or is_late)))

    def _most(self, value: float) -> float:
        """Return the largest value that any process has; over the CPU, so that no GPU waits."""
        if self._control_group is None:
            return value
        tensor = torch.tensor(value)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self._control_group)
        return float(tensor)

    def _fit_to_time(self, state: TrainerState) -> None:
        """Settle the steps of a run by time, once enough of them were measured; all processes take the slowest's."""
        run, watch = self._measured, self._stopwatch
        budget = 60 * run.plan.minutes
        pure = watch.pure_step_seconds()
        enough = pure is not None and run.seconds > SHARE_TO_MEASURE * budget
        if not self._most(float(enough)):
            return
        step_seconds = self._most(pure or 0.0)
        seconds = self._most(run.seconds)
        left = SHARE_TO_FILL * (budget - seconds) - EVALUATIONS * self._most(watch.longest["evaluation"])
        steps = state.global_step + max(1, int(left / max(step_seconds, 1e-6)))
        plan = run.plan.with_steps(self._options, min(steps, state.max_steps))
        run.settle(plan)
        state.max_steps, state.eval_steps, state.save_steps = plan.steps, plan.eval_every, plan.save_every
        if state.is_world_process_zero:
            settled = {"steps", "stages", "warmup_steps", "eval_every", "save_every", "loss_every"}
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

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Refuse a gradient that is lost; write the line of loss that is due: the mean of the steps since the last."""
        if not logs or "loss" not in logs:
            return
        norm = float(logs.get("grad_norm", math.nan))
        if "grad_norm" in logs and not math.isfinite(norm):
            raise DivergedError(f"the gradient is {told(norm)} at step {state.global_step}; {self._cure()}")
        if not self._line_is_due(state):
            return
        losses = self._mean_losses()
        self._losses = []
        if state.is_world_process_zero:
            figures = {"loss": sum(losses) / len(losses), "grad_norm": norm}
            figures |= dict(zip(("lr", "lr_embeddings"), self._rates, strict=True))
            figures |= self._stopwatch.lap(state.global_step) | system_figures()
            share = self._measured.utilisation(figures["tokens_per_s"]) if "tokens_per_s" in figures else None
            figures |= {"mfu": share} if share is not None else {}
            self._measured.write(state.global_step, **figures)

    def after_evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write the line of an evaluation."""
        self.scores[step] = scores
        self._measured.write(step, **scores)

    def write_samples(self, model: PreTrainedModel, step: int, *, sharded: bool) -> None:
        """Let the model go on from each prompt, and write what it says; every process asks a sharded model."""
        run = self._measured
        texts = [generate(model, self._vocabulary, prompt, synced=sharded) for prompt in self._prompts]
        if int(os.environ.get("RANK", "0")):
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
        run = self._measured
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


class Stopwatch:
    """How fast training is, evaluations and checkpoints left out."""

    def __init__(self, step_tokens: int) -> None:
        """Begin before the first step."""
        self._step_tokens = step_tokens
        self._began: float | None = None
        self._step = 0
        self.step_seconds = 0.0
        self.longest = {"evaluation": 0.0, "save": 0.0}
        self._seen: list[float] = []
        self._left_out = 0.0

    def leave_out(self, seconds: float, what: str) -> None:
        """Take what was no training, an ``evaluation`` or a ``save``, out of the lap."""
        self.longest[what] = max(self.longest[what], seconds)
        self._left_out += seconds
        if self._began is not None:
            self._began += seconds

    def pure_step_seconds(self) -> float | None:
        """Note that a step is done; return the mean seconds of all but the first, ``None`` before there are three."""
        self._seen.append(time.monotonic() - self._left_out)
        if len(self._seen) < STEPS_TO_MEASURE:
            return None
        return (self._seen[-1] - self._seen[0]) / (len(self._seen) - 1)

    def lap(self, step: int) -> dict[str, float]:
        """Return the tokens/s since the last lap; nothing at the first, whose steps include what happens only once."""
        now, figures = time.monotonic(), {}
        if self._began is not None and step > self._step:
            seconds = max(now - self._began, 1e-9)
            self.step_seconds = seconds / (step - self._step)
            figures["tokens_per_s"] = self._step_tokens / self.step_seconds
        self._began, self._step = now, step
        return figures


def control_group() -> torch.distributed.ProcessGroup | None:
    """Return a group of all processes over the CPU for their requests to each other; ``None`` for one process."""
    return torch.distributed.new_group(backend="gloo") if is_distributed() else None


def is_distributed() -> bool:
    """Say whether there is more than one process."""
    return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def told(value: float) -> str:
    """Return a number that is not finite in words."""
    return "not a number (NaN)" if math.isnan(value) else "infinite"


def system_figures() -> dict[str, float]:
    """Return the memory of this process in bytes, on a GPU its peak, and the share of the device that is busy with it.

    On a GPU the driver tells of all that runs there.
    """
    if torch.cuda.is_available():
        figures = {"memory": float(torch.cuda.max_memory_allocated())}
        try:
            figures["busy"] = torch.cuda.utilization() / 100
        except (RuntimeError, ModuleNotFoundError):  # some drivers do not tell
            return figures
        return figures
    busy = PROCESS.cpu_percent() / 100 / (psutil.cpu_count() or 1)
    return {"memory": float(PROCESS.memory_info().rss), "busy": busy}


def companions_of(model: Path, kept: Path) -> Path:
    """Keep what every checkpoint of a run gets beside its weights, tokenizer and provenance, in a folder of the run.

    The model may be gone when the run goes on.
    """
    if not kept.is_dir():
        part = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in (*TOKENIZER_FILES, *TOKENIZER_COMPANIONS, "chat_template.jinja", REPORT_FILE, PROVENANCE_FILE):
            if (model / name).is_file():
                shutil.copyfile(model / name, part / name)
        os.rename(part, kept)
    return kept


def complete_folder(folder: Path, companions: Path, steps: int) -> None:
    """Copy tokenizer and provenance into a checkpoint.

    The provenance is that of the rows before the training; the report says how many steps came since.
    """
    for path in companions.iterdir():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    report = read_json(companions / REPORT_FILE)
    if report:
        write_json(folder / REPORT_FILE, report | {"trained_steps": report.get("trained_steps", 0) + steps})


def remove_half_written(folder: Path) -> None:
    """Remove a checkpoint of the same step that an earlier attempt left without its seal."""
    if folder.is_dir():
        remove(folder)
