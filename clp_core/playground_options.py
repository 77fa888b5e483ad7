"""Options of ``clp playground``."""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.answers import GenerateOptions
from clp_core.errors import InputError
from clp_core.options import option

IDLE_SECONDS = 120


@dataclass(frozen=True)
class PlaygroundOptions:
    """What a session holds, and for how long."""

    models: tuple[str, ...] = option(help="models to hold in memory: folders or Hub ids")
    idle_seconds: int = option(
        IDLE_SECONDS, help="end, and give the memory back, after so long without a prompt", minimum=1
    )

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        GenerateOptions(self.models)
        if self.idle_seconds < 1:
            raise InputError("--idle-seconds must be at least 1")
