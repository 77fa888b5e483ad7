"""Curves to compare: of the workspace's runs, of runs made elsewhere, and the published ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from clp_core.data.contamination import STANDS_IN_IT
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import MAX_UNKNOWN_SHARE, UNKNOWN_TOKENS
from clp_core.files.json_files import read_state, write_json
from clp_core.files.slug import slug_of
from clp_core.jobs.job import Job, checked_name
from clp_core.jobs.metrics import AXES
from clp_core.jobs.run_metrics import MAX_POINTS, RunMetrics, Thinned
from clp_core.run_comparison.curve_import import SCORES, read_rows
from clp_core.run_comparison.options import MEASURES
from clp_core.tokenization.text_reading import FIRST, SCORING_FILE, TOKENS
from clp_core.training.schedule import Schedule
from clp_core.workspace import Workspace

EVAL_TEXT, TOKENIZER, STEP_TOKENS, UNKNOWN = "evaluation text", "tokenizer", "tokens a step", "unknown share"
BLOCK = "block length"
BEGIN, BYTES, NOT_COMPARABLE = "begin-of-text token", "bytes of the evaluation text", "not comparable"
LEAK = "held-out text in the training text"
NEEDED = ("block_length", "step_blocks")
"""Fields of a run's plan without which it is not compared."""
MAX_IMPORT_BYTES = 64 << 20
PAPER = "Ostendorff and Rehm 2023, German 6.4B"
PAPER_CLP = ((1.1, 96.0), (5.1, 71.0), (9.9, 59.9), (11.4, 58.4), (21.3, 51.1), (26.5, 48.8), (31.6, 47.4),
             (36.4, 45.9), (41.5, 45.2), (50.4, 44.4))  # fmt: skip
PAPER_SCRATCH = ((5.1, 158.7), (9.9, 113.7), (11.4, 109.3), (21.3, 87.9), (26.5, 82.8), (31.6, 78.3), (36.4, 75.4),
                 (41.5, 73.2), (50.4, 69.5), (82.0, 62.9), (93.0, 61.4), (105.9, 59.2))  # fmt: skip
"""Billions of tokens and validation perplexity, read off the paper's figure: to 0.3 billion and 0.4."""


class IncompleteRunError(InputError):
    """A run whose plan lacks what a comparison needs."""


@dataclass(frozen=True)
class Curve:
    """How a measure of one run went.

    Attributes:
        key: what names it in a list and in an address: a job's id, ``import:...`` or ``published:...``.
        name: what a reader sees.
        points: per measure ``[n, 5]``: step, tokens, bytes, seconds, value; what is not known is not a number.
        facts: what must be equal for two curves to be comparable; what is not known is ``None``.
        settings: everything else that may differ.
        origin: where it is from, in words.
    """

    key: str
    name: str
    points: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    def drawn(self, measure: str, limit: int = MAX_POINTS) -> np.ndarray:
        """Return the points of a measure to draw, at most ``limit`` of them, ``[n, 5]``."""
        every = self.points.get(measure, np.empty((0, Thinned.WIDTH)))
        if len(every) <= limit:
            return every
        curve = Thinned(limit)
        curve.add(every)
        return curve.points

    def best(self, measure: str) -> float | None:
        """Return the least value that was measured, or ``None``."""
        every = self.points.get(measure, np.empty((0, Thinned.WIDTH)))
        return float(every[:, -1].min()) if len(every) else None

    @property
    def not_comparable(self) -> list[dict[str, str]]:
        """Why its bits per byte cannot be compared across tokenizers: codes and reasons, see ``bits_per_byte``."""
        known = self.facts.get(NOT_COMPARABLE)
        if known is not None:
            return [dict(obstacle) for obstacle in known]
        unknown = self.facts.get(UNKNOWN)  # of a run that was scored before there were other reasons
        if unknown is None or unknown <= MAX_UNKNOWN_SHARE:
            return []
        reason = f"{100 * unknown:.2f} % of the text's tokens are unknown to the tokenizer"
        return [{"code": UNKNOWN_TOKENS, "reason": reason}]

    @property
    def tokens(self) -> float | None:
        """Tokens at the last point."""
        last = [points[-1, 1] for points in self.points.values() if len(points)]
        return float(max(last)) if last else None


def curve_of_run(job: Job, metrics: RunMetrics) -> Curve:
    """Return the curve of a run of the workspace."""
    scoring = read_state(job.path / SCORING_FILE)
    told = {**job.spec, "plan": job.plan, "warnings": job.warnings, "scoring": scoring}
    return curve_of_metrics(job.id, job.name, told, metrics, "run of this workspace")


def curve_of_metrics(key: str, name: str, told: Mapping[str, Any], metrics: RunMetrics, origin: str) -> Curve:
    """Return the curve of a run.

    Args:
        key: what names it.
        name: what a reader sees.
        told: its spec, with its ``plan``, its ``warnings`` and how it was ``scoring``.
        metrics: its metrics.
        origin: where it is from, in words.
    """
    plan, prints, scoring = told["plan"], told.get("fingerprints", {}), told.get("scoring") or {}
    facts = {
        EVAL_TEXT: prints.get("eval_text"),
        TOKENIZER: plan.get("tokenizer"),
        STEP_TOKENS: step_tokens_of(plan),
        BLOCK: plan.get("block_length"),
        UNKNOWN: metrics.latest("unknown_share"),
        BEGIN: scoring.get("begin", plan.get("begin", FIRST)),
        BYTES: scoring.get("bytes"),
        NOT_COMPARABLE: scoring.get("not_comparable"),
    }
    points = {measure: metrics.evaluation_points(measure) for measure in MEASURES}
    leak = next((warning for warning in told["warnings"] if STANDS_IN_IT in warning), "none found")
    return Curve(key, name, points, facts, settings_told(told) | {LEAK: leak}, origin)


def step_tokens_of(plan: Mapping[str, Any]) -> int | None:
    """Return the tokens of an optimiser step, or ``None`` where a plan does not give them."""
    return plan["block_length"] * plan["step_blocks"] if all(name in plan for name in NEEDED) else None


def incomplete(job: Job) -> str:
    """Say in one line why a run cannot be compared; empty where it can."""
    plan = job.plan
    absent = [name for name in NEEDED if name not in plan]
    if not absent:
        return ""
    return (
        f"{job.name} ({job.id}) is not compared: the plan in its spec.json has no valid {' and no valid '.join(absent)}"
    )


def settings_of(job: Job) -> dict[str, Any]:
    """Return what was asked for and what was planned for a run, one flat table."""
    return settings_told({**job.spec, "plan": job.plan})


def settings_told(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of a run whose spec and plan are read already.

    Args:
        told: its spec, with its ``plan``.
    """
    left_out = ("name", "memory_bytes", "disk_bytes", "device", "tokenizer", "warnings")
    # Runs that are older than these options were read so.
    older = {"begin": FIRST, "control_strings": TOKENS} if told["plan"] else {}
    values = older | told.get("arguments", {}) | told["plan"]
    if "stages" in values:
        with suppress(TypeError):  # of a damaged plan, whose stages are shown as they are
            values["stages"] = Schedule.of_json(values["stages"]).told
    versions = {f"version of {package}": found for package, found in told.get("versions", {}).items()}
    return {key: value for key, value in values.items() if key not in left_out} | versions


def differing(curves: Sequence[Curve]) -> dict[str, list[Any]]:
    """Return the settings in which curves differ: name of the setting to one value a curve."""
    if sum(bool(curve.settings) for curve in curves) < 2:
        return {}
    names = dict.fromkeys(name for curve in curves for name in curve.settings)
    table = {name: [curve.settings.get(name) for curve in curves] for name in names}
    known = [i for i, curve in enumerate(curves) if curve.settings]
    return {name: v for name, v in table.items() if len({json.dumps(v[i], sort_keys=True) for i in known}) > 1}


def published_curves() -> list[Curve]:
    """Return the two curves of the paper's figure."""
    facts = {EVAL_TEXT: PAPER, TOKENIZER: PAPER, STEP_TOKENS: PAPER, UNKNOWN: None}
    curves = []
    for key, name, table in (("clp", "paper: CLP", PAPER_CLP), ("scratch", "paper: from scratch", PAPER_SCRATCH)):
        nan = math.nan
        rows = [[nan, 1e9 * tokens, nan, nan, math.log(perplexity)] for tokens, perplexity in table]
        points = {"eval_loss": np.array(rows)}
        curves.append(Curve(f"published:{key}", f"{name}, 6.4B", points, facts, origin=f"{PAPER}, read off its figure"))
    return curves


def imported_curves(workspace: Workspace) -> list[Curve]:
    """Return the curves that were imported into a workspace, by name; a file that is none is passed over."""
    found = []
    for path in sorted(workspace.curves.glob("*.json")):
        told = read_state(path)
        try:
            points = {key: np.array(rows, dtype=np.float64) for key, rows in told["points"].items()}
            if all(rows.ndim == 2 and rows.shape[1] == Thinned.WIDTH for rows in points.values()):
                facts, origin = dict(told["facts"]), str(told["origin"])
                found.append(Curve(f"import:{path.stem}", str(told["name"]), points, facts, origin=origin))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found


def import_curve(
    workspace: Workspace,
    data: bytes,
    file_name: str,
    name: str,
    *,
    step_tokens: int = 0,
    eval_text: str = "",
    tokenizer: str = "",
) -> Curve:
    """Take a curve from elsewhere into the workspace.

    Args:
        workspace: where it is kept.
        data: content of a file that ``curve_files`` reads.
        file_name: its name.
        name: what it is to be called.
        step_tokens: tokens a step, where the file counts steps only.
        eval_text: content hash of the text it was scored on, if that is known.
        tokenizer: content name of the tokenizer, if that is known.

    Raises:
        InputError: there is no curve in the file.
    """
    name = checked_name(name)
    if len(data) > MAX_IMPORT_BYTES:
        raise InputError(f"{file_name} has more than {MAX_IMPORT_BYTES >> 20} MB; give the curve alone")
    rows = read_rows(data, file_name)
    points = points_of(rows, file_name, step_tokens)
    kept = max(map(len, points.values()))
    facts = {
        EVAL_TEXT: eval_text or None,
        TOKENIZER: tokenizer or None,
        STEP_TOKENS: step_tokens or None,
        UNKNOWN: None,
    }
    left_out = f", {len(rows) - kept} of {len(rows)} rows left out" if kept < len(rows) else ""
    origin = f"imported from {Path(file_name).name}, {kept} points{left_out}"
    workspace.curves.mkdir(parents=True, exist_ok=True)
    slug = slug_of(name)
    content = {"name": name, "origin": origin, "facts": facts}
    # JSON knows no "not a number"; null comes back as one.
    as_lists = {
        key: [[None if math.isnan(x) else float(x) for x in row] for row in rows] for key, rows in points.items()
    }
    with FileLock(workspace.curves / ".lock"):  # two imports at once must not choose the same name
        path = next(
            path
            for i in range(1, 10_000)
            if not (path := workspace.curves / (f"{slug}.json" if i == 1 else f"{slug}-{i}.json")).exists()
        )
        write_json(path, content | {"points": as_lists}, durable=True)
    return Curve(f"import:{path.stem}", name, points, facts, origin=origin)


def remove_import(workspace: Workspace, key: str) -> None:
    """Delete a curve that was imported.

    Raises:
        InputError: there is none of that key.
    """
    found = {curve.key for curve in imported_curves(workspace)}
    if key not in found:
        raise InputError(
            f"there is no imported curve {key}" + (f"; there are {', '.join(sorted(found))}" if found else "")
        )
    (workspace.curves / f"{key.removeprefix('import:')}.json").unlink()


def points_of(rows: Sequence[Mapping[str, float]], file_name: str, step_tokens: int) -> dict[str, np.ndarray]:
    """Return the points of every measure in rows, by tokens.

    Raises:
        InputError: no row has both tokens and a measure.
    """
    found: dict[str, list[list[float]]] = {measure: [] for measure in MEASURES}
    for row in rows:
        tokens = row.get("tokens", row["step"] * step_tokens if step_tokens and "step" in row else math.nan)
        values = dict(row)
        if "perplexity" in row and row["perplexity"] > 0:
            values.setdefault("eval_loss", math.log(row["perplexity"]))
        axes = [row.get(axis, math.nan) if axis != "tokens" else tokens for axis in AXES]
        for measure in MEASURES:
            if values.get(measure, -1.0) >= 0 and tokens >= 0:
                found[measure].append([*axes, values[measure]])
    points = {measure: np.array(sorted(rows, key=lambda row: row[1])) for measure, rows in found.items() if rows}
    if not points and any("step" in row and "tokens" not in row and row.keys() & SCORES for row in rows):
        raise InputError(f"{file_name} has scores but no tokens to put them at: give the tokens per step")
    if not points:
        raise InputError(
            f"{file_name} holds no curve: no row has both its tokens, or its step, and a score that is not negative"
        )
    return points
