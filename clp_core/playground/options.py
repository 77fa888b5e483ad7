"""Options of ``clp playground``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from clp_core.options import Options, option
from clp_core.playground.answers import models_problems

IDLE_SECONDS = 120
MAX_IDLE_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class PlaygroundOptions(Options):
    """Which models a session keeps in memory, and for how long."""

    COMMAND: ClassVar[tuple[str, ...]] = ("playground",)
    PLACED: ClassVar[tuple[str, ...]] = ("models",)

    models: tuple[str, ...] = option(help="models to hold in memory: folders or Hub ids")
    idle_seconds: int = option(
        IDLE_SECONDS,
        help="end, and give the memory back, after so long without a prompt",
        minimum=1,
        maximum=MAX_IDLE_SECONDS,
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield problems of the models."""
        yield from models_problems(self.models)
