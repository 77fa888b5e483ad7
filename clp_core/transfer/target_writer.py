"""Writes the folder of a target: configuration, weights, tokenizer; and checks what was written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clp_core.checkpoints.checkpoint import SIDES, CopyDigests
from clp_core.checkpoints.positions import Padding
from clp_core.checkpoints.random_weights import write_random_model
from clp_core.checkpoints.safetensors_writer import Replacement
from clp_core.files.json_files import read_json
from clp_core.initializers import initializer
from clp_core.progress import report_progress
from clp_core.reports.transfer_report import CheckSummary
from clp_core.transfer.functional_check import NO_ROOM, UNCUT, Expected
from clp_core.transfer.target_folder import (
    SpecialIds,
    check_config,
    check_loading,
    target_config,
    target_generation_config,
    verify,
    without_placeholders,
    without_source_ids,
    write_config,
    write_tokenizer,
)
from clp_core.transfer.target_rows import TargetRows
from clp_core.transfer.vocabulary_tensors import table_blocks


@dataclass(frozen=True)
class WrittenTarget:
    """What was written, and what its check found.

    Attributes:
        source_files: SHA-256 of each weight file of the source, by name; empty where nothing of it was copied.
        check: what was checked.
        check_seconds: time of the check.
        warnings: what a user should know.
    """

    source_files: Mapping[str, str]
    check: CheckSummary
    check_seconds: float
    warnings: tuple[str, ...]


def write_target(folder: Path, rows: TargetRows, check: str) -> WrittenTarget:
    """Fill an empty folder with a target model, reopen it and check it.

    Args:
        folder: where it goes.
        rows: of the target; their figures are measured while they are written.
        check: ``logits`` or ``files``, see ``TransferOptions``.

    Raises:
        InputError: the source's architecture is not supported, or the helper's tokenizer cannot be written.
        ClpError: what was written did not pass the check.
    """
    pair, plan = rows.pair, rows.plan
    helper = pair.helper.folder
    ids = SpecialIds.of(pair.overlap.target, pair.helper.config, read_json(helper / "generation_config.json"))
    own, stale = without_source_ids(pair.source.config, pair.overlap.target)
    padding = Padding.of(pair.source.config, ids.pad, pair.overlap.target, plan.n_rows)
    config_ids = replace(ids, pad=padding.index)
    config = target_config(own, plan.n_rows, config_ids, tied=pair.source.names.tied)
    config |= padding.moved_length(config)
    write_config(folder / "config.json", config)
    config = without_placeholders(config, check_config(folder, plan.n_rows, config_ids), plan.n_rows)
    started = time.perf_counter()
    expected = expected_scores(rows, check)
    seconds = time.perf_counter() - started
    written = write_weights(folder, rows, config, padding)
    generation, dropped = target_generation_config(read_json(pair.source.folder / "generation_config.json"), ids)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    write_tokenizer(helper, folder, pair.overlap.target, pair.source.config)
    report_progress("checking what was written")
    started = time.perf_counter()
    warnings = [*pair.warnings, *padding.warnings, *verify(folder, pair.source, plan, ids, written)]
    if not isinstance(expected, Expected) or not expected.is_whole:
        check_loading(folder, tied=pair.source.names.tied)
    checked = expected.compare(folder) if isinstance(expected, Expected) else CheckSummary("files", reason=expected)
    if expected in (NO_ROOM, UNCUT):
        warnings.append(f"whether the target predicts as the source does was not checked, {expected}")
    seconds += time.perf_counter() - started
    for name, entries in (("config.json", stale), ("generation_config.json", dropped)):
        if entries:
            warnings.append(f"{name} of the source names ids of its own tokens; left out: {', '.join(entries)}")
    return WrittenTarget(written.files if written else {}, checked, round(seconds, 3), tuple(warnings))


def expected_scores(rows: TargetRows, check: str) -> Expected | str:
    """Score common tokens with the source, or say why the functional check is left out."""
    if check == "files":
        return "as asked for by --check files"
    method = initializer(rows.chain.names[0])
    if method.whole_model:
        return f"as {method.name} draws the whole model and keeps nothing of the source's predictions"
    return Expected.of(rows.pair.source, rows.plan)


def write_weights(folder: Path, rows: TargetRows, config: Mapping[str, Any], padding: Padding) -> CopyDigests | None:
    """Write the weights; for a method that draws the whole model, nothing of the source's is copied.

    Returns:
        What was copied; ``None`` where nothing was.
    """
    source, plan = rows.pair.source, rows.plan
    if initializer(rows.chain.names[0]).whole_model:
        norms = write_random_model(folder, config, source.rows("input").entry.dtype, rows.seed)
        for side, lengths in norms.items():
            rows.measured[side].norms[:] = lengths
        return None
    replaced = {}
    for kind, new in rows.tensors().items():
        entry = new.source.entry
        if kind not in SIDES:
            column = (block[:, 0] for block in new)
            replaced[entry.name] = Replacement(entry.dtype, (plan.n_rows,), column)
        else:
            replaced[entry.name] = Replacement(entry.dtype, (plan.n_rows, entry.shape[1]), new)
    for table in rows.pair.further.tables:
        blocks = table_blocks(table, plan, rows.pair.helper.rows("input"))
        replaced[table.name] = Replacement(table.dtype, (plan.n_rows, *table.shape[1:]), blocks)
    if padding.moved:
        entry, moved = padding.moved_table(source)
        replaced[entry.name] = Replacement(entry.dtype, moved.shape, [moved])
    return source.write(folder, replaced, config)
