"""What pages need of the results of jobs: a result that is missing, damaged or of another version counts as none."""

from __future__ import annotations

from typing import Any

from clp_core.jobs.job import Job

NUMBER: tuple[type, ...] = (int, float)
NUMBER_OR_NONE = (int, float, type(None))
TEXT_OR_NONE = (str, type(None))

HELD_OUT = {"centred_cosine": NUMBER_OR_NONE, "relative_error": NUMBER_OR_NONE}
COMPARISON = {
    "advice": str,
    "methods": [
        {"method": str, "seconds": NUMBER, "zero_step_bits_per_byte": NUMBER_OR_NONE, "heldout": HELD_OUT},
    ],
}
"""Of ``clp compare-methods``."""
TRANSFER = {
    "output": str,
    "warnings": [str],
    "overlap": NUMBER,
    "missing": NUMBER,
    "share_of_target": NUMBER,
    "seconds": NUMBER,
    "health": {"rows_at_risk": NUMBER},
    "heldout": {"centred_cosine": NUMBER_OR_NONE},
}
"""Of ``clp transfer``."""
PUSH = {"repo": str, "visibility": str}
DRY_RUN = PUSH | {
    "exists": (bool, type(None)),
    "files": [{"name": str, "bytes": NUMBER}],
    "bytes": NUMBER,
    "licence": TEXT_OR_NONE,
    "notes": [str],
    "problems": [str],
    "left_out": [{"name": str, "reason": str}],
    "card": str,
}
PUSHED = PUSH | {"url": str}
"""Of ``clp push``."""
TOKENIZER = {
    "size": NUMBER,
    "style": str,
    "end_of_text": TEXT_OR_NONE,
    "bytes_per_token": NUMBER_OR_NONE,
    "fertility": NUMBER_OR_NONE,
    "measured_on": str,
    "warnings": [str],
}
"""Of ``clp tokenizer``."""
TOKENIZER_SOURCE = {
    "name": str,
    "bytes_per_token": NUMBER_OR_NONE,
    "raw": {"overlap": NUMBER},
    "canonical": {"overlap": NUMBER, "coverage": NUMBER_OR_NONE},
}


def fits(content: Any, shape: Any) -> bool:
    """Say whether the content of a JSON file has all that a shape names.

    Args:
        content: as ``json`` reads it.
        shape: types; a dictionary of shapes by key, beside which there may be others; or a list with the shape of its
            items.
    """
    if isinstance(shape, dict):
        return isinstance(content, dict) and all(key in content and fits(content[key], shape[key]) for key in shape)
    if isinstance(shape, list):
        return isinstance(content, list) and all(fits(item, shape[0]) for item in content)
    is_number = bool not in (shape if isinstance(shape, tuple) else (shape,)) and isinstance(content, bool)
    return isinstance(content, shape) and not is_number


def fitting_result(job: Job, shape: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a job that is over, or ``None`` where it lacks what a shape names."""
    found = job.result()
    return found if fits(found, shape) else None
