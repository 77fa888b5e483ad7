"""Options of ``clp project``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from clp_core.options import Options, option

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
class ProjectOptions(Options):
    """The layout of a model's embeddings, and where it is written."""

    COMMAND: ClassVar[tuple[str, ...]] = ("project",)
    PLACED: ClassVar[tuple[str, ...]] = ("model",)

    model: str = option(help="model: a folder or a Hub id")
    output: str = option(
        help="parquet file to write",
        pattern=re.compile(r".*[^/\\]\.parquet", re.DOTALL),
        cure="give the name of a file that ends in .parquet",
    )
    method: str = option("umap", help="layout", choices=METHODS)
    seed: int = option(42, help="seed of the UMAP layout", minimum=0, maximum=2**32 - 1)
    neighbors: int = option(
        15, help="UMAP: neighbours of each token; more show the large structure", minimum=2, maximum=1000
    )
    min_dist: float = option(
        0.1, help="UMAP: how close dots may lie, from 0 (tight clusters) to 1", minimum=0, maximum=1
    )

    @property
    def settings(self) -> UmapSettings:
        """The settings of a UMAP layout."""
        return UmapSettings(self.neighbors, self.min_dist, self.seed)
