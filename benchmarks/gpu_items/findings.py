"""Figures and verdicts of one item, on disk as soon as each is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, MET, MISSED, SKIPPED, INCOMPLETE = "passed", "failed", "met", "missed", "skipped", "incomplete"
NEEDS_GPU = "needs a GPU"


@dataclass
class Findings:
    """What an item has measured so far.

    Attributes:
        path: JSON file that every addition rewrites, so that a killed item keeps what it had.
        figures: measurements by name.
        checks: verdicts by name: ``passed`` or ``failed`` for what must hold, ``met`` or ``missed`` for a target,
            ``skipped`` with the reason, ``incomplete`` where another call has to continue.
        error: why the item ended early; empty where it did not.
    """

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, str]] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of_file(cls, path: Path) -> Findings:
        """Return the findings that a file holds, none where there is no file."""
        content = read_json(path)
        return cls(path, content.get("figures", {}), content.get("checks", {}), content.get("error", ""))

    def figure(self, name: str, value: Any) -> None:
        """Add a measurement."""
        self.figures[name] = value
        self.save()

    def check(self, name: str, passed: bool, detail: str) -> None:
        """Add a verdict on what must hold; an item with a failed one has failed."""
        self._add(name, PASSED if passed else FAILED, detail)

    def target(self, name: str, value: float, least: float, *, judged: bool) -> None:
        """Add a verdict on a share that should be reached; a missed one is reported and does not fail the item.

        Args:
            name: what is measured.
            value: the share.
            least: the target.
            judged: whether the figure means anything here; in miniature it does not.
        """
        detail = f"{100 * value:.1f} %, target {100 * least:.0f} %"
        if not judged:
            self.skip(name, f"{NEEDS_GPU}: {detail} in miniature")
            return
        (self.met if value >= least else self.missed)(name, detail)

    def met(self, name: str, detail: str) -> None:
        """Add a target that is reached."""
        self._add(name, MET, detail)

    def missed(self, name: str, detail: str) -> None:
        """Add a target that is missed, which does not fail the item."""
        self._add(name, MISSED, detail)

    def skip(self, name: str, reason: str) -> None:
        """Say what was not measured, and why."""
        self._add(name, SKIPPED, reason)

    def incomplete(self, name: str, reason: str) -> None:
        """Say what another call with ``--resume`` has to continue."""
        self._add(name, INCOMPLETE, reason)

    def _add(self, name: str, verdict: str, detail: str) -> None:
        self.checks[name] = {"verdict": verdict, "detail": detail}
        self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, {"figures": self.figures, "checks": self.checks, "error": self.error})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file under another name first, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
