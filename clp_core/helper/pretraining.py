"""A helper from random weights, where no small model of the target language exists: its first weights, and its run."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from clp_core.data.packing import estimate_tokens
from clp_core.data.text_sources import Texts, absolute
from clp_core.data.train_valid_split import hold_out
from clp_core.errors import InputError
from clp_core.files.disk import check_disk
from clp_core.files.json_files import read_json
from clp_core.files.output_folder import partial_folder, take_name
from clp_core.files.slug import slug_of
from clp_core.helper.model_sizes import FAMILY, HelperPlan, Size
from clp_core.helper.pretrain_options import PretrainOptions
from clp_core.hub.resolve import locate
from clp_core.jobs.job import Job
from clp_core.jobs.submit import submit
from clp_core.options import command_of
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.options import PRESETS
from clp_core.training.submit import submit_train
from clp_core.workspace import Workspace

log = logging.getLogger(__name__)

WEIGHT_BYTES = 4
REPORT_FILE = "clp_helper.json"


def plan_helper(options: PretrainOptions, vocabulary: Vocabulary, texts: Texts) -> HelperPlan:
    """Plan a helper on a text; needs no torch.

    Raises:
        InputError: nobody knows how large the text is, and no budget is given.
    """
    tokens = estimate_tokens(texts, vocabulary)
    if tokens is None:
        raise InputError(
            "the size of a dataset of the Hub is not known; leave out --eval-text, so that it is read once"
        )
    return HelperPlan(options.shape, vocabulary.n_ids, tokens, options.max_tokens, options.max_steps)


def fresh_model(
    tokenizer: Path, vocabulary: Vocabulary, size: Size, positions: int, seed: int, output: Path
) -> list[str]:
    """Write a model folder with random weights and a tokenizer; the same bytes for one seed.

    It is made beside its place, reopened by transformers, and then takes its name.

    Args:
        tokenizer: folder of the tokenizer.
        vocabulary: what is in it.
        size: the shape.
        positions: tokens the model sees at once; 0: by the size.
        seed: of the weights.
        output: folder to write, which is not there yet.

    Returns:
        Warnings: what AutoTokenizer reads otherwise under this model type.

    Raises:
        InputError: the model does not fit in memory.
        ClpError: it does not load as it should.
    """
    from clp_core.checkpoints.random_weights import write_random_model
    from clp_core.transfer.target_folder import (
        SpecialIds,
        check_generation,
        check_loading,
        check_tokenizer,
        write_tokenizer,
    )

    ids = SpecialIds.of(vocabulary)
    config = size.config(vocabulary.n_ids, ids.as_config(), positions)
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output) as part:
        write_random_model(part, config, "F32", seed)
        generation = {name: value for name, value in ids.as_config().items() if value is not None}
        (part / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        write_tokenizer(tokenizer, part, vocabulary, config)
        check_loading(part)
        check_generation(part, ids)
        warnings = check_tokenizer(part, vocabulary, vocabulary.n_ids)
        (part / REPORT_FILE).write_text(json.dumps({"seed": seed, "warnings": warnings}) + "\n")
        take_name(part, output, overwrite=False)
    return warnings


def fresh_folder(
    workspace: Workspace, tokenizer: Path, vocabulary: Vocabulary, options: PretrainOptions
) -> tuple[Path, list[str]]:
    """Return the folder of the helper's first weights, in the cache, where it is made once; and warnings.

    It is no model for a user's list, but runs that begin again, and clones, find it there.
    """
    key = hashlib.blake2b(digest_size=6)
    for part in (FAMILY, options.size, options.positions, options.seed, vocabulary.serialized, vocabulary.roles):
        key.update(f"{part}\0".encode())
    folder = workspace.cache / "helpers" / f"{options.size}-{key.hexdigest()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / REPORT_FILE).is_file():
            return folder, list(read_json(folder / REPORT_FILE)["warnings"])
        check_disk(folder, WEIGHT_BYTES * options.shape.parameters(vocabulary.n_ids))
        return folder, fresh_model(tokenizer, vocabulary, options.shape, options.positions, options.seed, folder)


@dataclass(frozen=True)
class StartedHelper:
    """A helper's run.

    Attributes:
        job: the run.
        plan: what was planned.
        warnings: what a user should know before it has gone far.
    """

    job: Job
    plan: HelperPlan
    warnings: tuple[str, ...]


def start_helper(workspace: Workspace, options: PretrainOptions) -> StartedHelper:
    """Hold out a part of the text where none is given, draw the weights, and start the run.

    Raises:
        InputError: tokenizer or text cannot be used, or memory or disk does not suffice.
    """
    folder = locate(options.tokenizer, weights=False)
    vocabulary = Vocabulary.open(folder)
    given = [absolute(text) for text in options.text]
    texts, called = Texts.open(given, options.text_field), slug_of(Path(given[0]).name.partition(".")[0])
    if options.eval_text:
        valid = Path(absolute(options.eval_text))
        Texts.open([valid], options.text_field)
    else:
        split = hold_out(texts, called, workspace.texts)
        given, texts, valid = [str(split.train)], Texts.open([split.train], options.text_field), split.valid
        log.info("%s", split.told)
    plan = plan_helper(options, vocabulary, texts)
    log.info("%s", plan.told)
    weights, warnings = fresh_folder(workspace, folder, vocabulary, options)
    has_budget = options.max_steps or options.max_minutes or "max_steps" in PRESETS[options.preset].settings
    budget = {} if has_budget else {"max_tokens": plan.tokens}
    name = options.name or f"{options.size} helper on {called}"
    run = options.as_train(str(weights), given, str(valid), name=name, **budget)
    job = submit_train(workspace, run)
    return StartedHelper(job, plan, (*([plan.shortfall] if plan.shortfall else []), *warnings))


def command_detached(options: PretrainOptions) -> str:
    """Return the command that starts a helper's run and returns."""
    return f"{command_of(options)} --detach"


def submit_helper(workspace: Workspace, options: PretrainOptions) -> Job:
    """Start making a helper as a job, which starts its run and names that in its result."""
    command = command_detached(options)
    argv = ["-m", "clp_core", *shlex.split(command)[1:], "--json"]
    name = options.name or f"a {options.size} helper"
    return submit(workspace, "pretrain", asdict(options), argv, command=command, name=name)


def is_helper_run(job: Job, workspace: Workspace) -> bool:
    """Say whether a job is a run that began with the random weights of a helper made here."""
    model = str(job.spec.get("arguments", {}).get("model", ""))
    return job.kind == "train" and Path(model).parent == workspace.cache / "helpers"
