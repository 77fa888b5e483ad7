"""Scores of methods on one pair, as ``clp compare-methods`` prints them and pages read them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clp_core.files.typed_json import typed
from clp_core.reports.transfer_report import HeldOutSummary


@dataclass(frozen=True)
class MethodScore:
    """What one method reaches on a pair.

    Attributes:
        method: its name, with its settings where these were given.
        heldout: score on hidden anchors; ``None`` in it where there are too few, or where it is not finite.
        zero_step_bits_per_byte: of the target model before any training, or ``None`` without a text.
        seconds: time to fit the method and make all rows of the target.
        peak_bytes: memory that took beyond what was held before, or ``None`` where the system does not tell.
        note: why a figure is missing, or empty.
    """

    method: str
    heldout: HeldOutSummary
    zero_step_bits_per_byte: float | None
    seconds: float
    peak_bytes: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return one of the ``methods`` of ``clp compare-methods --json``."""
        return {
            "method": self.method,
            "heldout": {
                "centred_cosine": self.heldout.centred_cosine,
                "relative_error": self.heldout.relative_error,
            },
            "zero_step_bits_per_byte": self.zero_step_bits_per_byte,
            "seconds": round(self.seconds, 3),
            "peak_bytes": self.peak_bytes,
            "note": self.note,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> MethodScore:
        """Read one of the ``methods`` of any version.

        Raises:
            ValueError: a figure is missing or of another kind; the text is its name.
        """
        return typed(cls, content)


@dataclass(frozen=True)
class MethodComparison:
    """Scores of all methods on one pair.

    Attributes:
        scores: best first; what could not be scored last.
        advice: one sentence that names the best method.
    """

    scores: tuple[MethodScore, ...]
    advice: str

    def score_of(self, method: str) -> MethodScore | None:
        """Return the score of a method, named with its settings; ``None`` where it was not compared."""
        return next((score for score in self.scores if score.method == method), None)

    def to_json(self) -> dict[str, Any]:
        """Return what ``clp compare-methods --json`` prints."""
        return {"methods": [score.to_json() for score in self.scores], "advice": self.advice}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> MethodComparison:
        """Read a comparison of any version.

        Raises:
            ValueError: an entry is missing or of another kind; the text is its name.
        """
        found = typed(ComparisonFile, content)
        return cls(found.methods, found.advice)


@dataclass(frozen=True)
class ComparisonFile:
    """What the JSON of a comparison holds, by its names there."""

    methods: tuple[MethodScore, ...]
    advice: str
