"""The commands that let models write: ``clp generate``, and ``clp playground``, which the page of that name starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clp_core.cli.output import Json, echo, emit
from clp_core.errors import ClpError
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.playground.answers import FAILED, Completion, GenerateOptions
from clp_core.playground.options import PlaygroundOptions

WAIT_POLICY = ("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait for each other spin by default: beside a run that uses all cores, that makes a token 20 times as
slow, and takes the run's time. It must stand before torch is loaded."""


def generate_command(options: GenerateOptions, as_json: Json = False) -> None:
    """Let models go on with a prompt, one after the other; their text is shown as it comes."""
    os.environ.setdefault(*WAIT_POLICY)
    from clp_core.playground.server import complete_one_by_one

    refuse_access_tokens([options.prompt])
    answers = [Completion(model) for model in options.models]

    def on_event(event: Mapping[str, Any]) -> None:
        number = event["model"]
        answers[number] = answers[number].after(event)
        if not as_json:
            show(event, answers[number], options)

    complete_one_by_one(options, on_event)
    if as_json:
        emit({"answers": [answer.to_json() for answer in answers]}, as_json)
    if failed := next((answer for answer in answers if answer.stopped == FAILED), None):
        raise ClpError(f"{failed.model} could not answer: {failed.error}")


def show(event: Mapping[str, Any], answer: Completion, options: GenerateOptions) -> None:
    """Print what is new of an answer: the prompt before it, its text, and the figures at its end."""
    if "prompt_tokens" in event:
        echo(f"== {Path(answer.model).name}, {answer.prompt_tokens} tokens of prompt")
        echo(options.prompt, nl=False)
    echo(event.get("text", ""), nl=False)
    if answer.stopped:
        told = [f"{answer.tokens} tokens", f"{answer.tokens_per_s or 0:.0f} a second"]
        if answer.bits_per_byte is not None:
            told.append(f"{answer.bits_per_byte:.2f} bits a byte of its own text")
        echo(f"\n-- {', '.join([*told, answer.stopped])}")


def playground_command(options: PlaygroundOptions, as_json: Json = False) -> None:
    """Hold models in memory and answer the prompts of the page Playground; ends by itself when none comes."""
    os.environ.setdefault(*WAIT_POLICY)
    from clp_core.playground.server import Playground, job_of_this_process

    job = job_of_this_process(options.models)
    emit(Playground(job, options).run(), as_json, lambda result: echo(result["reason"]))
