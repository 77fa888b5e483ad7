"""What a checkpoint of a run gets beside its weights: tokenizer, provenance and report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clp_core.files.artifacts import PROVENANCE_FILE, REPORT_FILE
from clp_core.files.json_files import read_json, write_json
from clp_core.jobs.training_checkpoints import remove
from clp_core.tokenization.tokenizer_reading import CONFIG_FILES, TEMPLATE_FILE, TOKENIZER_FILES, raw_json
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.target_folder import write_tokenizer


def companions_of(model: Path, kept: Path, vocabulary: Vocabulary) -> Path:
    """Keep what every checkpoint of a run gets beside its weights, tokenizer and provenance, in a folder of the run.

    The model may be gone when the run goes on. Where the model's own files do not say how its tokenizer was read (only
    a SentencePiece model, tokens without a row, dropout), the tokenizer is written as it was read: checkpoints must
    encode text as the run did.

    Args:
        model: the folder of the model.
        kept: the folder to make, if it is not there yet.
        vocabulary: the tokenizer as the run reads it.
    """
    if not kept.is_dir():
        part = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        is_as_read = raw_json(model) == vocabulary.serialized
        tokenizer = (*TOKENIZER_FILES, *CONFIG_FILES, TEMPLATE_FILE) if is_as_read else ()
        for name in (*tokenizer, REPORT_FILE, PROVENANCE_FILE):
            if (model / name).is_file():
                shutil.copyfile(model / name, part / name)
        if not is_as_read:
            write_tokenizer(model, part, vocabulary, read_json(model / "config.json"))
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
        before = report.get("trained_steps", 0)
        trained = (before if isinstance(before, int) else 0) + steps
        write_json(folder / REPORT_FILE, report | {"trained_steps": trained})


def remove_half_written(folder: Path) -> None:
    """Remove a checkpoint of the same step that an earlier attempt left without its seal."""
    if folder.is_dir():
        remove(folder)
