"""Options of ``clp project``."""

from __future__ import annotations

from dataclasses import dataclass

from clp_core.errors import InputError
from clp_core.options import option

METHODS = ("umap", "pca")


@dataclass(frozen=True)
class UmapSettings:
    """What a UMAP layout depends on beside the rows.

    Attributes:
        neighbors: neighbours of each token.
        min_dist: how close dots may lie.
        seed: of the random numbers.
    """

    neighbors: int = 15
    min_dist: float = 0.1
    seed: int = 42


@dataclass(frozen=True)
class ProjectOptions:
    """What a projection is asked to do."""

    model: str = option(help="model: a folder or a Hub id")
    output: str = option(help="parquet file to write")
    method: str = option("umap", help="layout", choices=METHODS)
    seed: int = option(42, help="seed of the UMAP layout", minimum=0)
    neighbors: int = option(15, help="UMAP: neighbours of each token; more show the large structure", minimum=2)
    min_dist: float = option(0.1, help="UMAP: how close dots may lie, from 0 (tight clusters) to 1", minimum=0)

    def __post_init__(self) -> None:
        """Refuse bad values by naming the field."""
        if self.method not in METHODS:
            raise InputError(f"--method {self.method!r} is unknown; use one of {', '.join(METHODS)}")
        if not self.output.endswith(".parquet"):
            raise InputError("--output must end in .parquet")
        if self.neighbors < 2:
            raise InputError(f"--neighbors {self.neighbors} is too small; give 2 or more")
        if not 0 <= self.min_dist <= 1:
            raise InputError(f"--min-dist {self.min_dist:g} is out of bounds; give a number from 0 to 1")

    @property
    def settings(self) -> UmapSettings:
        """The settings of a UMAP layout."""
        return UmapSettings(self.neighbors, self.min_dist, self.seed)
