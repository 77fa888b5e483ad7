"""Take a run's checkpoint away: a plain Hugging Face folder without optimiser and run state, in the source's data type.

Training keeps float32 weights. Here they are narrowed tensor by tensor, block by block, so that no model is loaded;
the folder is written beside its place, reopened and compared, and only then takes its name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import NonFiniteError
from clp_core.checkpoints.safetensors_reader import DTYPES, TensorEntry, TensorRows, all_finite, tensor_digest
from clp_core.checkpoints.safetensors_writer import Replacement
from clp_core.embeddings.row_source import block_ranges
from clp_core.errors import ClpError, InputError
from clp_core.files.artifacts import CURVE_FILE, PROVENANCE_FILE, REPORT_FILE, TRAINING_FILE
from clp_core.files.disk import check_disk, refuse_if_inside
from clp_core.files.output_folder import check_output, partial_folder, restore_replaced, take_name
from clp_core.hub.download import cached
from clp_core.hub.repo_id import HubName
from clp_core.jobs.job import Job
from clp_core.jobs.store import JobStore
from clp_core.jobs.training_checkpoints import best_of, read_manifest, step_of
from clp_core.model_cards.card import Card
from clp_core.progress import report_progress
from clp_core.publishing.export_options import BEST, DTYPE_NAMES, LAST, SOURCE, ExportOptions
from clp_core.publishing.training_facts import curve_csv, first_model, runs_behind
from clp_core.reports.training_facts import RunFacts, training_json
from clp_core.reports.transfer_report import read_transfer_report
from clp_core.tokenization.tokenizer_reading import CONFIG_FILES, TEMPLATE_FILE, TOKENIZER_FILES
from clp_core.transfer.target_folder import check_loading
from clp_core.workspace import Workspace

CONFIG_NAMES = {"F64": "float64"} | {name: config for config, name in DTYPE_NAMES.items()}
COMPANIONS = (*TOKENIZER_FILES, *CONFIG_FILES, TEMPLATE_FILE, "generation_config.json",
              REPORT_FILE, PROVENANCE_FILE)  # fmt: skip
"""What is copied as it is; nothing else of a checkpoint is taken along."""
ROW_WIDTH = 1024
"""A tensor is read as rows of this many values where its size allows; what shape it has does not matter."""


def chosen_checkpoint(job: Job, which: str) -> Path:
    """Return the complete checkpoint of a run that is meant.

    Raises:
        InputError: the job is no run, has no complete checkpoint yet, or none that is meant.
    """
    if job.kind != "train":
        raise InputError(f"{job.id} is a {job.kind} job; only training runs have checkpoints")
    checkpoints = job.checkpoints()
    if not checkpoints:
        raise InputError(f"{job.id} has no complete checkpoint yet; stop it, which saves one, or wait for the next")
    if which == LAST:
        return checkpoints[-1]
    if which == BEST:
        found = best_of(checkpoints)
        if found is None:
            raise InputError(f"no checkpoint of {job.id} was scored; use --checkpoint {LAST}")
        return found
    wanted = next((path for path in checkpoints if step_of(path) == int(which)), None)
    if wanted is None:
        steps = ", ".join(str(step_of(path)) for path in checkpoints)
        raise InputError(f"{job.id} keeps no checkpoint of step {which}; there are those of {steps}")
    return wanted


def export(options: ExportOptions, workspace: Workspace) -> dict[str, Any]:
    """Write a checkpoint as a plain model folder and return what was written.

    Raises:
        InputError: bad input, the output exists and ``overwrite`` is off, or a value is not finite or does not fit the
            data type.
        ClpError: the written model did not pass the check.
    """
    began = time.perf_counter()
    job = JobStore(workspace.jobs).find(options.job, lambda job: job.kind == "train" and bool(job.checkpoints()))
    folder = chosen_checkpoint(job, options.checkpoint)
    output = Path(options.output).expanduser().absolute()
    restore_replaced(output)
    check_output(output, options.overwrite)
    refuse_if_inside(output, job.path, workspace.jobs)
    if output.resolve().is_relative_to(workspace.jobs.resolve()):
        raise InputError(f"{output} lies among the jobs; choose another --output, such as {workspace.models}/NAME")
    try:
        checkpoint = Checkpoint.open(folder)
        dtypes = wanted_dtypes(job, checkpoint, options.dtype)
        sizes = {name: entry.n_bytes for name, entry in checkpoint.entries.items()}
        narrowed = {name: size * DTYPES[dtypes[name]].itemsize // DTYPES[checkpoint.entries[name].dtype].itemsize
                    for name, size in sizes.items() if name in dtypes}  # fmt: skip
        check_disk(output, sum((sizes | narrowed).values()))
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(output) as part:
            write_model(checkpoint, part, dtypes)
            runs = runs_behind(folder)
            write_companions(folder, part, output.name, runs)
            take_name(part, output, options.overwrite)
    except FileNotFoundError as error:
        if folder.is_dir() and read_manifest(folder):
            raise
        raise InputError(f"{folder.name} was removed by its run while it was read; export another one") from error
    kinds = sorted({dtypes.get(name, entry.dtype) for name, entry in checkpoint.entries.items()})
    return {
        "output": str(output),
        "job": str(job.path),
        "checkpoint": folder.name,
        "step": step_of(folder),
        "dtypes": [CONFIG_NAMES.get(kind, kind.lower()) for kind in kinds],
        "bytes": sum(path.stat().st_size for path in output.iterdir() if path.is_file()),
        "bits_per_byte": read_manifest(folder).get("bits_per_byte"),
        "seconds": round(time.perf_counter() - began, 3),
    }


def wanted_dtypes(job: Job, checkpoint: Checkpoint, dtype: str) -> dict[str, str]:
    """Return the data type that each tensor of floating-point numbers is to have, by its name in the checkpoint.

    Raises:
        InputError: the source's are asked for, and the model that the training began with is not here any more.
    """
    floats = [name for name, entry in checkpoint.entries.items() if entry.dtype in DTYPES]
    if dtype != SOURCE:
        return dict.fromkeys(floats, DTYPE_NAMES[dtype])
    reference = first_model(job)
    name = HubName.parse(reference)
    folder = Path(reference) if Path(reference).is_dir() else (cached(name) if name else None)
    if folder is None:
        raise InputError(
            f"{reference}, which the training began with, is not here any more, so its data type is unknown; "
            "give --dtype float32 or bfloat16"
        )
    source = Checkpoint.open(folder)
    usual = source.entry("input").dtype
    parameters = {tensor: name for name, one in checkpoint.names.sources.items() for tensor in one.tensors}

    def of(tensor: str) -> str:
        theirs = source.names.sources.get(parameters.get(tensor, ""))
        entry = source.entries.get(theirs.tensors[0] if theirs is not None else tensor)  # buffers keep their names
        return entry.dtype if entry is not None and entry.dtype in DTYPES else usual

    return {tensor: of(tensor) for tensor in floats}


def write_model(checkpoint: Checkpoint, part: Path, dtypes: Mapping[str, str]) -> None:
    """Write weights and configuration, reopen them, and compare.

    Raises:
        InputError: a value is not finite, or does not fit its data type.
        ClpError: what was written is not what it should be.
    """
    changed = {
        name: entry for name, entry in checkpoint.entries.items() if dtypes.get(name, entry.dtype) != entry.dtype
    }
    new = {name: Replacement(dtypes[name], entry.shape, cast(entry, dtypes[name])) for name, entry in changed.items()}
    usual = dtypes[checkpoint.entry("input").name]
    written = checkpoint.write(part, new, config_in(checkpoint.config, CONFIG_NAMES[usual]))
    report_progress("checking what was written")
    again = Checkpoint.open(part)
    if again.names.tied != checkpoint.names.tied:
        raise ClpError("the tying of the embeddings changed on writing; nothing is kept")
    for name, entry in again.entries.items():
        before = checkpoint.entries[name]
        if entry.shape != before.shape or entry.dtype != dtypes.get(name, before.dtype):
            raise ClpError(f"{name} was written as {entry.dtype} {entry.shape}, which is wrong; nothing is kept")
        if name in changed:
            same = all(np.array_equal(a, b) for a, b in zip(cast(before, entry.dtype), blocks(entry), strict=True))
        else:
            same = tensor_digest(entry) == written.digests[name]
        if not same:
            raise ClpError(f"{name} differs from the checkpoint after writing; is the disk sound?")
    check_loading(part)


def as_rows(entry: TensorEntry) -> TensorRows:
    """Return a tensor of any shape as rows of one width."""
    count = int(np.prod(entry.shape))
    width = next(width for width in (ROW_WIDTH, entry.shape[-1] if entry.shape else 1, 1) if count % max(width, 1) == 0)
    return TensorRows(replace(entry, shape=(count // max(width, 1), width)))


def blocks(entry: TensorEntry) -> Iterator[np.ndarray]:
    """Read a tensor in blocks, in its own data type."""
    rows = as_rows(entry)
    for part in block_ranges(*rows.shape):
        yield rows.read(part.start, part.stop)


def cast(entry: TensorEntry, dtype: str) -> Iterator[np.ndarray]:
    """Read a tensor in blocks, rounded to another data type.

    Raises:
        InputError: a number is not finite, or beyond what that type holds.
    """
    for block in blocks(entry):
        with np.errstate(over="ignore"):
            narrowed = block.astype(DTYPES[dtype])
        if not all_finite(narrowed):
            check_finite(entry, block)
            raise InputError(
                f"{entry.name} holds numbers that {CONFIG_NAMES[dtype]} cannot; use --dtype bfloat16 or float32"
            )
        yield narrowed


def check_finite(entry: TensorEntry, block: np.ndarray) -> None:
    """Refuse a block of a tensor that holds NaN or infinity.

    Raises:
        InputError: it does.
    """
    if not all_finite(block):
        raise NonFiniteError(
            f"{entry.name} of {entry.path.parent.name} holds NaN or infinity: its training diverged or the file is "
            "damaged; export an earlier checkpoint (--checkpoint STEP)"
        )


def config_in(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return a config.json that names a data type, nested ones too."""
    changed = {key: value for key, value in config.items() if key not in ("torch_dtype", "_name_or_path")}
    for key, value in config.items():
        if isinstance(value, Mapping) and ("dtype" in value or "torch_dtype" in value):
            changed[key] = config_in(value, dtype)
    return changed | {"dtype": dtype}


def write_companions(folder: Path, part: Path, name: str, runs: Sequence[RunFacts]) -> None:
    """Copy tokenizer and provenance, and write what the training was, its curve, and the card."""
    for path in folder.iterdir():
        if path.name in COMPANIONS or path.suffix == ".tiktoken":
            shutil.copyfile(path, part / path.name)
    told = json.dumps(training_json(runs), indent=1, ensure_ascii=False)
    (part / TRAINING_FILE).write_text(told + "\n", encoding="utf-8")
    (part / CURVE_FILE).write_text(curve_csv(runs), encoding="utf-8")
    card = Card(name, read_transfer_report(folder, for_card=True), runs)
    (part / "README.md").write_text(card.text(), encoding="utf-8")
