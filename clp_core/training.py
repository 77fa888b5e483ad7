"""``torchrun -m clp_core.training JOB_DIR``: continued pretraining on transformers' Trainer, as a job."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from clp_core.corpus import TextCounts, packed_blocks
from clp_core.errors import ClpError
from clp_core.evaluation import EvaluationText, check_tokenizer_fits, score
from clp_core.jobs.process import die_with_parent
from clp_core.jobs.store import Job
from clp_core.locate import locate, read_json
from clp_core.prepared import max_positions, prepare
from clp_core.progress import HEART, JOB_ENVIRONMENT, write_json
from clp_core.provenance import PROVENANCE_FILE
from clp_core.target_files import TOKENIZER_COMPANIONS
from clp_core.training_plan import TrainPlan
from clp_core.vocabulary import TOKENIZER_FILES, Vocabulary
from clp_core.workspace import MANIFEST_FILE, REPORT_FILE, Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState

log = logging.getLogger(__name__)

FIRST_STEPS_EXPECT_S = 600.0


@dataclass
class Measured:
    """What the metrics lines of a run are computed from.

    Attributes:
        job: the run.
        plan: its settings.
        counts: sizes of the training text.
        attempt: how often the run was started, from 1.
    """

    job: Job
    plan: TrainPlan
    counts: TextCounts
    attempt: int = 1

    def write(self, step: int, **figures: Any) -> None:
        """Append a line to metrics.jsonl; what is not finite becomes null."""
        tokens = step * self.plan.step_tokens
        line: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "bytes": round(tokens * self.counts.bytes_per_token),
            "time": time.time(),
            "attempt": self.attempt,
        }
        line |= {key: value if math.isfinite(value) else None for key, value in figures.items()}
        with open(self.job.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class JobCallback(TrainerCallback):
    """Writes metrics and heartbeat, obeys control/stop, and seals checkpoints. Only the first process writes."""

    def __init__(self, measured: Measured, tokenizer_folder: Path) -> None:
        """Take the run, and the folder whose tokenizer every checkpoint gets."""
        self._measured = measured
        self._tokenizer_folder = tokenizer_folder
        self._last_log: tuple[float, int] | None = None
        self._step_seconds = 0.0
        self.stopped = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Beat, and look for a stop request."""
        self._beat(state, control)
        if self._all_see_stop():
            self.stopped = state.global_step < state.max_steps
            control.should_training_stop = True
            control.should_save = True
            control.should_evaluate = True

    def _all_see_stop(self) -> bool:
        """Say whether any process has seen the request, so that all leave at the same step."""
        asked = self._measured.job.stop_asked
        if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return asked
        flag = torch.tensor(int(asked), device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _beat(self, state: TrainerState, control: TrainerControl) -> None:
        if not state.is_world_process_zero:
            return
        expected = max(60.0, 20 * self._step_seconds) if self._step_seconds else FIRST_STEPS_EXPECT_S
        HEART.beat(
            "training",
            state.global_step / max(state.max_steps, 1),
            step=state.global_step,
            expect_next_s=FIRST_STEPS_EXPECT_S if control.should_evaluate or control.should_save else expected,
        )

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Write a line of loss."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now = time.perf_counter()
        figures = {"loss": logs["loss"], "lr": logs["learning_rate"], "grad_norm": float(logs.get("grad_norm", "nan"))}
        if self._last_log is not None:
            seconds, steps = now - self._last_log[0], state.global_step - self._last_log[1]
            self._step_seconds = seconds / max(steps, 1)
            figures["tokens_per_s"] = steps * self._measured.plan.step_tokens / max(seconds, 1e-9)
        self._last_log = (now, state.global_step)
        self._measured.write(state.global_step, **figures, memory=memory_bytes())

    def after_evaluation(self) -> None:
        """Leave the time of an evaluation out of the next speed."""
        self._last_log = None

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Complete a checkpoint with its tokenizer, and seal it with its manifest."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            seal(folder, self._tokenizer_folder, state.global_step)
            self._measured.job.add_event("checkpoint", step=state.global_step, path=str(folder))


class RunTrainer(Trainer):
    """transformers' Trainer with this project's evaluation: bits per byte, every token scored once."""

    text: EvaluationText
    measured: Measured
    callback: JobCallback
    last_evaluation: dict[str, float]
    evaluated_at: int = -1

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:  # noqa: ARG002
        """Read the blocks in the order they were put in."""
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Compute products in bfloat16 where the plan says so, in training alone: scores are those of float32."""
        if not self.measured.plan.bf16:
            return nullcontext()
        return torch.autocast(self.measured.plan.device, dtype=torch.bfloat16)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ARG002
        """Score the held-out text, as ``clp evaluate`` does, and write the line."""
        step = self.state.global_step
        if self.evaluated_at == step:  # the Trainer asks again when it ends
            return self.last_evaluation
        result = score(self.model, self.text)
        figures = {
            "eval_loss": result.loss,
            "bits_per_byte": result.bits_per_byte,
            "unknown_share": result.counts.unknown_share,
        }
        if self.state.is_world_process_zero:
            self.measured.write(step, **figures)
            log.info("step %d: held-out loss %.4f, %.4f bits per byte", step, result.loss, result.bits_per_byte)
        self.callback.after_evaluation()
        self.last_evaluation, self.evaluated_at = figures, step
        return figures


def memory_bytes() -> int:
    """Return the peak memory of this process: on the GPU where it has one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def seal(folder: Path, tokenizer_folder: Path, steps: int) -> None:
    """Copy tokenizer and provenance into a checkpoint and write its manifest last: without one it is not complete.

    The provenance is that of the rows before the training; the report says how many steps came since.
    """
    for name in (*TOKENIZER_FILES, *TOKENIZER_COMPANIONS, "chat_template.jinja", REPORT_FILE, PROVENANCE_FILE):
        if (tokenizer_folder / name).is_file() and not (folder / name).exists():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    report = read_json(folder / REPORT_FILE)
    if report:
        write_json(folder / REPORT_FILE, report | {"trained_steps": report.get("trained_steps", 0) + steps})
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    write_json(folder / MANIFEST_FILE, {"files": files})


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


def arguments_of(plan: TrainPlan, options: dict[str, Any], output: Path) -> TrainingArguments:
    """Return the Trainer's arguments for a plan."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = max(1, min(plan.micro_blocks, plan.step_blocks // processes))
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
        logging_steps=plan.loss_every,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=plan.eval_every,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=plan.steps,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        seed=options["seed"],
    )


def train(job: Job, cache: Path) -> dict[str, Any]:
    """Run the training that a job's spec asks for; return its result."""
    options, plan = job.spec["arguments"], TrainPlan(**job.spec["plan"])
    set_seed(options["seed"])
    folder = locate(options["model"])
    HEART.beat("reading the texts", expect_next_s=FIRST_STEPS_EXPECT_S)
    vocabulary = Vocabulary.open(folder)
    dataset, counts = packed_blocks([Path(text) for text in options["text"]], vocabulary, plan.block_length, cache)
    positions = max_positions(read_json(folder / "config.json"))
    text = EvaluationText.read([Path(options["eval_text"])], vocabulary, positions)
    HEART.beat("loading the model", expect_next_s=FIRST_STEPS_EXPECT_S)
    model = load_for_training(folder)
    check_tokenizer_fits(model, vocabulary)
    measured = Measured(job, plan, counts)
    callback = JobCallback(measured, folder)
    arguments = arguments_of(plan, options, job.path / "checkpoints")
    ordered = dataset.select(block_order(len(dataset), plan.steps * plan.step_blocks, options["seed"]))
    trainer = RunTrainer(model=model, args=arguments, train_dataset=ordered, eval_dataset=dataset, callbacks=[callback])
    trainer.text, trainer.measured, trainer.callback = text, measured, callback
    trainer.train()
    if not trainer.state.is_world_process_zero:
        return {}
    step = trainer.state.global_step
    result = {
        "outcome": "stopped" if callback.stopped else "finished",
        "step": step,
        "tokens": step * plan.step_tokens,
        "unknown_share": text.counts.unknown_share,
        **trainer.last_evaluation,
    }
    write_json(job.path / "result.json", result)
    HEART.beat("preparing the checkpoint for the pages", expect_next_s=FIRST_STEPS_EXPECT_S)
    prepare(job.path / "checkpoints" / f"checkpoint-{step}", cache)
    return result


def main() -> None:
    """Train what the job directory on the command line asks for."""
    die_with_parent()
    if os.getppid() == 1:  # the parent died while torch was imported
        raise SystemExit("the launcher is gone")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    job = Job(Path(sys.argv[1]).resolve())
    os.environ.setdefault(JOB_ENVIRONMENT, str(job.path))
    try:
        train(job, Workspace.current().cache)
    except Exception as error:
        log.exception("training failed")
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        write_json(job.path / "error.json", {"reason": reason})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
