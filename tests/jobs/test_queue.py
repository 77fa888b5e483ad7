"""One run at a time on each device, first come first served, whoever dies."""

import os
import signal
import threading

import psutil
import pytest
from support.jobs import end_of, wait_for

from clp_core.jobs import JobStore, start
from clp_core.jobs.device_queue import DeviceQueue, Ticket
from clp_core.jobs.job import job_is_over
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.submit import launch

SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def store(workspace):
    return JobStore(workspace.jobs)


@pytest.fixture
def queue():
    return DeviceQueue.of_this_machine()


def job_for(store, devices, code=SLEEP, name="a run"):
    arguments = {"code": code, "name": name, "devices": list(devices)}
    job, _ = store.create("project", arguments, ["-c", code], "clp project", name=name, devices=devices)
    return job


@pytest.mark.process
def test_three_jobs_on_two_devices_start_in_the_order_they_came(store, queue):
    first, second, third = (
        job_for(store, devices, name=name)
        for name, devices in (("one", ["cuda:0"]), ("two", ["cuda:1"]), ("three", ["cuda:0", "cuda:1"]))
    )
    for job in (first, second, third):
        launch(job)
    for job in (first, second):
        wait_for(lambda job=job: job.status().state == "running")
    waiting = wait_for(lambda: third.status() if third.status().reason_code == ReasonCode.WAITS_FOR_DEVICE else None)
    assert waiting.state == "queued"
    assert all(told in waiting.reason for told in ("place 2", "cuda:0, cuda:1", "one is first"))
    fourth = job_for(store, ["cuda:1"], name="four")
    launch(fourth)
    first.ask_stop()
    end_of(first)
    wait_for(lambda: "place 1" in third.status().reason and "two is first" in third.status().reason)
    behind = wait_for(lambda: fourth.status().reason)
    assert all(told in behind for told in ("place 2", "cuda:1", "two is first"))
    second.ask_stop()
    wait_for(lambda: third.status().state == "running")
    assert fourth.status().state == "queued"  # it came later, so it may not overtake
    third.ask_stop()
    wait_for(lambda: fourth.status().state == "running")
    fourth.ask_stop()
    assert end_of(fourth).state == "stopped"
    assert queue.tickets() == []


@pytest.mark.process
def test_device_of_a_killed_supervisor_is_free_again(store):
    first, second = job_for(store, ["cpu"], name="one"), job_for(store, ["cpu"], name="two")
    launch(first)
    wait_for(lambda: first.status().state == "running")
    launch(second)
    wait_for(lambda: "place 1" in second.status().reason)
    supervisor = psutil.Process(first_pid(first))
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: second.status().state == "running", 30)
    assert first.status().state == "lost"
    second.ask_stop()
    end_of(second)


def first_pid(job):
    import json

    return json.loads((job.path / "process.json").read_text())["pid"]


@pytest.mark.process
def test_queued_job_can_be_stopped_before_it_starts(store, queue):
    first, second = job_for(store, ["cpu"], name="one"), job_for(store, ["cpu"], name="two")
    launch(first)
    wait_for(lambda: first.status().state == "running")
    launch(second)
    wait_for(lambda: "place 1" in second.status().reason)
    second.ask_stop()
    status = end_of(second, 30)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.STOPPED_BEFORE_START)
    assert [ticket.job for ticket in queue.tickets()] == [first.path]
    first.ask_stop()
    end_of(first)


@pytest.mark.process
def test_job_without_devices_does_not_wait(store):
    first, other = job_for(store, ["cpu"], name="one"), job_for(store, [], code="print(1)", name="two")
    launch(first)
    wait_for(lambda: first.status().state == "running")
    start(other)
    assert end_of(other).state == "finished"
    first.ask_stop()
    end_of(first)


@pytest.mark.process
def test_tickets_drawn_at_once_are_all_different(tmp_path):
    queue = DeviceQueue(tmp_path / "queue", lambda path: False)
    threads = [threading.Thread(target=queue.enter, args=(tmp_path / str(i), ["cpu"])) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ticket.number for ticket in queue.tickets()] == list(range(1, 17))


def test_all_devices_or_none_are_held(tmp_path):
    queue = DeviceQueue(tmp_path / "queue", lambda path: False)
    both, one = queue.enter(tmp_path / "both", ["a", "b"]), queue.enter(tmp_path / "one", ["c"])
    held = queue.try_to_hold(both)
    assert held is not None
    assert queue.try_to_hold(Ticket(9, tmp_path / "x", ("c", "b"))) is None
    assert queue.try_to_hold(one) is not None  # "c" was let go again
    held.release()


@pytest.mark.process
def test_tickets_of_jobs_that_are_over_or_gone_block_nobody(store, queue, tmp_path):
    queue.enter(tmp_path / "gone", ["cpu"])
    job = job_for(store, ["cpu"], code="pass")
    assert job_is_over(tmp_path / "gone")
    launch(job)
    assert end_of(job).state == "finished"


def test_broken_ticket_is_passed_over(tmp_path):
    queue = DeviceQueue(tmp_path / "queue", lambda path: False)
    ticket = queue.enter(tmp_path / "job", ["cpu"])
    (tmp_path / "queue" / f"{0:010d}.json").write_text("{half a tick")
    assert queue.tickets() == [ticket]
    assert queue.try_to_hold(ticket) is not None
