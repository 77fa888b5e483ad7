"""A share of right answers with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """How many of n independent questions were answered rightly.

    Attributes:
        right: number of right answers.
        n: number of questions.
    """

    right: int
    n: int

    @property
    def value(self) -> float:
        """Right answers over questions; NaN where there are none."""
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, by scipy.

        It stays within 0 and 1 and has a width even where no answer, or every one, is right.
        """
        if not self.n:
            return 0.0, 1.0
        from scipy.stats import binomtest  # which takes most of a second to import

        interval = binomtest(self.right, self.n).proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        return {"n": self.n, "right": self.right, "accuracy": self.value, "interval": list(self.interval)}
