"""Why bits per byte cannot be compared across tokenizers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Obstacle:
    """One reason why a figure cannot be compared across tokenizers.

    Attributes:
        code: one of ``unknown_tokens``, ``lossy_tokenizer``, ``control_strings``, ``first_token_unscored``,
            ``line_ends_unpredicted``, ``begin_against_template``, ``tokenizer_differs``, ``non_finite``.
        reason: the same in a sentence, with its figures.
    """

    code: str
    reason: str = ""

    def to_json(self) -> dict[str, str]:
        """Return code and reason."""
        return {"code": self.code, "reason": self.reason}
