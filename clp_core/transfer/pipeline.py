"""The transfer: both checkpoints in, a target checkpoint with its provenance out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from clp_core import __version__
from clp_core.checkpoints.finite import NonFiniteError
from clp_core.checkpoints.safetensors_reader import content_of
from clp_core.environment.free_memory import peak_rss_bytes
from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE, REPORT_FILE
from clp_core.files.disk import check_disk, refuse_if_inside
from clp_core.files.output_folder import check_output, partial_folder, restore_replaced, take_name
from clp_core.initializers import initializer
from clp_core.model_cards.card import Card
from clp_core.progress import report_progress
from clp_core.reports.licence import Origin
from clp_core.reports.transfer_report import (
    GuardSummary,
    HealthSummary,
    HeldOutSummary,
    TransferReport,
    ZeroStep,
)
from clp_core.transfer import heldout_anchors
from clp_core.transfer.method_selection import Choice, choose
from clp_core.transfer.model_pair import ModelPair
from clp_core.transfer.options import AUTO, TransferOptions, check_unused
from clp_core.transfer.provenance import Health, write_provenance
from clp_core.transfer.row_plan import STATUSES, RowPlan
from clp_core.transfer.target_rows import MethodChain, TargetRows
from clp_core.transfer.target_writer import WrittenTarget, write_target
from clp_core.transfer.warnings import health_warnings, text_warnings

PROVENANCE_BYTES = 400
"""Bytes of provenance per token, at the most, for the check of the disk."""


def transfer(options: TransferOptions) -> TransferReport:
    """Write the target model and return its report.

    The folder is written under a temporary name, reopened and checked, and only then takes its name.

    Raises:
        InputError: bad input, or the output exists and ``overwrite`` is off.
        ClpError: the written model did not pass the check.
    """
    started = time.perf_counter()
    output = Path(options.output).expanduser().absolute()
    check_unused(options)
    restore_replaced(output)
    check_output(output, options.overwrite)
    report_progress("opening the models")
    pair = ModelPair.of(options)
    refuse_if_inside(output, pair.source.folder, pair.helper.folder)
    check_evaluation_text(options.eval_text, options.text_field)
    plan = pair.plan(options.pad_to_multiple_of)
    check_disk(output, expected_bytes(pair, plan))
    chosen = choose(pair, options.seed) if options.method == AUTO else None
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output) as part:
        rows = target_rows(options, pair, plan, chosen)
        scores = {} if options.no_heldout else heldout_scores(rows, chosen)
        written = write_target(part, rows, options.check)
        health = rows.health()
        leave_provenance(part, rows, health)
        report = report_of(options, output, rows, chosen, scores, health, written)
        if options.eval_text:
            report_progress("scoring the target")
            zero, warnings = zero_step(part, options.eval_text, options.text_field, options.device)
            report = replace(report, zero_step=zero, warnings=(*report.warnings, *warnings, *text_warnings(zero)))
        seconds = round(time.perf_counter() - started, 3)
        report = replace(report, seconds=seconds, peak_rss_bytes=peak_rss_bytes())
        (part / REPORT_FILE).write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
        (part / "README.md").write_text(Card(output.name, report).text(), encoding="utf-8")
        take_name(part, output, options.overwrite)
    return report


def target_rows(options: TransferOptions, pair: ModelPair, plan: RowPlan, chosen: Choice | None) -> TargetRows:
    """Prepare the rows of a target; a method that draws the whole model copies none.

    Args:
        options: of the transfer.
        pair: source and helper.
        plan: what becomes of each row.
        chosen: what ``auto`` found, where it was asked.
    """
    method, settings = (chosen.method, chosen.settings) if chosen else (options.method, options.settings)
    chain = MethodChain.of(
        method,
        settings,
        has_fallbacks=options.guard == "fallback",
        keeps_recoverable=options.provenance == "full",
    )
    if initializer(method).whole_model:
        plan = RowPlan(pair.overlap.without(range(pair.overlap.target.n_ids)), {}, plan.n_rows)
    return TargetRows(pair, plan, chain, seed=options.seed, match_norms=options.match_norms)


def heldout_scores(rows: TargetRows, chosen: Choice | None) -> dict[str, heldout_anchors.HeldOut | None]:
    """Score the first method of a chain on hidden anchors of each side.

    Args:
        rows: of the target.
        chosen: what ``auto`` found; it has scored the input rows already.
    """
    name, scores = rows.chain.names[0], {}
    for side in rows.pair.source.sides:
        if side == "input" and chosen is not None:
            scores[side] = chosen.first_fold
            continue
        report_progress(f"scoring {name} on hidden {side} rows")
        context = rows.pair.context(side, rows.seed, rows.chain.settings_of(name))
        scores[side] = heldout_anchors.score(initializer(name), context, rows.seed)
    return scores


def leave_provenance(folder: Path, rows: TargetRows, health: Mapping[str, Health]) -> None:
    """Write where each row comes from."""
    measured = rows.measured["input"]
    anchors = measured.anchors.scaled(measured.scale) if measured.anchors is not None else None
    output = (rows.methods_of_rows("output"), health["output"]) if "output" in health else None
    status = np.array(STATUSES, dtype=object)[rows.plan.status]
    methods = rows.methods_of_rows("input")
    overlap, path = rows.plan.overlap, folder / PROVENANCE_FILE
    write_provenance(path, overlap, status, methods, measured.scale, health["input"], anchors, output)


def report_of(
    options: TransferOptions,
    output: Path,
    rows: TargetRows,
    chosen: Choice | None,
    scores: Mapping[str, heldout_anchors.HeldOut | None],
    health: Mapping[str, Health],
    written: WrittenTarget,
) -> TransferReport:
    """Put together what a transfer has done, once the target is written."""
    pair, plan, chain = rows.pair, rows.plan, rows.chain
    summary, held = summary_of(health), heldout_of(scores)
    warnings = list(written.warnings)
    if options.guard != "none":
        was_chosen = chosen is not None
        warnings += health_warnings(summary, len(plan.missing_ids), chain.names[0], held, was_chosen=was_chosen)
    return TransferReport(
        output=str(output),
        source=str(pair.source.folder),
        helper=str(pair.helper.folder),
        origins={"source": Origin.of_folder(pair.source.folder), "helper": Origin.of_folder(pair.helper.folder)},
        helper_content=content_of(pair.helper.rows("input")),
        method=chain.names[0],
        auto=chosen.summary if chosen else None,
        match=options.match,
        special_tokens=options.special_tokens,
        seed=options.seed,
        device=pair.device.name,
        settings=chain.resolved(),
        parameters=rows.parameters,
        guard=GuardSummary(
            rows.taken_over("input"),
            options.guard,
            rows.taken_over("output") if "output" in rows.measured else None,
        ),
        match_norms=options.match_norms,
        provenance=options.provenance,
        tied=pair.source.names.tied,
        rows=plan.n_rows,
        overlap=plan.overlap.size,
        missing=len(plan.missing_ids),
        statuses={name: int((plan.status == i).sum()) for i, name in enumerate(STATUSES)},
        overrides={str(i): tuple(int(j) for j in ids) for i, ids in plan.overrides.items()},
        share_of_source=plan.overlap.share_of_source,
        share_of_target=plan.overlap.share_of_target,
        heldout=held,
        health=summary,
        warnings=tuple(warnings),
        version=__version__,
        source_files=written.source_files,
        check=written.check,
        check_seconds=written.check_seconds,
    )


def summary_of(health: Mapping[str, Health]) -> HealthSummary:
    """Return the figures of the input rows with those of the output rows, where these are others."""
    found = health["input"].summary()
    return replace(found, output=health["output"].summary()) if "output" in health else found


def heldout_of(scores: Mapping[str, heldout_anchors.HeldOut | None]) -> HeldOutSummary:
    """Return the scores of the input rows with those of the output rows, where these were scored."""
    sides = {side: score.summary for side, score in scores.items() if score is not None}
    return replace(sides.get("input", HeldOutSummary(None, None)), output=sides.get("output"))


def zero_step(folder: Path, text: str, field: str, device: str) -> tuple[ZeroStep, list[str]]:
    """Score a target model on a text before any training, with a sample of what it says where it can generate.

    Returns:
        The scores, and what a reader of them should know.
    """
    from clp_core.evaluation.bits_per_byte import ScoringModel

    model = ScoringModel.open(folder, device)
    result = model.evaluate([text], field)
    said, warnings = "", list(result.warnings)
    if not result.failure:
        try:
            said = model.sample()
        except NonFiniteError:
            raise
        except InputError as error:
            warnings.append(f"there is no sample: {error}")
    return ZeroStep.of_json(result.to_json() | {"text": text, "sample": said}), warnings


def check_evaluation_text(path: str, field: str) -> None:
    """Refuse a text that is not there before any work is done.

    Raises:
        InputError: it is not, or it cannot be read.
    """
    if path:
        from clp_core.data.text_sources import Texts

        Texts.open([path], field)


def expected_bytes(pair: ModelPair, plan: RowPlan) -> int:
    """Return the size of what the transfer will write."""
    total = pair.source.n_bytes + PROVENANCE_BYTES * plan.n_rows
    for side in pair.source.sides:
        entry = pair.source.entry(side)
        total += (plan.n_rows - entry.shape[0]) * entry.n_bytes // entry.shape[0]
    return total
