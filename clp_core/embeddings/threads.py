"""Work on blocks of rows on all cores: a thread for each, in which BLAS has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Block = TypeVar("Block")


@lru_cache(1)
def blas_libraries() -> Any:
    """Return the control of the BLAS libraries that are loaded, as numpy's is by now."""
    return ThreadpoolController().select(user_api="blas")


def for_each(work: Callable[[Block], None], blocks: Iterable[Block]) -> None:
    """Do some work on every block, in as many threads as BLAS would use.

    Outside of BLAS's products numpy uses one core, so that threads of our own keep the others busy with sums, searches
    and copies too. A block's work must write to places of its own.

    Raises:
        Exception: the first that the work on a block raises.
    """
    parts, libraries = list(blocks), blas_libraries()
    n_threads = min(len(parts), max((found["num_threads"] for found in libraries.info()), default=1))
    if n_threads < 2:
        for part in parts:
            work(part)
        return
    with libraries.limit(limits=1), ThreadPoolExecutor(n_threads) as threads:
        for done in [threads.submit(work, part) for part in parts]:
            done.result()
