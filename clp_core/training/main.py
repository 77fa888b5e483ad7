"""The process of a run: continued pretraining on transformers' Trainer, as a job.

Under torchrun several processes train together.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from transformers import PrinterCallback, TrainingArguments, set_seed

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.loading import load_causal_model, refuse_non_causal
from clp_core.checkpoints.model_config import embedding_rows, max_positions
from clp_core.checkpoints.provenance_reading import missing_rows
from clp_core.data.block_datasets import Blocks, ShuffledBlocks, StreamedBlocks, padding_of
from clp_core.data.contamination import find_leak
from clp_core.data.packing import TextCounts, content_key, open_packed, packed_blocks, stream_fingerprint
from clp_core.data.text_sources import Texts
from clp_core.errors import ClpError, InputError
from clp_core.evaluation.bits_per_byte import EvaluationText, check_tokenizer_fits
from clp_core.evaluation.losses import TextLoss, left_out, router_coefficient
from clp_core.files.hashing import content_of, has_changed
from clp_core.files.json_files import read_json, read_state, write_json
from clp_core.geometry.embedding_cache import prepare_if_room
from clp_core.hub.resolve import locate
from clp_core.jobs.failure_reason import reason_of
from clp_core.jobs.job import PLAN_FILE, WARNINGS_FILE, Job
from clp_core.jobs.run_metrics import metrics_of_run
from clp_core.jobs.training_checkpoints import (
    RUN_STATE_FILE,
    is_complete,
    remove_incomplete,
    resumable_checkpoint,
    step_of,
)
from clp_core.progress import HEART, JOB_ENVIRONMENT
from clp_core.tokenization.text_reading import SCORING_FILE, block_start
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.callback import JobCallback, LogLines, RunUnits
from clp_core.training.companion_files import companions_of
from clp_core.training.distillation import Distillation
from clp_core.training.distributed import COLLECTIVE_TIMEOUT_S, ControlGroup, is_first
from clp_core.training.heartbeat import FIRST_STEPS_EXPECT_S
from clp_core.training.memory_fit import FSDP
from clp_core.training.options import TrainOptions
from clp_core.training.parameter_groups import refuse_non_finite, refuse_untied
from clp_core.training.plan import TrainPlan, counts_warnings, emulated_warning
from clp_core.training.telemetry import RunTelemetry
from clp_core.training.trainer import RunSetup, RunTrainer
from clp_core.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


WRITER_WAIT_S = 60.0
GUESS_MAY_BE_OFF, LEAST_UNSETTLED_STEPS = 50, 1000
INPUTS_FILE = "inputs.json"
LESS_MEMORY = "fewer --micro-blocks, --gradient-checkpointing on and a shorter --block-length take less"


def load_for_training(folder: Path) -> PreTrainedModel:
    """Load a model with float32 weights, as the optimiser needs them.

    Raises:
        InputError: transformers cannot load it, or it lacks weights of its class.
        ClpError: tied embeddings came untied.
    """
    model = load_causal_model(folder, torch.float32)
    refuse_untied(model)
    return model


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


def trainer_arguments(plan: TrainPlan, options: TrainOptions, output: Path) -> TrainingArguments:
    """Return the Trainer's arguments for a plan."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro = blocks_at_once(plan, processes)
    on_gpu, is_sharded = plan.device == "cuda", plan.sharding == FSDP
    is_launched = "LOCAL_RANK" in os.environ  # by torchrun; a process alone needs no process group
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=plan.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=plan.step_blocks // (micro * processes),
        learning_rate=plan.learning_rate,
        weight_decay=options.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        use_cpu=not on_gpu,
        ddp_backend=("nccl" if on_gpu else "gloo") if is_launched else None,
        ddp_find_unused_parameters=False,
        ddp_timeout=COLLECTIVE_TIMEOUT_S,
        fsdp=is_sharded or None,
        fsdp_config={"version": 2} if is_sharded else None,
        # Not FSDP's own: that one draws other dropout masks when it computes again.
        activation_checkpointing=plan.checkpointing,
        torch_compile=plan.compiled,
        logging_strategy="no",  # the callback says when a line is due
        logging_nan_inf_filter=False,  # it would replace a lost loss by the mean of those before
        eval_strategy="steps",
        eval_steps=plan.eval_every,
        save_strategy="steps",
        save_steps=plan.save_every,
        report_to=list(options.report_to),
        run_name=options.name or None,
        disable_tqdm=True,
        dataloader_num_workers=0,
        train_sampling_strategy="sequential",  # the blocks are in the order of the run already
        seed=options.seed,
    )
    if arguments.n_gpu > 1:  # the Trainer would share out every batch among them; a supervisor shows a process its own
        raise InputError(
            f"this process sees {arguments.n_gpu} GPUs; start it with torchrun, or set CUDA_VISIBLE_DEVICES to one"
        )
    return arguments


def unsettled(plan: TrainPlan, options: TrainOptions) -> TrainPlan:
    """Return the plan of a run by time until its steps are settled: far more steps than were guessed.

    So it stays in the first stage and in its warm-up meanwhile.
    """
    return plan.with_steps(options, max(LEAST_UNSETTLED_STEPS, GUESS_MAY_BE_OFF * plan.steps))


def open_blocks(
    plan: TrainPlan, options: TrainOptions, vocabulary: Vocabulary, cache: Path, group: ControlGroup
) -> tuple[Blocks, str]:
    """Return the blocks of the training text in the order of the run, and a name for their content.

    The first process alone reads the text, once to name its content and once to tokenise it; the others wait for it.

    Raises:
        InputError: a text cannot be read, or the disk is too full.
    """
    texts = Texts.open(options.text, options.text_field)
    wanted = plan.steps * plan.step_blocks
    length, start, control = plan.block_length, block_start(vocabulary, plan.begin), options.control_strings
    if options.streaming:
        blocks = StreamedBlocks(texts, vocabulary, length, wanted, start, control)
        return blocks, stream_fingerprint(texts, start, control)
    key = ""
    if is_first():
        key = content_key(texts, vocabulary, length, start=start, control_strings=control)
        packed_blocks(texts, vocabulary, length, cache, start=start, control_strings=control, key=key)
    key = group.broadcast_text(key)
    dataset, counts = open_packed(cache, key)
    return ShuffledBlocks(dataset, counts, length, padding_of(vocabulary), wanted, options.seed, start), key


def settled_precision(plan: TrainPlan, options: TrainOptions, group: ControlGroup) -> tuple[TrainPlan, str]:
    """Plan float32 products where a GPU of the run has no bfloat16, as may be on a cluster, unless bfloat16 is chosen.

    Returns:
        The plan, the same on every process; and a warning, empty where bfloat16 is as fast as was planned.
    """
    lacks = plan.bf16 and plan.device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if not group.any(lacks):
        return plan, ""
    name = torch.cuda.get_device_name() if lacks else "another GPU of the run"
    if options.precision == "bf16":
        return plan, f"--precision bf16: {emulated_warning(name)}"
    return replace(plan, bf16=False, peak_flops=None), f"{name} has no bfloat16: products are in float32"


def note_precision(job: Job, plan: TrainPlan) -> None:
    """Write down for the readers of a run that its products have another type than was planned.

    A run by time does so with its steps, as the file says that they are settled.
    """
    file = job.path / PLAN_FILE
    if plan.bf16 != job.plan["bf16"] and (not plan.minutes or file.is_file()):
        write_json(file, read_state(file) | {"bf16": plan.bf16}, durable=True)


def train(job: Job, space: Workspace) -> dict[str, Any]:
    """Run the training that a job's spec asks for, from its newest complete checkpoint on; return its result."""
    options, plan = TrainOptions.of_json(job.spec["arguments"]), TrainPlan.of_spec(job.plan)
    if plan.minutes and not (job.path / PLAN_FILE).is_file():
        plan = unsettled(plan, options)
    set_seed(options.seed)
    output = job.path / "checkpoints"
    arguments = trainer_arguments(plan, options, output)  # the processes find each other here
    group = ControlGroup()
    plan, precision_warning = settled_precision(plan, options, group)
    if is_first():
        note_precision(job, plan)
    checkpoint = agreed_checkpoint(output, group)
    arguments.eval_on_start = checkpoint is None
    folder = checkpoint or locate(options.model)
    HEART.beat("reading the texts", expect_next_s=FIRST_STEPS_EXPECT_S)
    vocabulary = Vocabulary.open(folder, rows=embedding_rows(Checkpoint.open(folder)))
    if is_first():
        look_for_leak(job, options, vocabulary, space.cache)
    teaching = locate(plan.teacher) if plan.teacher else None
    blocks, content = open_blocks(plan, options, vocabulary, space.cache, group)
    positions = max_positions(read_json(folder / "config.json"))
    held_out = Texts.open([options.eval_text], options.text_field)
    text = EvaluationText.read(held_out, vocabulary, positions, plan.begin, options.control_strings)
    if is_first():
        describe_texts(job, blocks.counts, text)
        refuse_changed_inputs(job, content, None if checkpoint else folder, teaching)
    HEART.beat("loading the model", expect_next_s=FIRST_STEPS_EXPECT_S)
    model = load_for_training(folder)
    check_tokenizer_fits(model, vocabulary)
    refuse_non_finite(model, f"the model {folder.name}", vocabulary)
    refuse_non_causal(model, f"the model {folder.name}", positions)
    telemetry = RunTelemetry(job, plan, blocks, attempt=job.written_status().attempt)
    companions = job.path / "companions"
    if is_first():
        companions_of(folder, companions, vocabulary)
        remove_incomplete(output)
    trained_rows = missing_rows(folder) if plan.schedule.trains_missing_rows_alone else None
    units = RunUnits.of_run(telemetry, options, companions, vocabulary, group)
    callback = JobCallback(units, options)
    router = router_coefficient(model)
    objective = Distillation.open(teaching, vocabulary, arguments.device, router) if teaching else TextLoss(router)
    trainer = RunTrainer(
        RunSetup(units, text, objective, trained_rows),
        model=model,
        args=arguments,
        train_dataset=blocks,
        eval_dataset=blocks,
        callbacks=[callback, LogLines()],
    )
    trainer.remove_callback(PrinterCallback)  # a print that a full disk refuses would end the run
    torch.backends.cuda.matmul.allow_tf32 = False  # accelerate turns it on for compiled models
    if is_first():
        add_warnings(job, [precision_warning, left_out(model, objective, torch.from_numpy(text.ids))])
    if telemetry.attempt > 1:
        go_on(units, checkpoint, arguments)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step = trainer.state.global_step
    trainer.evaluate()  # of a step that was scored before the attempt, which ended before it said so
    trainer.release_wrapper()
    group.shutdown()
    if not is_first():
        return {}
    if options.streaming:  # nothing was known of it before
        add_warnings(job, counts_warnings("training", blocks.counts, is_whole=False))
    telemetry.finish()
    result = {
        "outcome": "stopped" if callback.stopped else "finished",
        "reason": callback.reason.text,
        "reason_code": callback.reason.code.value,
        "step": step,
        "tokens": step * plan.step_tokens,
        **trainer.last_evaluation,
    }
    write_json(job.path / "result.json", result)
    HEART.beat("preparing the checkpoint for the pages", expect_next_s=FIRST_STEPS_EXPECT_S)
    metrics_of_run(job)  # what it reads is kept for the pages
    prepare_if_room(output / f"checkpoint-{step}", space.cache)
    return result


def agreed_checkpoint(output: Path, group: ControlGroup) -> Path | None:
    """Return the newest complete checkpoint as the first process sees it; on a shared disk others may see less.

    Raises:
        ClpError: this process does not see that checkpoint.
    """
    found = resumable_checkpoint(output)
    step = int(group.broadcast(step_of(found) if found else -1))
    if step < 0:
        return None
    checkpoint = output / f"checkpoint-{step}"
    if not is_complete(checkpoint):
        raise ClpError(f"{checkpoint} is not to be seen whole on this machine; is the disk shared?")
    return checkpoint


def add_warnings(job: Job, warnings: Iterable[str]) -> None:
    """Write down for the readers of a run what it has found out about its data and its model."""
    earlier = read_state(job.path / WARNINGS_FILE).get("warnings", [])
    write_json(job.path / WARNINGS_FILE, {"warnings": list(dict.fromkeys([*earlier, *filter(None, warnings)]))})


def describe_texts(job: Job, counts: TextCounts, text: EvaluationText) -> None:
    """Write down how the held-out text is scored, and what is to be known of both texts.

    Args:
        job: the run.
        counts: sizes of the training text.
        text: the held-out text.
    """
    write_json(job.path / SCORING_FILE, text.to_json())
    warnings = [
        *counts_warnings("training", counts, is_whole=True),
        *(f"held-out text: {each}" for each in text.warnings),
    ]
    add_warnings(job, warnings)


def look_for_leak(job: Job, options: TrainOptions, vocabulary: Vocabulary, cache: Path) -> None:
    """Write down for the readers of the run whether its held-out text stands in its training text."""
    texts = Texts.open(options.text, options.text_field)
    if options.streaming or not texts.is_local:
        warnings = ["the training text is streamed, so it was not searched for the held-out text"]
    else:
        held_out = Texts.open([options.eval_text], options.text_field)
        warnings = find_leak(texts, held_out, cache, tuple(vocabulary.control_strings)).warnings
    write_json(job.path / WARNINGS_FILE, {"warnings": warnings})


def refuse_changed_inputs(job: Job, data: str, model: Path | None, teacher: Path | None) -> None:
    """Refuse to train on, or score on, something else than the run was made for.

    Args:
        job: the run.
        data: name of the training text's content under its tokenizer; the first attempt writes it down.
        model: folder of the model to begin with; ``None`` where the run goes on from a checkpoint.
        teacher: folder of the model that it follows besides the text, or ``None``.

    Raises:
        InputError: a text or the model has changed since.
    """
    prints, options = job.spec["fingerprints"], job.spec["arguments"]
    inputs = read_state(job.path / INPUTS_FILE)
    models = {"the model": model, "the teacher": teacher}
    found = {
        "the training text or its tokenizer": inputs.get("data", data) != data,
        "the held-out text": content_of(Path(options["eval_text"])) != prints["eval_text"],
    } | {what: has_changed(path, prints[str(path)]) for what, path in models.items() if path and str(path) in prints}
    changed = [what for what, is_changed in found.items() if is_changed]
    if changed:
        raise InputError(f"{' and '.join(changed)} changed since the run was made; clone the run instead")
    write_json(job.path / INPUTS_FILE, {"data": data}, durable=True)


def go_on(units: RunUnits, checkpoint: Path | None, arguments: TrainingArguments) -> None:
    """Restore what the Trainer does not keep of a checkpoint, and record for readers what was lost since.

    Without a checkpoint the run begins again, and all that was measured before is lost.
    """
    state: dict[str, Any] = {"step": 0, "seconds": 0.0}
    if checkpoint is not None:
        state = read_state(checkpoint / RUN_STATE_FILE)
        units.losses.restore(state["losses"], arguments.device)
    units.telemetry.seconds_before = state["seconds"]
    if arguments.process_index == 0:
        units.telemetry.write(state["step"], resumed_from=state["step"])
        log.info("goes on from the checkpoint of step %d" if checkpoint else "begins again at step %d", state["step"])


def main() -> None:
    """Train what the job directory on the command line asks for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    job = Job(Path(sys.argv[1]).resolve())
    os.environ.setdefault(JOB_ENVIRONMENT, str(job.path))
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(job.path / "tensorboard"))
    writer = FileLock(job.path / "writer.lock")
    try:
        if not is_first():
            os.environ.pop(JOB_ENVIRONMENT)  # one process alone gives signs of life
        else:
            # Processes of an attempt whose supervisor was killed may take a moment to die.
            writer.acquire(timeout=WRITER_WAIT_S)
        train(job, Workspace.current())
    except Exception as error:
        log.exception("training failed")
        reason = reason_of(error, job.path, LESS_MEMORY)
        if writer.is_locked:  # half a checkpoint would keep a full disk full
            remove_incomplete(job.path / "checkpoints")
        # The first process to fail knows why; the others see only that it is gone.
        if not (job.path / "error.json").exists():
            job.write_last_word("error.json", {"reason": reason.text, "reason_code": reason.code.value})
        raise SystemExit(1) from error
