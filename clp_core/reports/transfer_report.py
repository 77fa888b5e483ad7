"""The report that a transfer leaves in its target, read so that a foreign or damaged one ends in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.json_files import read_json
from clp_core.jobs.results import NUMBER, NUMBER_OR_NONE, fits

NUMBERS_BY_METHOD = {"*": {"*": NUMBER}}
SHAPE: Mapping[str, Any] = {
    "source": str,
    "helper": str,
    "output": str,
    "method": str,
    "match": str,
    "version": str,
    "helper_content": str,
    "seed": int,
    "overlap": int,
    "missing": int,
    "trained_steps": int,
    "seconds": NUMBER,
    "settings": NUMBERS_BY_METHOD,
    "parameters": {"*": NUMBERS_BY_METHOD},
    "overrides": {"*": [int]},
    "warnings": [str],
    "source_files": {"*": str},
    "guard": {"taken_over": {"*": int}},
    "heldout": {"centred_cosine": NUMBER_OR_NONE, "relative_error": NUMBER_OR_NONE},
    "health": {
        **dict.fromkeys(("rows_at_risk", "collapsed", "cancelled", "too_long"), int),
        **dict.fromkeys(("n_eff_median", "norm_ratio_max"), NUMBER_OR_NONE),
    },
    "origins": {"*": {"name": str, "hub": str, "licence": {"id": str, "name": str, "link": str}}},
    "auto": {"reason": str},
    "zero_step": {"bits_per_byte": NUMBER_OR_NONE, "text": str, "not_comparable": [{"code": str}]},
    "check": {
        **dict.fromkeys(("kind", "reason", "dtype"), str),
        **dict.fromkeys(("layers", "of_layers", "tokens_compared", "largest_difference"), NUMBER_OR_NONE),
    },
}
"""Kinds of what programs read of a report; ``*`` is every key. An entry that may be missing may also be null."""
NEEDED = ("source", "helper", "output", "method", "seed", "settings", "parameters", "overrides", "health", "overlap")
"""Entries without which no row of a target can be explained."""


PARTS = {
    "health": ("rows_at_risk", "collapsed", "cancelled", "too_long"),
    "parameters": ("input",),
    "heldout": ("centred_cosine", "relative_error"),
    "guard": ("taken_over",),
}
NEEDED_FOR_CARD = ("match", "missing", "version", "heldout", "guard", "source_files")
"""Further entries that the card of a target tells of."""


def read_transfer_report(folder: Path, *, for_card: bool = False) -> dict[str, Any]:
    """Return the report in a folder, empty where it holds none.

    Args:
        folder: of a model.
        for_card: whether a card is made of it.

    Raises:
        InputError: it is not the report of a transfer.
    """
    report = read_json(folder / REPORT_FILE)
    if not report:
        return {}
    needed = NEEDED + NEEDED_FOR_CARD if for_card else NEEDED
    wrong = [name for name in needed if report.get(name) is None] or list(misfits(report, SHAPE))
    if not wrong:
        held = {name: report.get(name) or {} for name in PARTS if name in needed}
        wrong = [f"{name}.{part}" for name in held for part in PARTS[name] if part not in held[name]]
    if wrong:
        raise InputError(
            f"{folder / REPORT_FILE} is damaged or foreign: its entry {wrong[0]!r} is missing or of another kind; "
            "write the target again"
        )
    return report


def misfits(content: Any, shape: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """Yield the entries of a report that are of another kind than a shape says; missing and empty ones are passed over.

    Args:
        content: a part of the report.
        shape: its kinds, see ``SHAPE``.
        place: where the part stands.
    """
    if not isinstance(content, Mapping):
        yield place
        return
    for key, value in content.items():
        kind = shape.get(key, shape.get("*"))
        where = f"{place}.{key}" if place else str(key)
        if kind is None or value is None:
            continue
        if isinstance(kind, Mapping):
            yield from misfits(value, kind, where)
        elif not fits(value, kind):
            yield where


def described(check: Mapping[str, Any] | None) -> str:
    """Say what was checked after writing, by the entry of a report; empty for a report older than the check."""
    if not check:
        return ""
    if check["kind"] == "files":
        return f"the files alone, {check['reason']}"
    is_whole = check["layers"] == check["of_layers"]
    layers = "all layers" if is_whole else f"the first {check['layers']} of {check['of_layers']} layers"
    return (
        f"the files, and logits of {check['tokens_compared']:,} common tokens against the source's ({layers}, "
        f"{check['dtype']}; largest difference {check['largest_difference']:g} standard deviations)"
    )
