"""The teacher that a run follows besides its text: found and checked before the run. Needs no torch."""

from __future__ import annotations

import sys
from pathlib import Path

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.memory_estimate import Shape
from clp_core.checkpoints.model_config import embedding_rows, max_positions
from clp_core.errors import InputError
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.json_files import read_json
from clp_core.hub.repo_id import is_hub_id
from clp_core.hub.resolve import locate
from clp_core.tokenization.vocabulary import Vocabulary

HELPER = "helper"


def teacher_of(reference: str, model: Path) -> str:
    """Return what ``--teacher`` names: a folder or a Hub id; for ``helper`` that of the model's transfer.

    Args:
        reference: what was asked for.
        model: folder of the model that is to learn.

    Raises:
        InputError: the helper of the model's transfer is not known, or not there any more.
    """
    if reference != HELPER:
        return reference
    helper = str(read_json(model / REPORT_FILE).get("helper", ""))
    if not helper:
        raise InputError(
            f"--teacher {HELPER}: {model} holds no report of a transfer that would name its helper; name the teacher's "
            "folder or Hub id"
        )
    if not Path(helper).is_dir() and not is_hub_id(helper):
        raise InputError(
            f"--teacher {HELPER}: the helper of {model.name}, {helper}, is gone; name its folder or Hub id"
        )
    return helper


def check_teacher(reference: str, vocabulary: Vocabulary) -> tuple[Shape, int | None]:
    """Return the shape and the positions of a teacher.

    Args:
        reference: its folder or Hub id.
        vocabulary: of the model, without tokens that have no row there.

    Raises:
        InputError: it cannot be opened, has another tokenizer than the model, or no rows for all of its tokens.
    """
    folder = locate(reference)
    own = Vocabulary.open(folder, apart="torch" not in sys.modules)
    if all(i in own.added_ids for i in range(vocabulary.n_ids, own.n_ids)):  # these have no row in the model
        own = own.within(vocabulary.n_ids)
    if own.content != vocabulary.content:
        raise InputError(
            f"the teacher {reference} has another tokenizer than the model; a teacher's expectations are about the "
            "model's own tokens: take the helper, or another model with its tokenizer"
        )
    checkpoint = Checkpoint.open(folder)
    rows = embedding_rows(checkpoint)
    if rows is not None and rows < vocabulary.n_ids:
        raise InputError(
            f"the teacher {reference} has {rows} embedding rows, the model's tokenizer ids up to "
            f"{vocabulary.n_ids - 1}: take the helper, or another model with rows for all of them"
        )
    return Shape.of_checkpoint(checkpoint, own.n_ids), max_positions(checkpoint.config)
