"""The transfer: both checkpoints in, a target checkpoint with its provenance out."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clp_core import __version__
from clp_core.checkpoints.checkpoint import SIDES, Written
from clp_core.checkpoints.finite import NonFiniteError
from clp_core.checkpoints.positions import Padding
from clp_core.checkpoints.random_weights import write_random_model
from clp_core.checkpoints.safetensors_reader import content_of
from clp_core.checkpoints.safetensors_writer import Replacement
from clp_core.embeddings.row_source import Subset
from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE, REPORT_FILE
from clp_core.files.disk import check_disk, refuse_if_inside
from clp_core.files.json_files import read_json
from clp_core.files.output_folder import check_output, partial_folder, restore_replaced, take_name
from clp_core.initializers import initializer
from clp_core.initializers.base import Fitted
from clp_core.model_cards.card import Card
from clp_core.model_cards.licence import Origin
from clp_core.progress import report_progress
from clp_core.transfer import heldout_anchors
from clp_core.transfer.functional_check import NO_ROOM, UNCUT, Expected
from clp_core.transfer.method_selection import Choice, choose
from clp_core.transfer.model_pair import Pair
from clp_core.transfer.options import AUTO, TransferOptions, check_unused
from clp_core.transfer.provenance import KEPT_ANCHORS, Health, write_provenance
from clp_core.transfer.row_plan import FALLBACKS, INITIALISED, STATUSES, Maker, Measured, NewRows, RowPlan, mean_length
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
from clp_core.transfer.vocabulary_tensors import table_blocks

log = logging.getLogger(__name__)

MOST_UNKNOWN = 0.05
PROVENANCE_BYTES = 400
"""Bytes of provenance a token, at the most, for the check of the disk."""


def transfer(options: TransferOptions) -> dict[str, Any]:
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
    pair = Pair.of(options)
    refuse_if_inside(output, pair.source.folder, pair.helper.folder)
    text = read_evaluation_text(options.eval_text, options.text_field)
    plan = pair.plan(options.pad_to_multiple_of)
    check_disk(output, expected_bytes(pair, plan))
    chosen = choose(pair, options.seed) if options.method == AUTO else None
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output) as part:
        work = Transfer(options, pair, plan, chosen)
        report = work.write(output, part)
        if text:
            report_progress("scoring the target")
            report["zero_step"] = zero_step(part, options.eval_text, options.text_field, options.device)
            report["warnings"] += report["zero_step"].pop("warnings")
            unknown = report["zero_step"]["unknown_share"]
            if unknown > MOST_UNKNOWN:
                report["warnings"].append(
                    f"{100 * unknown:.0f} % of the text's tokens are unknown to the helper's tokenizer: "
                    "is it this language's, and the helper's own?"
                )
        report["seconds"] = round(time.perf_counter() - started, 3)
        report["peak_rss_bytes"] = peak_rss_bytes()
        (part / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        (part / "README.md").write_text(Card(output.name, report).text(), encoding="utf-8")
        take_name(part, output, options.overwrite)
    return report


class Transfer:
    """One transfer: fits, writes into a temporary folder, checks, and reports."""

    def __init__(self, options: TransferOptions, pair: Pair, plan: RowPlan, chosen: Choice | None = None) -> None:
        """Take the options, the opened pair and the plan of rows; ``chosen`` is what ``auto`` found."""
        self.options = options
        self.pair = pair
        self.chosen = chosen
        self.method = initializer(chosen.method if chosen else options.method)
        everything = pair.overlap.without(range(pair.overlap.target.n_ids))
        self.plan = RowPlan(everything, {}, plan.n_rows) if self.method.whole_model else plan
        takes_over = tuple(name for name in FALLBACKS if name != self.method.name)
        self.methods = (self.method.name, *(takes_over if options.guard == "fallback" else ()))
        self.parameters: dict[str, dict[str, dict[str, float]]] = {}
        self.makers = {side: self._maker(side) for side in pair.source.sides}
        self.measured = {
            side: Measured.empty(plan.n_rows, KEPT_ANCHORS if any(self._keeps) and side == "input" else 0)
            for side in pair.source.sides
        }

    @property
    def _keeps(self) -> tuple[bool, ...]:
        """For each method in use, whether its anchors are kept with the model."""
        full = self.options.provenance == "full"
        return tuple(
            not initializer(name).whole_model and (full or not initializer(name).from_helper) for name in self.methods
        )

    def _settings(self, name: str) -> dict[str, float]:
        if self.chosen is not None and name == self.chosen.method:
            return dict(self.chosen.settings)
        return self.options.settings if name == self.options.method else {}

    def _maker(self, side: str) -> Maker:
        plain = Subset(self.pair.source.rows(side), self.pair.overlap.source_ids[self.pair.overlap.ids])
        self.parameters[side] = {}

        def fit(name: str) -> Fitted:
            report_progress(f"fitting {name} to the {side} rows")
            own = self.pair.context(side, self.options.seed, self._settings(name), bias=True)
            fitted = initializer(name).fit(own)
            self.parameters[side][name] = dict(fitted.parameters)
            return fitted

        needs_length = self.options.guard == "fallback" or self.options.match_norms
        return Maker(
            self.methods,
            fit,
            dense=tuple(initializer(name).dense for name in self.methods),
            n_anchors=self.pair.overlap.size,
            usual_length=mean_length(plain) if needs_length else 1.0,
            width=plain.shape[1],
            helper_width=self.pair.helper.rows("input").shape[1],
            match_norms=self.options.match_norms,
        )

    def write(self, output: Path, part: Path) -> dict[str, Any]:
        """Fill a temporary folder with the target model, check it, and return the report so far."""
        pair, options = self.pair, self.options
        scores = {} if options.no_heldout else self._heldout()
        helper = pair.helper.folder
        ids = SpecialIds.of(pair.overlap.target, pair.helper.config, read_json(helper / "generation_config.json"))
        own, stale = without_source_ids(pair.source.config, pair.overlap.target)
        padding = Padding.of(pair.source.config, ids.pad, pair.overlap.target, self.plan.n_rows)
        config_ids = replace(ids, pad=padding.index)
        config = target_config(own, self.plan.n_rows, config_ids, tied=pair.source.names.tied)
        config |= padding.moved_length(config)
        write_config(part / "config.json", config)
        built = check_config(part, self.plan.n_rows, config_ids)
        config = without_placeholders(config, built, self.plan.n_rows)
        started = time.perf_counter()
        expected = self._expected()
        check_seconds = time.perf_counter() - started
        written = self._write_weights(part, config, padding)
        generation, dropped = target_generation_config(read_json(pair.source.folder / "generation_config.json"), ids)
        (part / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
        write_tokenizer(helper, part, pair.overlap.target, pair.source.config)
        report_progress("checking what was written")
        started = time.perf_counter()
        warnings = [*pair.warnings, *padding.warnings]
        warnings += verify(part, pair.source, self.plan, ids, written)
        if not isinstance(expected, Expected) or not expected.is_whole:
            check_loading(part, tied=pair.source.names.tied)
        checked = expected.compare(part) if isinstance(expected, Expected) else {"kind": "files", "reason": expected}
        if expected in (NO_ROOM, UNCUT):
            warnings.append(f"whether the target predicts as the source does was not checked, {expected}")
        check_seconds += time.perf_counter() - started
        for name, entries in (("config.json", stale), ("generation_config.json", dropped)):
            if entries:
                warnings.append(f"{name} of the source names ids of its own tokens; left out: {', '.join(entries)}")
        health = self._health()
        self._write_provenance(part, health)
        summary = health["input"].summary()
        if "output" in health:
            summary["output"] = health["output"].summary()
        if options.guard != "none":
            warnings += self._health_warnings(summary, scores.get("input"))
        return self._report(output, scores, summary, warnings) | {
            "source_files": written.files if written else {},
            "check": checked,
            "check_seconds": round(check_seconds, 3),
        }

    def _expected(self) -> Expected | str:
        """Score common tokens with the source, or say why the functional check is left out."""
        if self.options.check == "files":
            return "as asked for by --check files"
        if self.method.whole_model:
            return f"as {self.method.name} draws the whole model and keeps nothing of the source's predictions"
        return Expected.of(self.pair.source, self.plan)

    def _heldout(self) -> dict[str, heldout_anchors.HeldOut | None]:
        scores = {}
        for side in self.pair.source.sides:
            report_progress(f"scoring {self.method.name} on hidden {side} rows")
            context = self.pair.context(side, self.options.seed, self._settings(self.method.name))
            scores[side] = heldout_anchors.score(self.method, context, self.options.seed)
        return scores

    def _write_weights(self, part: Path, config: Mapping[str, Any], padding: Padding) -> Written | None:
        """Write the weights; for a method that draws the whole model, nothing of the source's is copied."""
        source = self.pair.source
        if self.method.whole_model:
            norms = write_random_model(part, config, source.rows("input").entry.dtype, self.options.seed)
            for side, lengths in norms.items():
                self.measured[side].norms[:] = lengths
            return None
        replaced = {}
        for kind, new in self.new_rows().items():
            entry = new.source.entry
            if kind not in SIDES:
                column = (block[:, 0] for block in new)
                replaced[entry.name] = Replacement(entry.dtype, (self.plan.n_rows,), column)
            else:
                replaced[entry.name] = Replacement(entry.dtype, (self.plan.n_rows, entry.shape[1]), new)
        for table in self.pair.further.tables:
            blocks = table_blocks(table, self.plan, self.pair.helper.rows("input"))
            replaced[table.name] = Replacement(table.dtype, (self.plan.n_rows, *table.shape[1:]), blocks)
        if padding.moved:
            entry, rows = padding.moved_table(source)
            replaced[entry.name] = Replacement(entry.dtype, rows.shape, [rows])
        return source.write(part, replaced, config)

    def new_rows(self, *, measure: bool = True) -> dict[str, NewRows]:
        """Return the target's tensors: ``input``, ``output`` and ``bias``, as far as they exist, and others by name.

        Args:
            measure: whether lengths, n_eff and anchors are noted while they are made.
        """
        source = self.pair.source
        found = {}
        for side, maker in self.makers.items():
            rows = source.rows(side)
            found[side] = NewRows(
                self.plan,
                rows,
                maker,
                columns=slice(0, rows.shape[1]),
                helper_rows=self.pair.helper.rows("input"),
                measured=self.measured[side] if measure else None,
                keeps=self._keeps,
            )
        maker = self.makers[self.pair.biased_side]
        has_bias = source.output_bias() is not None
        for place, column in enumerate(self.pair.columns):
            kind = "bias" if has_bias and place == 0 else column.entry.name
            found[kind] = NewRows(self.plan, column, maker, columns=slice(maker.width + place, maker.width + place + 1))
        return found

    def _health(self) -> dict[str, Health]:
        """Return the health figures of each side's rows."""
        dense = np.array([initializer(name).dense for name in self.methods])
        made, copied = self.plan.status == INITIALISED, self.plan.source_ids >= 0
        n_anchors = self.pair.overlap.size
        return {
            side: Health(found.n_eff, found.norms, made, copied, n_anchors, dense[found.method])
            for side, found in self.measured.items()
        }

    def _write_provenance(self, part: Path, health: Mapping[str, Health]) -> None:
        plan, measured = self.plan, self.measured["input"]
        made = plan.status == INITIALISED
        names = {
            side: np.where(made, np.array(self.methods, dtype=object)[found.method], "")
            for side, found in self.measured.items()
        }
        anchors = measured.anchors.scaled(measured.scale) if measured.anchors is not None else None
        status = np.array(STATUSES, dtype=object)[plan.status]
        path = part / PROVENANCE_FILE
        output = (names["output"], health["output"]) if "output" in health else None
        write_provenance(path, plan.overlap, status, names["input"], measured.scale, health["input"], anchors, output)

    def _health_warnings(
        self, summary: Mapping[str, Any], score: heldout_anchors.HeldOut | None, side: str = "input"
    ) -> list[str]:
        """Say plainly when rows are unsound, and name ``linear`` where it finds hidden anchors better."""
        warnings = []
        if summary.get("output"):
            warnings = self._health_warnings(summary["output"], None, "output")
        at_risk, missing = summary["rows_at_risk"], len(self.plan.missing_ids)
        if not at_risk:
            return warnings
        rows = "rows" if side == "input" else f"{side} rows"
        kinds = [
            f"{summary[key]:,} {meaning}"
            for key, meaning in (
                ("collapsed", "collapse to the mean (n_eff above half the anchors)"),
                ("cancelled", "cancel (n_eff below 1)"),
                ("too_long", "are more than 3 times as long as copied rows"),
            )
            if summary[key]
        ]
        text = f"{at_risk:,} of {missing:,} new {rows} are at risk under {self.method.name}: {'; '.join(kinds)}"
        if score is not None and self.method.name != "linear":
            seed = self.options.seed
            better = heldout_anchors.score(initializer("linear"), self.pair.context("input", seed), seed)
            if better is not None and better.centred_cosine > score.centred_cosine:
                text += (
                    f". On held-out anchors linear is better (centred cosine {better.centred_cosine:.2f} "
                    f"against {score.centred_cosine:.2f}): use --method linear, or auto"
                )
        return [text, *warnings]

    def _report(
        self,
        output: Path,
        scores: Mapping[str, heldout_anchors.HeldOut | None],
        health: Mapping[str, Any],
        warnings: list[str],
    ) -> dict[str, Any]:
        pair, options, plan = self.pair, self.options, self.plan
        score = scores.get("input")
        empty = {"centred_cosine": None, "relative_error": None}
        taken_over = {}
        for side, measured in self.measured.items():
            used = np.bincount(measured.method[plan.missing_ids], minlength=len(self.methods))
            taken_over[side] = {name: int(n) for name, n in zip(self.methods[1:], used[1:], strict=True)}
        return {
            "output": str(output),
            "source": str(pair.source.folder),
            "helper": str(pair.helper.folder),
            "origins": {
                role: Origin.of_folder(model.folder).as_json()
                for role, model in (("source", pair.source), ("helper", pair.helper))
            },
            "helper_content": content_of(pair.helper.rows("input")),
            "method": self.method.name,
            "auto": self.chosen.as_json() if self.chosen else None,
            "match": options.match,
            "special_tokens": options.special_tokens,
            "seed": options.seed,
            "device": pair.device.name,
            "settings": {name: initializer(name).resolve(self._settings(name)) for name in self.methods},
            "parameters": self.parameters,
            "guard": {
                "policy": options.guard,
                "taken_over": taken_over["input"],
                **({"output_taken_over": taken_over["output"]} if "output" in taken_over else {}),
            },
            "match_norms": options.match_norms,
            "provenance": options.provenance,
            "tied": pair.source.names.tied,
            "rows": plan.n_rows,
            "overlap": plan.overlap.size,
            "missing": len(plan.missing_ids),
            "statuses": {name: int((plan.status == i).sum()) for i, name in enumerate(STATUSES)},
            "overrides": {str(i): [int(j) for j in ids] for i, ids in plan.overrides.items()},
            "share_of_source": plan.overlap.share_of_source,
            "share_of_target": plan.overlap.share_of_target,
            "heldout": (score.as_json() if score else empty)
            | ({"output": found.as_json()} if (found := scores.get("output")) else {}),
            "health": dict(health),
            "warnings": warnings,
            "version": __version__,
        }


def zero_step(folder: Path, text: str, field: str, device: str) -> dict[str, Any]:
    """Score a target model on a text before any training, with a sample of what it says where it can generate."""
    from clp_core.evaluation.bits_per_byte import evaluate, sample

    result = evaluate(folder, [text], field, device=device)
    said, warnings = "", list(result.warnings)
    if not result.failure:
        try:
            said = sample(folder, device=device)
        except NonFiniteError:
            raise
        except InputError as error:
            warnings.append(f"there is no sample: {error}")
    return result.as_json() | {"sample": said, "text": text, "warnings": warnings}


def read_evaluation_text(path: str, field: str) -> bool:
    """Say whether a text is to be scored, and refuse one that is not there before any work is done."""
    if not path:
        return False
    from clp_core.data.text_sources import Texts

    Texts.open([path], field)
    return True


def expected_bytes(pair: Pair, plan: RowPlan) -> int:
    """Return the size of what the transfer will write."""
    total = pair.source.n_bytes + PROVENANCE_BYTES * plan.n_rows
    for side in pair.source.sides:
        entry = pair.source.entry(side)
        total += (plan.n_rows - entry.shape[0]) * entry.n_bytes // entry.shape[0]
    return total


def peak_rss_bytes() -> int | None:
    """Return the peak resident memory of this process (VmHWM), or ``None`` where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return None
