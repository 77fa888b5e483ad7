"""``torchrun -m clp_core.training JOB_DIR``: continued pretraining on transformers' Trainer, as a job."""

from __future__ import annotations

from clp_core.jobs.process import die_with_launcher

if __name__ == "__main__":
    die_with_launcher()  # before torch is imported, which takes seconds in which the launcher may die

import logging
import math
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from transformers import Trainer, TrainingArguments, set_seed

from clp_core.corpus import content_key, packed_blocks
from clp_core.curves import metrics_of_run
from clp_core.errors import ClpError, InputError
from clp_core.evaluation import EvaluationText, check_tokenizer_fits, score
from clp_core.folders import content_of, fingerprint
from clp_core.jobs.checkpoints import RUN_STATE_FILE, is_complete, remove_incomplete, resumable_checkpoint
from clp_core.jobs.job import Job, read_state
from clp_core.jobs.reasons import reason_of
from clp_core.locate import locate, read_json
from clp_core.prepared import max_positions, prepare
from clp_core.progress import HEART, JOB_ENVIRONMENT, write_json
from clp_core.training_callback import (
    FIRST_STEPS_EXPECT_S,
    JobCallback,
    Measured,
    companions_of,
    is_distributed,
    remove_half_written,
)
from clp_core.training_plan import TrainPlan
from clp_core.vocabulary import Vocabulary
from clp_core.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


WRITER_WAIT_S = 60.0
INPUTS_FILE = "inputs.json"


class RunTrainer(Trainer):
    """transformers' Trainer with this project's evaluation: bits per byte, every token scored once."""

    text: EvaluationText
    plan: TrainPlan
    callback: JobCallback
    last_evaluation: dict[str, float]
    evaluated_at: int = -1

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:  # noqa: ARG002
        """Read the blocks in the order they were put in."""
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Compute products in bfloat16 where the plan says so, in training alone: scores are those of float32."""
        if not self.plan.bf16:
            return nullcontext()
        return torch.autocast(self.plan.device, dtype=torch.bfloat16)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on a part of a step, and remember its loss."""
        loss = super().training_step(*args, **kwargs)
        self.callback.add_loss(loss)
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint once: the Trainer asks again when it ends. It counts once it is sealed."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if is_complete(folder):
            return
        began = time.monotonic()
        if self.state.is_world_process_zero:
            remove_half_written(folder)
        if is_distributed():
            torch.distributed.barrier()  # before any process writes into it
        super()._save_checkpoint(*args, **kwargs)
        self.callback.seal(folder, self.state, time.monotonic() - began)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
        """Score the held-out text, as ``clp evaluate`` does, and write the line."""
        step = self.state.global_step
        if self.evaluated_at == step:  # the Trainer asks again when it ends
            return self.last_evaluation
        began = time.monotonic()
        result = score(self.model, self.text)
        figures = {
            "eval_loss": result.loss,
            "bits_per_byte": result.bits_per_byte,
            "unknown_share": result.counts.unknown_share,
        }
        if self.state.is_world_process_zero:
            self.callback.after_evaluation(self.model, step, figures, time.monotonic() - began)
            log.info("step %d: held-out loss %.4f, %.4f bits per byte", step, result.loss, result.bits_per_byte)
        self.last_evaluation, self.evaluated_at = figures, step
        return figures


def load_for_training(folder: Path) -> PreTrainedModel:
    """Load a model with float32 weights, as the optimiser needs them.

    Raises:
        ClpError: tied embeddings came untied.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, trust_remote_code=False)
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    if tied and not same:
        raise ClpError(f"the tied embeddings of {folder} came untied on loading")
    return model


def block_order(n_blocks: int, wanted: int, seed: int) -> np.ndarray:
    """Return which block is read when, ``[wanted]``: pass after pass over all blocks, each pass in an order of its own.

    So every step is a full one, and tokens seen are steps times tokens a step.
    """
    generator = np.random.default_rng(seed)
    passes = math.ceil(wanted / n_blocks)
    return np.concatenate([generator.permutation(n_blocks) for _ in range(passes)])[:wanted]


def blocks_at_once(plan: TrainPlan, processes: int) -> int:
    """Return how many blocks each process puts through the model at once, so that the step stays the planned one.

    Raises:
        InputError: other processes than planned were started, and the step cannot be shared by them.
    """
    micro = max(1, min(plan.micro_blocks, plan.step_blocks // processes))
    if plan.step_blocks % (micro * processes):  # a script for Slurm that was edited
        raise InputError(
            f"a step of {plan.step_blocks} blocks, planned for {plan.processes} processes, cannot be shared by "
            f"{processes}; start as many as were planned, or a multiple or half of it"
        )
    return micro


def arguments_of(plan: TrainPlan, options: dict[str, Any], output: Path, *, resumes: bool) -> TrainingArguments:
    """Return the Trainer's arguments for a plan."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = blocks_at_once(plan, processes)
    on_gpu = plan.device == "cuda"
    return TrainingArguments(
        output_dir=str(output),
        max_steps=plan.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, plan.step_blocks // (micro * processes)),
        learning_rate=plan.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup_steps,
        weight_decay=options["weight_decay"],
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        use_cpu=not on_gpu,
        ddp_backend=None if on_gpu else "gloo",
        logging_strategy="no",  # the callback says when a line is due
        logging_nan_inf_filter=False,  # it would replace a lost loss by the mean of those before
        eval_strategy="steps",
        eval_steps=plan.eval_every,
        eval_on_start=not resumes,
        save_strategy="steps",
        save_steps=plan.save_every,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        seed=options["seed"],
    )


def train(job: Job, space: Workspace) -> dict[str, Any]:
    """Run the training that a job's spec asks for, from its newest complete checkpoint on; return its result."""
    options, plan = job.spec["arguments"], TrainPlan.of_spec(job.spec["plan"])
    set_seed(options["seed"])
    output = job.path / "checkpoints"
    checkpoint = resumable_checkpoint(output)
    folder = checkpoint or locate(options["model"])
    HEART.beat("reading the texts", expect_next_s=FIRST_STEPS_EXPECT_S)
    vocabulary = Vocabulary.open(folder)
    texts = [Path(text) for text in options["text"]]
    dataset, counts = packed_blocks(texts, vocabulary, plan.block_length, space.cache)
    positions = max_positions(read_json(folder / "config.json"))
    text = EvaluationText.read([Path(options["eval_text"])], vocabulary, positions)
    HEART.beat("loading the model", expect_next_s=FIRST_STEPS_EXPECT_S)
    model = load_for_training(folder)
    check_tokenizer_fits(model, vocabulary)
    is_first = int(os.environ.get("RANK", "0")) == 0
    if is_first:
        refuse_changed_inputs(job, content_key(texts, vocabulary, plan.block_length), None if checkpoint else folder)
    measured = Measured(job, plan, counts, attempt=job.status().attempt)
    companions = job.path / "companions"
    if is_first:
        companions_of(folder, companions)
    callback = JobCallback(measured, companions, vocabulary, options["prompt"])
    arguments = arguments_of(plan, options, output, resumes=checkpoint is not None)
    ordered = dataset.select(block_order(len(dataset), plan.steps * plan.step_blocks, options["seed"]))
    trainer = RunTrainer(model=model, args=arguments, train_dataset=ordered, eval_dataset=dataset, callbacks=[callback])
    trainer.text, trainer.plan, trainer.callback = text, plan, callback
    if trainer.is_world_process_zero():
        remove_incomplete(output)
    if measured.attempt > 1:
        go_on(measured, callback, checkpoint, arguments)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not trainer.state.is_world_process_zero:
        return {}
    step = trainer.state.global_step
    trainer.evaluate()  # of a step that was scored before the attempt, which ended before it said so
    result = {
        "outcome": "stopped" if callback.stopped else "finished",
        "step": step,
        "tokens": step * plan.step_tokens,
        "unknown_share": text.counts.unknown_share,
        **trainer.last_evaluation,
    }
    write_json(job.path / "result.json", result)
    HEART.beat("preparing the checkpoint for the pages", expect_next_s=FIRST_STEPS_EXPECT_S)
    metrics_of_run(job)  # what it reads is kept for the pages
    prepare(output / f"checkpoint-{step}", space.cache)
    return result


def refuse_changed_inputs(job: Job, data: str, model: Path | None) -> None:
    """Refuse to train on, or score on, something else than the run was made for.

    Args:
        job: the run.
        data: name of the training text's content under its tokenizer; the first attempt writes it down.
        model: folder of the model to begin with; ``None`` where the run goes on from a checkpoint.

    Raises:
        InputError: a text or the model has changed since.
    """
    prints, options = job.spec["fingerprints"], job.spec["arguments"]
    inputs = read_state(job.path / INPUTS_FILE)
    changed = [
        name
        for name, before, now in (
            ("the training text or its tokenizer", inputs.get("data", data), data),
            ("the held-out text", prints["eval_text"], content_of(Path(options["eval_text"]))),
            ("the model", prints.get(str(model)), fingerprint(model) if str(model) in prints and model else None),
        )
        if before != now
    ]
    if changed:
        raise InputError(f"{' and '.join(changed)} changed since the run was made; clone the run instead")
    write_json(job.path / INPUTS_FILE, {"data": data}, durable=True)


def go_on(measured: Measured, callback: JobCallback, checkpoint: Path | None, arguments: TrainingArguments) -> None:
    """Take up what the Trainer does not keep of a checkpoint, and tell readers what was lost since.

    Without a checkpoint the run begins again, and all that was measured before is lost.
    """
    state: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if checkpoint is not None:
        state = read_json(checkpoint / RUN_STATE_FILE)
    measured.seconds_before = state["seconds"]
    if checkpoint is not None:
        callback.go_on_from(checkpoint, arguments.device)
    if arguments.process_index == 0:
        measured.write(state["step"], resumed_from=state["step"])
        log.info("goes on from the checkpoint of step %d" if checkpoint else "begins again at step %d", state["step"])


def main() -> None:
    """Train what the job directory on the command line asks for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    job = Job(Path(sys.argv[1]).resolve())
    os.environ.setdefault(JOB_ENVIRONMENT, str(job.path))
    writer = FileLock(job.path / "writer.lock")
    try:
        if os.environ.get("RANK", "0") == "0":
            # Processes of an attempt whose supervisor was killed may take a moment to die.
            writer.acquire(timeout=WRITER_WAIT_S)
        train(job, Workspace.current())
    except Exception as error:
        log.exception("training failed")
        # The first process to fail knows why; the others see only that it is gone.
        if not (job.path / "error.json").exists():
            job.write_last_word("error.json", {"reason": reason_of(error, job.path)})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
