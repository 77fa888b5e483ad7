"""All methods on one pair: held-out anchors, bits per byte before training, time, and a sentence of advice."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clp_core import heldout
from clp_core.initializers import INITIALIZERS, initializer
from clp_core.progress import report_progress
from clp_core.transfer import Pair, TransferOptions, transfer


@dataclass(frozen=True)
class MethodScore:
    """What one method reaches on a pair.

    Attributes:
        method: its name.
        heldout: score on hidden anchors, or ``None`` where there are too few.
        zero_step_bits_per_byte: of the target model before any training, or ``None`` without a text.
        seconds: time for the held-out score, and the transfer where a text is given.
    """

    method: str
    heldout: heldout.HeldOut | None
    zero_step_bits_per_byte: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        empty = {"centred_cosine": None, "relative_error": None}
        return {
            "method": self.method,
            "heldout": self.heldout.as_json() if self.heldout else empty,
            "zero_step_bits_per_byte": self.zero_step_bits_per_byte,
            "seconds": round(self.seconds, 3),
        }


def compare_methods(
    source: str, helper: str, methods: Sequence[str] = (), text: str = "", match: str = "raw", seed: int = 42
) -> tuple[list[MethodScore], str]:
    """Score methods on one pair; with a text, also write each target to a temporary folder and score it there.

    Returns:
        The scores, best first, and one sentence of advice.

    Raises:
        InputError: a method is unknown, or the pair cannot be opened.
    """
    names = list(methods) or list(INITIALIZERS)
    chosen = [initializer(name) for name in names]
    pair = Pair.open(source, helper, match)
    scores = []
    for i, method in enumerate(chosen):
        report_progress(f"scoring {method.name}", i / len(chosen))
        started = time.perf_counter()
        held = heldout.score(method, pair.context("input", seed), seed)
        bits = zero_step_bits(source, helper, method.name, text, match, seed) if text else None
        scores.append(MethodScore(method.name, held, bits, time.perf_counter() - started))
    scores.sort(key=sort_key)
    return scores, advice(scores)


def zero_step_bits(source: str, helper: str, method: str, text: str, match: str, seed: int) -> float | None:
    """Return the bits per byte of the target model that a method makes, before any training."""
    with tempfile.TemporaryDirectory() as folder:
        options = TransferOptions(source, helper, str(Path(folder) / "target"), method, match, seed, eval_text=text)
        found = transfer(options)["zero_step"]["bits_per_byte"]
    return None if found is None else float(found)


def sort_key(score: MethodScore) -> tuple[float, float]:
    """Order by bits per byte where it was measured, then by held-out cosine."""
    bits = score.zero_step_bits_per_byte
    held = score.heldout.centred_cosine if score.heldout else float("-inf")
    return (bits if bits is not None else float("inf"), -held)


def advice(scores: Sequence[MethodScore]) -> str:
    """Return one sentence that names the best method and by what measure."""
    best = scores[0]
    others = [score for score in scores if score.method != best.method]
    if not others:
        return f"Only {best.method} was scored; name more methods to compare."
    if best.zero_step_bits_per_byte is not None:
        rest = ", ".join(
            f"{score.method} {score.zero_step_bits_per_byte:.2f}"
            for score in others
            if score.zero_step_bits_per_byte is not None
        )
        return f"Use {best.method}: {best.zero_step_bits_per_byte:.2f} bits per byte before training ({rest})."
    if best.heldout is None:
        return "There are too few tokens in common to hide any; train and compare."
    rest = ", ".join(f"{score.method} {score.heldout.centred_cosine:.2f}" for score in others if score.heldout)
    return f"Use {best.method}: centred cosine {best.heldout.centred_cosine:.2f} on held-out anchors ({rest})."
