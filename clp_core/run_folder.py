"""What a checkpoint of a run gets beside its weights: tokenizer, provenance and report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from clp_core.jobs.checkpoints import remove
from clp_core.locate import read_json
from clp_core.progress import write_json
from clp_core.provenance import PROVENANCE_FILE
from clp_core.target_files import TOKENIZER_COMPANIONS
from clp_core.tokenizer_reading import TOKENIZER_FILES
from clp_core.workspace import REPORT_FILE


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
