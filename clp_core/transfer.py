"""The transfer: both checkpoints in, a target checkpoint with its provenance out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clp_core import __version__, heldout
from clp_core.checkpoint import Checkpoint, check_disk, refuse_if_inside
from clp_core.errors import ClpError, InputError
from clp_core.initializers import INITIALIZERS, Context, Fitted, initializer
from clp_core.locate import read_json
from clp_core.options import option
from clp_core.overlap import MATCHES, Overlap
from clp_core.progress import report_progress
from clp_core.provenance import PROVENANCE_FILE, Health, provenance_table
from clp_core.target_files import (
    SpecialIds,
    copy_tokenizer,
    model_card,
    target_config,
    target_generation_config,
    verify,
)
from clp_core.tensors import Replacement, RowSource, Subset, TensorEntry, TensorRows, block_ranges
from clp_core.vocabulary import Vocabulary
from clp_core.workspace import REPORT_FILE

log = logging.getLogger(__name__)

UNKNOWN_HELPER_ROWS = "has {rows} embedding rows but its tokenizer has ids up to {last}"


@dataclass(frozen=True)
class TransferOptions:
    """What a transfer is asked to do."""

    source: str = option(help="source model: a folder or a Hub id")
    helper: str = option(help="helper model in the target language: a folder or a Hub id")
    output: str = option(help="folder to write the target model to")
    method: str = option("clp", help="method that fills the missing rows", choices=tuple(INITIALIZERS))
    match: str = option(
        "raw", help="how tokens are compared: their strings, or the bytes they stand for", choices=MATCHES
    )
    seed: int = option(42, help="seed of random rows and of the held-out choice", minimum=0)
    eval_text: str = option("", help="text in the target language on which to score the target before any training")
    overwrite: bool = option(False, help="replace an output folder that exists")

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        for name in ("source", "helper", "output"):
            if not str(getattr(self, name)).strip():
                raise InputError(f"--{name} is empty; name a folder")
        initializer(self.method)
        if self.match not in MATCHES:
            raise InputError(f"--match {self.match!r} is unknown; use one of {', '.join(MATCHES)}")
        if self.seed < 0:
            raise InputError("--seed must not be negative")


@dataclass
class Pair:
    """Source and helper, opened and checked against each other."""

    source: Checkpoint
    helper: Checkpoint
    overlap: Overlap
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, source: str | Path, helper: str | Path, match: str = "raw") -> Pair:
        """Open both checkpoints and match their vocabularies.

        Raises:
            InputError: one cannot be opened, has fewer rows than tokens, or nothing overlaps.
        """
        a, b = Checkpoint.open(source), Checkpoint.open(helper)
        overlap = Overlap.of(Vocabulary.open(a.folder), Vocabulary.open(b.folder), match)
        for checkpoint, vocabulary in ((a, overlap.source), (b, overlap.target)):
            rows = checkpoint.rows("input").shape[0]
            if rows < vocabulary.n_ids:
                detail = UNKNOWN_HELPER_ROWS.format(rows=rows, last=vocabulary.n_ids - 1)
                raise InputError(f"{checkpoint.folder} {detail}; is this its own tokenizer?")
        if not overlap.size:
            hint = "; try --match canonical" if match == "raw" else "; CLP needs tokens in common"
            raise InputError(f"{a.folder.name} and {b.folder.name} have no token in common{hint}")
        return cls(a, b, overlap, cls._warnings(overlap, a, b))

    @staticmethod
    def _warnings(overlap: Overlap, source: Checkpoint, helper: Checkpoint) -> list[str]:
        warnings = []
        if overlap.source.has_chat_template:
            warnings.append(
                "the source has a chat template; it and its special tokens are not carried over, "
                "so the target is no chat model"
            )
        for checkpoint, vocabulary in ((source, overlap.source), (helper, overlap.target)):
            spare = checkpoint.rows("input").shape[0] - vocabulary.n_ids
            if spare:
                warnings.append(
                    f"{checkpoint.folder.name} has {spare} padded rows beyond its tokens; they are left out"
                )
        gaps = overlap.target.n_ids - overlap.target.size
        if gaps:
            warnings.append(f"the helper's ids have {gaps} gaps; their rows are the mean of the copied rows")
        return warnings

    def context(self, side: str, seed: int) -> Context:
        """Return what an initializer sees of one side; input and output draw from different random streams."""
        rows = Subset(self.source.rows(side), self.overlap.source_ids[self.overlap.ids])
        return Context(self.helper.rows("input"), self.overlap.ids, rows, seed + (side == "output"))


class NewRows:
    """The rows of one target matrix in order: copied, initialised, and the mean for gaps; measures them on the way."""

    def __init__(self, pair: Pair, source_rows: TensorRows, fitted: Fitted) -> None:
        """Take the source's matrix and a method fitted to it."""
        self._overlap = pair.overlap
        self._source = source_rows
        self._fitted = fitted
        self.norms = np.zeros(pair.overlap.target.n_ids)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks of rows in the source's data type; copied rows are the source's bits."""
        overlap, width = self._overlap, self._source.shape[1]
        gap_row: np.ndarray | None = None
        for part in block_ranges(overlap.target.n_ids, width):
            ids = np.arange(part.start, part.stop)
            block = np.zeros((len(ids), width), dtype=self._source.dtype)
            copied = overlap.source_ids[ids] >= 0
            missing = overlap.is_token[ids] & ~copied
            gaps = ~overlap.is_token[ids]
            if copied.any():
                block[copied] = self._source.take_exact(overlap.source_ids[ids[copied]])
            if missing.any():
                with np.errstate(over="ignore"):
                    block[missing] = self._fitted.rows(ids[missing]).astype(self._source.dtype)
            if gaps.any():
                if gap_row is None:
                    gap_row = self._mean_copied_row()
                block[gaps] = gap_row
            self.norms[part] = np.linalg.norm(block.astype(np.float64), axis=1)
            yield block
            report_progress("writing rows", part.stop / overlap.target.n_ids)

    def _mean_copied_row(self) -> np.ndarray:
        total = np.zeros(self._source.shape[1])
        for part in block_ranges(self._overlap.size, len(total)):
            total += self._source.take(self._overlap.source_ids[self._overlap.ids[part]]).sum(axis=0, dtype=np.float64)
        return (total / self._overlap.size).astype(self._source.dtype)


def transfer(options: TransferOptions) -> dict[str, Any]:
    """Write the target model and return its report.

    The folder is written under a temporary name, reopened and checked, and only then takes its name.

    Raises:
        InputError: bad input, or the output exists and ``overwrite`` is off.
        ClpError: the written model did not pass the check.
    """
    started = time.perf_counter()
    output = Path(options.output).expanduser().absolute()
    if output.exists() and not options.overwrite:
        raise InputError(f"{output} exists and is kept; choose another --output, or add --overwrite")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; choose another --output")
    if output.exists() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise InputError(f"{output} holds files but no model, so it is not replaced; choose another --output")
    report_progress("opening the models")
    pair = Pair.open(options.source, options.helper, options.match)
    refuse_if_inside(output, pair.source.folder, pair.helper.folder)
    text = read_evaluation_text(options.eval_text)
    check_disk(output, expected_bytes(pair))
    output.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        report = write_target(pair, options, output, part)
        part.chmod(0o755)
        if text:
            report_progress("scoring the target")
            report["zero_step"] = zero_step(part, options.eval_text)
            report["warnings"] += report["zero_step"].pop("warnings")
        report["seconds"] = round(time.perf_counter() - started, 3)
        report["peak_rss_bytes"] = peak_rss_bytes()
        (part / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        (part / "README.md").write_text(model_card(report), encoding="utf-8")
        take_name(part, output, options.overwrite)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report


def write_target(pair: Pair, options: TransferOptions, output: Path, part: Path) -> dict[str, Any]:
    """Fill a temporary folder with the target model, check it, and return the report so far."""
    overlap = pair.overlap
    method = initializer(options.method)
    scores: dict[str, heldout.HeldOut | None] = {}
    fitted: dict[str, Fitted] = {}
    new_rows: dict[str, NewRows] = {}
    replaced: dict[str, Replacement] = {}
    for side in pair.source.sides:
        report_progress(f"fitting {options.method} to the {side} rows")
        context = pair.context(side, options.seed)
        scores[side] = heldout.score(method, context, options.seed)
        fitted[side] = method.fit(context)
        rows = pair.source.rows(side)
        new_rows[side] = NewRows(pair, rows, fitted[side])
        shape = (overlap.target.n_ids, rows.shape[1])
        replaced[rows.entry.name] = Replacement(rows.entry.dtype, shape, new_rows[side])
    replaced |= new_bias(pair, options, fitted["output" if "output" in fitted else "input"])
    ids = SpecialIds.of(overlap.target, pair.helper.config)
    pair.source.write(part, replaced, target_config(pair.source.config, overlap.target.n_ids, ids))
    source_generation = read_json(pair.source.folder / "generation_config.json")
    generation, dropped = target_generation_config(source_generation, ids)
    (part / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    copy_tokenizer(pair.helper.folder, part, overlap.target, pair.source.config)
    report_progress("checking what was written")
    warnings = pair.warnings + verify(part, pair.source, overlap, ids)
    if dropped:
        warnings.append(f"generation_config.json names ids of the source's tokens; left out: {', '.join(dropped)}")
    health = measure_health(pair, method.dense, fitted["input"], new_rows["input"].norms)
    provenance_table(overlap, health).to_parquet(part / PROVENANCE_FILE, index=False)
    summary = health.summary()
    score = scores["input"]
    warnings += health_warnings(pair, options, summary, score)
    empty = {"centred_cosine": None, "relative_error": None}
    return {
        "output": str(output),
        "source": str(pair.source.folder),
        "helper": str(pair.helper.folder),
        "method": options.method,
        "match": options.match,
        "seed": options.seed,
        "parameters": {side: dict(found.parameters) for side, found in fitted.items()},
        "tied": pair.source.names.tied,
        "overlap": overlap.size,
        "missing": len(overlap.missing_ids),
        "share_of_source": overlap.share_of_source,
        "share_of_target": overlap.share_of_target,
        "heldout": (score.as_json() if score else empty)
        | ({"output": found.as_json()} if (found := scores.get("output")) else {}),
        "health": summary,
        "warnings": warnings,
        "version": __version__,
    }


def new_bias(pair: Pair, options: TransferOptions, fitted: Fitted) -> dict[str, Replacement]:
    """Return the output layer's new bias by its name in the files; empty where it has none.

    The bias of a missing token is made like its output row, with the same parameters.
    """
    bias = pair.source.output_bias()
    if bias is None or pair.source.names.output_bias is None:
        return {}
    name = pair.source.in_files(pair.source.names.output_bias)
    if name is None:
        return {}
    entry = pair.source.entries[name]
    column = TensorEntry(entry.path, name, entry.dtype, (entry.shape[0], 1), entry.start, entry.stop)
    rows: RowSource = Subset(TensorRows(column), pair.overlap.source_ids[pair.overlap.ids])
    context = Context(
        pair.helper.rows("input"), pair.overlap.ids, rows, options.seed + 2, parameters=dict(fitted.parameters)
    )
    values = NewRows(pair, TensorRows(column), initializer(options.method).fit(context))
    return {name: Replacement(entry.dtype, (pair.overlap.target.n_ids,), (block[:, 0] for block in values))}


def measure_health(pair: Pair, dense: bool, fitted: Fitted, norms: np.ndarray) -> Health:
    """Return the health figures of the input rows, n_eff blockwise in closed form."""
    overlap = pair.overlap
    n_eff = np.full(overlap.target.n_ids, np.nan)
    width = pair.helper.rows("input").shape[1]
    for part in block_ranges(len(overlap.missing_ids), width, block_bytes=16 << 20):
        ids = overlap.missing_ids[part]
        n_eff[ids] = fitted.n_eff(ids)
    is_copied = overlap.source_ids >= 0
    return Health(n_eff, norms, overlap.is_token & ~is_copied, is_copied, overlap.size, dense)


def health_warnings(
    pair: Pair, options: TransferOptions, summary: dict[str, Any], score: heldout.HeldOut | None
) -> list[str]:
    """Say plainly when rows are unsound, and name the method that finds hidden anchors best."""
    at_risk, missing = summary["rows_at_risk"], len(pair.overlap.missing_ids)
    if not at_risk:
        return []
    kinds = [
        f"{summary[key]:,} {meaning}"
        for key, meaning in (
            ("collapsed", "collapse to the mean (n_eff above half the anchors)"),
            ("cancelled", "cancel (n_eff below 1)"),
            ("too_long", "are more than 3 times as long as copied rows"),
        )
        if summary[key]
    ]
    text = f"{at_risk:,} of {missing:,} new rows are at risk under {options.method}: {'; '.join(kinds)}"
    scores = {options.method: score}
    for name, method in INITIALIZERS.items():
        if name != options.method:
            scores[name] = heldout.score(method, pair.context("input", options.seed), options.seed)
    best = heldout.ranking(scores)[0]
    better, own = scores[best], scores[options.method]
    if best != options.method and better and own:
        text += (
            f". On held-out anchors {best} is better (centred cosine {better.centred_cosine:.2f} "
            f"against {own.centred_cosine:.2f}): use --method {best}"
        )
    return [text]


def zero_step(folder: Path, text: str) -> dict[str, Any]:
    """Score a target model on a text before any training, with a sample of what it says."""
    from clp_core.evaluation import evaluate, sample

    result = evaluate(folder, [Path(text)])
    return result.as_json() | {"sample": sample(folder), "text": text, "warnings": result.warnings}


def read_evaluation_text(path: str) -> bool:
    """Say whether a text is to be scored, and refuse one that is not there before any work is done."""
    if not path:
        return False
    from clp_core.corpus import check_texts

    check_texts([Path(path)])
    return True


def expected_bytes(pair: Pair) -> int:
    """Return the size of the weights that the transfer will write."""
    total = pair.source.n_bytes
    for side in pair.source.sides:
        entry = pair.source.entry(side)
        total += (pair.overlap.target.n_ids - entry.shape[0]) * entry.n_bytes // entry.shape[0]
    return total


def take_name(part: Path, output: Path, overwrite: bool) -> None:
    """Give a finished folder its name; one that may be replaced is moved aside first and removed last.

    Raises:
        InputError: another one has taken the name in the meantime.
    """
    if not overwrite:
        try:
            os.rename(part, output)
        except OSError as error:
            raise InputError(f"{output} came to be in the meantime and is kept; choose another name") from error
        return
    if not output.exists():
        os.rename(part, output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.replaced-", dir=output.parent))
    os.rename(output, aside / "old")
    try:
        os.rename(part, output)
    except OSError as error:
        os.rename(aside / "old", output)
        raise ClpError(f"{output} could not take its name: {error}") from error
    finally:
        if (aside / "old").exists() and output.exists():
            shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rmdir()


def peak_rss_bytes() -> int | None:
    """Return the peak resident memory of this process (VmHWM), or ``None`` where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return None
