"""Process of a session of the playground: loads the models, completes prompts, and ends by itself."""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.jobs.job import Job
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.playground.answers import REFUSED, STOPPED, GenerateOptions
from clp_core.playground.generation import Event, LoadedModel, PromptEncoder, complete
from clp_core.playground.memory_placement import Needs, Place, take_place
from clp_core.playground.options import PlaygroundOptions
from clp_core.playground.session import ANSWERING, IDLE, READY, Session
from clp_core.progress import HEART, JOB_ENVIRONMENT, report_progress

log = logging.getLogger(__name__)

POLL_S = 0.1
QUEUE_POLL_S = 1.0
ON_REQUEST = "gave its memory back on request"


class Playground:
    """Completes the prompts in one job's directory."""

    def __init__(self, job: Job, options: PlaygroundOptions) -> None:
        """Prepare a session of a job; nothing is loaded yet."""
        self._session, self._options = Session(job), options
        self._queue = DeviceQueue.of_this_machine()
        self._place = Place("cpu", "")
        self._models: dict[str, LoadedModel] = {}
        self._end = ""
        self._queue_checked_at = 0.0
        self._answered = 0
        self._n_events = 0

    def run(self) -> dict[str, Any]:
        """Complete prompts until the session ends; return the reason.

        Raises:
            InputError: a model cannot be loaded, or they do not fit in memory.
        """
        job = self._session.job.path
        for name in ("requests", "answers"):
            (job / name).mkdir(exist_ok=True)
        self._place = take_place(Needs.of(self._options.models), job)
        try:
            self._place.hide_others()
            self._load()
            self._serve()
        finally:
            self._close()
            self._place.release(self._queue)
        outcome = "stopped" if self._end == ON_REQUEST else "finished"
        reason = {"reason": self._end, "reason_code": ReasonCode.ENDED.value}
        return {"outcome": outcome, **reason, "answered": self._answered}

    def _load(self) -> None:
        for i, name in enumerate(self._options.models):
            report_progress(f"loading {Path(name).name}", i / len(self._options.models))
            if self._is_ending():
                return
            self._models[name] = LoadedModel.load(PromptEncoder.open(name))
        self._write_memory()

    def _write_memory(self) -> None:
        """Write the device of the models and the memory of the session."""
        content = {
            "device": self._place.device,
            "name": self._place.name,
            "why": self._place.why,
            "memory_bytes": memory_bytes(self._place),
        }
        write_json(self._session.job.path / "session.json", content)

    def _serve(self) -> None:
        """Complete one prompt after the other until the session is to end."""
        self._rest(READY)
        since = time.monotonic()
        while not self._is_ending():
            number = self._next()
            if number is not None:
                self._answer(number)
                self._write_memory()
                self._rest(IDLE)
                since = time.monotonic()
            elif time.monotonic() - since < self._options.idle_seconds:
                time.sleep(POLL_S)
            else:
                self._end_if_idle()

    def _rest(self, phase: str) -> None:
        HEART.beat(phase, expect_next_s=self._options.idle_seconds + 60.0, force=True)

    def _end_if_idle(self) -> None:
        """Close, unless a prompt has come in this moment."""
        with self._session.lock:
            if self._next() is None:
                (self._session.job.path / "closed").touch()
                self._end = f"gave its memory back after {self._options.idle_seconds} s without a prompt"

    def _is_ending(self) -> bool:
        """Check whether the session is to end: on request, or because a run waits for its device."""
        if not self._end and self._session.job.stop_asked:
            self._end = ON_REQUEST
        now = time.monotonic()
        if not self._end and now - self._queue_checked_at > QUEUE_POLL_S:
            self._queue_checked_at = now
            if waiting := self._place.waiting(self._queue):
                self._end = f"gave {self._place.device} back to {Job(waiting[0].job).name}, which waited for it"
        return bool(self._end)

    def _next(self) -> int | None:
        """Find the first prompt without completions."""
        session = self._session
        return next((number for number in session.numbers() if not session.answers_file(number).exists()), None)

    def _answer(self, number: int) -> None:
        try:
            options = self._session.request(number)
        except InputError as error:
            log.warning("prompt %s is passed over: %s", number, error)
            self._write(number, {"model": None, "stopped": REFUSED, "error": str(error)})
            return
        stop = self._session.stop_file(number)
        expected = len(options.models) * options.max_tokens
        self._n_events = 0
        HEART.beat(ANSWERING, 0.0, expect_next_s=300.0, force=True)

        def emit(event: Event) -> None:
            if self._end and event.get("stopped") == STOPPED:
                event = event | {"error": self._end}
            self._write(number, event)
            self._n_events += 1
            HEART.beat(ANSWERING, min(1.0, self._n_events / expected), expect_next_s=300.0)

        complete(
            [self._models[name] for name in options.models],
            options,
            emit,
            lambda: stop.exists() or self._is_ending(),
        )
        self._answered += 1

    def _write(self, number: int, event: Event) -> None:
        """Append one event in a single system call."""
        with open(self._session.answers_file(number), "ab", buffering=0) as file:
            file.write((json.dumps(event, ensure_ascii=False) + "\n").encode())

    def _close(self) -> None:
        """Accept no further prompt, and end those that wait with the reason."""
        with self._session.lock:
            (self._session.job.path / "closed").touch()
            while (number := self._next()) is not None:
                reason = self._end or "the session ended before it could answer"
                self._write(number, {"model": None, "stopped": STOPPED, "error": reason})


def memory_bytes(place: Place) -> int:
    """Memory that this process takes on its device, in bytes."""
    if place.device == "cpu":
        return int(psutil.Process().memory_info().rss)
    import torch

    return int(torch.cuda.memory_reserved())


def complete_one_by_one(options: GenerateOptions, emit: Callable[[Event], None]) -> None:
    """Complete a prompt by one model after the other, each in memory alone; see ``generation.complete``.

    Raises:
        InputError: a model cannot be loaded, does not fit in memory, or cannot take the prompt.
    """
    encoders = [PromptEncoder.open(name) for name in options.models]
    for encoder in encoders:
        encoder.encode(options)
    needs = [Needs.of([encoder.folder]) for encoder in encoders]
    largest = max(needs, key=lambda need: need.cpu_bytes)
    place = take_place(replace(largest, gpu_bytes=max(need.gpu_bytes for need in needs)))
    try:
        place.hide_others()
        for number, encoder in enumerate(encoders):
            report_progress(f"loading {encoder.folder.name}")
            complete([LoadedModel.load(encoder)], options, partial(renumber, emit, number))
            gc.collect()
    finally:
        place.release(DeviceQueue.of_this_machine())


def renumber(emit: Callable[[Event], None], number: int, event: Event) -> None:
    """Emit an event as one of the model with this number."""
    emit(event | {"model": number})


def job_of_this_process(models: Sequence[str]) -> Job:
    """Job that this process runs in.

    Raises:
        InputError: it does not run in a job.
    """
    folder = os.environ.get(JOB_ENVIRONMENT)
    if not folder:
        raise InputError(f"clp playground is what the page starts; ask `clp generate {' '.join(models)} --prompt TEXT`")
    return Job(Path(folder))
