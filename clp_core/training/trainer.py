"""transformers' Trainer with this project's schedule, evaluation and checkpoints."""

from __future__ import annotations

import gc
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch.distributed.tensor import DTensor
from transformers import Trainer

from clp_core.errors import ClpError
from clp_core.evaluation.bits_per_byte import EvaluationText, score
from clp_core.evaluation.losses import TextLoss
from clp_core.jobs.training_checkpoints import is_complete
from clp_core.training.callback import RunUnits
from clp_core.training.companion_files import remove_half_written
from clp_core.training.distillation import Distillation
from clp_core.training.distributed import is_distributed
from clp_core.training.memory_fit import FSDP
from clp_core.training.parameter_groups import Freezing, Groups
from clp_core.training.schedule import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSetup:
    """What a run's Trainer needs beside its model, blocks and arguments.

    Attributes:
        units: metrics, samples and checkpoints.
        text: the held-out text.
        objective: the loss.
        trained_rows: which embedding rows train where new rows train alone, bool ``[n_rows]``; ``None`` where no stage
            does so.
    """

    units: RunUnits
    text: EvaluationText
    objective: TextLoss
    trained_rows: np.ndarray | None = None


class RunTrainer(Trainer):
    """The Trainer of a run."""

    groups: Groups
    optimizer: Any
    lr_scheduler: Any
    is_fsdp_enabled: bool

    def __init__(self, setup: RunSetup, **settings: Any) -> None:
        """Make the Trainer.

        Args:
            setup: the run.
            settings: the Trainer's own: model, arguments, blocks, callbacks.
        """
        self.setup = setup
        self.units, self.telemetry, self.objective = setup.units, setup.units.telemetry, setup.objective
        self.freezing: Freezing | None = None
        self.last_evaluation: dict[str, float] = {}
        self.evaluated_at = -1
        super().__init__(compute_loss_func=setup.objective, **settings)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the model."""
        return self.telemetry.plan.sharding == FSDP

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; on CPUs, where accelerate knows no sharding, tell it to shard all the same."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            shard_on_cpus(self.accelerator, FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args))
            self.is_fsdp_enabled = True

    def release_wrapper(self) -> None:
        """Free what wraps the model for several processes, while their group still exists.

        Freed after it, as the last to hold the group, DDP's reducer waits for a thread of the group that needs the
        interpreter's lock, which the reducer holds: the process would never end.
        """
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the line of loss that is due, and hand its figures to the Trainer's integrations too."""
        figures: dict[str, float] = {}
        if "loss" in logs:
            figures = self.units.recorder.record_losses(self.state.global_step, self.state.max_steps, logs)
        super().log(logs | figures, start_time)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser with groups for body and embeddings; the schedule alone sets their rates."""
        if self.optimizer is None:
            whole = self.model if model is None else model
            decaying = set(self.get_decay_parameter_names(whole))
            self.groups = Groups(whole, decaying, self.args.weight_decay, self.telemetry.schedule)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, whole)
            self.optimizer = kind(self.groups.for_optimiser, **settings | {"lr": 1.0})
        return self.optimizer

    def create_scheduler(
        self,
        num_training_steps: int,  # noqa: ARG002
        optimizer: torch.optim.Optimizer | None = None,
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule of the rates of body and embeddings, and the hooks that keep what is frozen.

        The Trainer calls this once its optimiser has the parameters as they train, sharded or not.
        """
        if self.lr_scheduler is None:
            self.lr_scheduler = self.groups.scheduler(optimizer or self.optimizer, self.telemetry.rates)
        if self.freezing is None and self.telemetry.schedule.freezes:
            self.freezing = Freezing(self.optimizer, self.groups.kinds, self._stage, self.setup.trained_rows)
        return self.lr_scheduler

    def _stage(self) -> Stage:
        return self.telemetry.schedule.stage_at(self.state.global_step)[0]

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Compute products in bfloat16 where the plan says so, in training alone: scores are those of float32."""
        if not self.telemetry.plan.bf16:
            return nullcontext()
        return torch.autocast(self.telemetry.plan.device, dtype=torch.bfloat16)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on a part of a step, and remember its loss: that on the text alone, whoever is followed besides."""
        if self.freezing is None and self.telemetry.schedule.freezes:
            raise ClpError("the Trainer made no schedule, so nothing would stay frozen; install transformers as pinned")
        if isinstance(self.objective, Distillation):
            self.objective.weight = self.telemetry.teacher_weight(self.state.global_step)
        loss = super().training_step(*args, **kwargs)
        self.units.losses.add(loss * self.objective.text_share)
        return loss

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show the loss the inputs too: a teacher reads them."""
        self.objective.input_ids = inputs["input_ids"]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        """Count nothing: the plan knows the operations of a token."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
        """Score the held-out text, as ``clp evaluate`` does, and write the line."""
        step = self.state.global_step
        if self.evaluated_at == step:  # the Trainer asks again when it ends
            return self.last_evaluation
        began = time.monotonic()
        result = score(self.model, self.setup.text)
        figures = {
            "eval_loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
            "unknown_share": result.counts.unknown_share,
        }
        first = self.state.is_world_process_zero
        if first:
            self.units.recorder.record_evaluation(step, figures)
            log.info("step %d: held-out loss %.4f, %.4f bits per byte", step, result.loss, result.bits_per_byte)
            if self.args.report_to:
                self.log({f"eval_{name.removeprefix('eval_')}": value for name, value in figures.items()})
        if first or self.is_sharded:  # the parts of a sharded model come together only if every process asks
            self.units.samples.write(self.model, step, sharded=self.is_sharded)
        self.units.stopwatch.leave_out(time.monotonic() - began, "evaluation")
        self.last_evaluation, self.evaluated_at = figures, step
        return figures

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint once: the Trainer asks again when it ends. It counts once it is sealed."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if is_complete(folder):
            return
        began = time.monotonic()
        if self.state.is_world_process_zero:
            remove_half_written(folder)
            folder.mkdir(parents=True)
        if is_distributed():
            torch.distributed.barrier()  # before any process writes into it
        super()._save_checkpoint(*args, **kwargs)
        self.units.seal(folder, self.state.global_step, time.monotonic() - began)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the model; one matrix that a sharded model's state names twice is written once."""
        if state_dict is not None:
            state_dict = without_copies(self.model, state_dict)
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the optimiser's state; of a sharded model each process writes its part."""
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = self.optimizer.state_dict()
        state["state"] = {
            key: {name: local_part(value) for name, value in values.items()} for key, values in state["state"].items()
        }
        torch.save(state, part_of_optimiser(output_dir, self.args.process_index))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read the optimiser's state; of a sharded model each process reads its part."""
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        part = part_of_optimiser(checkpoint, self.args.process_index)
        if not part.is_file():
            raise ClpError(f"{checkpoint} was written by other processes than these: {part.name} is missing")
        state = torch.load(part, map_location="cpu", weights_only=True)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state["state"] = {
            key: {name: part_like(parameters[key], value) for name, value in values.items()}
            for key, values in state["state"].items()
        }
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Leave the weights as they are: the model was opened from the checkpoint."""


def without_copies(model: torch.nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a model's state without the further names of parameters that have several."""
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
    kept = set(first.values())
    copies = {name for name, _ in model.named_parameters(remove_duplicate=False)} - kept
    return {name: value for name, value in state.items() if name not in copies}


def shard_on_cpus(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Let accelerate shard a model over processes on CPUs, which it does for GPUs alone.

    ``fully_shard`` itself works there over gloo; only the choice by device stands in the way.
    """
    for state in (accelerator.state, PartialState()):  # all instances of either class share one state
        state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def part_of_optimiser(folder: str, process: int) -> Path:
    """Return the file of the optimiser's state that one process of several holds."""
    return Path(folder) / f"optimizer-{process}.pt"


def local_part(value: Any) -> Any:
    """Return what this process holds of a sharded tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def part_like(parameter: torch.Tensor, value: Any) -> Any:
    """Return a process's part as a tensor sharded like its parameter; single numbers stay as they are."""
    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    return DTensor.from_local(
        value.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
