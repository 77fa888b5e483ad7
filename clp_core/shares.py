"""A share of right answers with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

NORMAL_95 = 1.959963984540054
"""Standard deviations that hold 95 % of a normal distribution about its mean."""


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
        """Wilson's 95 % interval of the share, the values p with ``|p - right / n| <= z sqrt(p (1 - p) / n)``.

        It stays within 0 and 1 and has a width even where no answer, or every one, is right.
        """
        if not self.n:
            return 0.0, 1.0
        z2 = NORMAL_95**2
        middle = (self.right + z2 / 2) / (self.n + z2)
        half = NORMAL_95 / (self.n + z2) * math.sqrt(self.right * (self.n - self.right) / self.n + z2 / 4)
        return max(0.0, middle - half), min(1.0, middle + half)

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        return {"n": self.n, "right": self.right, "accuracy": self.value, "interval": list(self.interval)}
