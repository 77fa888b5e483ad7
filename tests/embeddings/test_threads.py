"""Work on blocks in threads of our own, in which BLAS has one."""

import threading

import numpy as np
import pytest

from clp_core.embeddings import threads
from clp_core.embeddings.row_source import block_ranges
from clp_core.embeddings.threads import blas_libraries, for_each


def threads_of_blas() -> list[int]:
    return [found["num_threads"] for found in blas_libraries().info()]


def test_every_block_is_worked_on_once_and_blas_has_one_thread_meanwhile():
    before = threads_of_blas()
    out, seen = np.zeros(1000), []

    def work(part: slice) -> None:
        out[part] += 1
        seen.append(max(threads_of_blas()))

    for_each(work, block_ranges(1000, 1, 4 * 30))
    assert (out == 1).all()
    assert threads_of_blas() == before
    if max(before) > 1:
        assert set(seen) == {1}


def test_a_failure_reaches_the_caller_and_blas_has_its_threads_back():
    before = threads_of_blas()

    def work(part: slice) -> None:
        if part.start == 60:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        for_each(work, block_ranges(300, 1, 4 * 30))
    assert threads_of_blas() == before


def test_a_single_block_needs_no_thread(monkeypatch):
    monkeypatch.delattr(threads, "ThreadPoolExecutor")
    names = []
    for_each(lambda part: names.append(threading.current_thread().name), [slice(0, 3)])
    assert names == [threading.current_thread().name]
