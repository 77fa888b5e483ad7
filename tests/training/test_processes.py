"""Processes that train together: what the others see of the first, and that none waits for one that is gone."""

import multiprocessing
import os
import time

import pytest
import torch

from clp_core.errors import ClpError
from clp_core.training.distributed import ControlGroup


def first_process(path, does):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=2)
    does(ControlGroup(timeout_s=30))
    os._exit(1)  # as one that is killed: it parts from nobody


@pytest.fixture
def beside_first(tmp_path):
    """Be the second of two processes; the first one, forked, does what it is given and then dies."""
    started = []

    def meet(does, timeout_s=30.0):
        process = multiprocessing.get_context("fork").Process(target=first_process, args=(tmp_path / "meet", does))
        process.start()
        started.append(process)
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=1, world_size=2)
        return ControlGroup(timeout_s)

    yield meet
    torch.distributed.destroy_process_group()
    for process in started:
        process.kill()
        process.join()


pytestmark = pytest.mark.process


def test_others_get_the_text_of_the_first(beside_first):
    group = beside_first(lambda group: (group.broadcast_text("größer"), group.broadcast_text("")))
    assert group.broadcast_text("mine") == "größer"
    assert group.broadcast_text("mine") == ""


def test_others_end_soon_after_the_first_and_say_so(beside_first):
    group = beside_first(lambda group: None)
    began = time.monotonic()
    with pytest.raises(ClpError, match="another process of this run has ended"):
        group.broadcast_text("")
    assert time.monotonic() - began < 20


def test_others_do_not_wait_for_ever_for_a_first_that_hangs(beside_first):
    group = beside_first(lambda group: time.sleep(60), timeout_s=0.5)
    with pytest.raises(ClpError, match=r"did not answer for 0:00:00\.5"):
        group.broadcast_text("")
