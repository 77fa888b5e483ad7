"""The metrics of a run: an append-only file of JSON lines, written line by line and read each time only where it grew.

A line of loss stands for the steps since the line before it, a line with ``eval_loss`` for the held-out text after its
step. An attempt that goes on from a checkpoint writes first a line with ``resumed_from``: what earlier attempts had
measured beyond that step was lost with them, and is measured again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clp_core.errors import FULL_DISK
from clp_core.files.json_files import parsed_json

log = logging.getLogger(__name__)

AXES = ("step", "tokens", "bytes", "seconds")
"""What a point is measured by: optimiser steps, tokens and text bytes seen, seconds of training."""
FIGURES = ("loss", "lr", "lr_embeddings", "teacher_weight", "grad_norm", "tokens_per_s", "mfu", "memory", "busy")
"""What a line of loss holds: nats a token, rates of body and embeddings, the part of the teacher if there is one, norm,
tokens/s, share of the device's peak where that is known, bytes, and the share of the device that was busy."""
EVALUATED = ("eval_loss", "perplexity", "bits_per_byte", "unknown_share")
"""What a line of an evaluation holds: nats a token, its exponential, bits a byte of text, share of unknown tokens."""

Line = dict[str, Any]
LARGEST_STEP = 1 << 53
"""Steps are exact as floating-point numbers up to here."""


class MetricsWriter:
    """Appends lines; after an attempt that died within a line, begins a new one."""

    def __init__(self, path: Path) -> None:
        """Close a torn last line."""
        self._path = path
        self._waiting = b""
        if path.is_file() and path.stat().st_size:
            with open(path, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line, in one call to the system; what a full disk does not take waits for the next line."""
        self._waiting += (json.dumps(line) + "\n").encode()
        try:
            self.flush()
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            log.warning("the disk is full: lines of %s wait for room", self._path.name)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: the disk is still full, or fails.
        """
        with open(self._path, "ab", buffering=0) as file:
            while self._waiting:
                self._waiting = self._waiting[file.write(self._waiting) :]


def parsed(lines: Sequence[bytes]) -> Iterator[Line]:
    """Yield the JSON objects among lines; a line that was torn by a crash is passed over."""
    try:
        found = parsed_json(b"[" + b",".join(lines) + b"]")  # one call is twice as fast as one a line
    except ValueError:
        found = [torn_or_whole(line) for line in lines]
    yield from (line for line in found if isinstance(line, dict) and is_measured(line))


def torn_or_whole(line: bytes) -> Any:
    """Return what a line holds; ``None`` if it is torn."""
    try:
        return parsed_json(line)
    except ValueError:
        return None


def is_measured(line: Line) -> bool:
    """Say whether a line holds a step; what else a file may hold is nothing that was measured."""
    step = line.get("step")
    return type(step) is int and abs(step) <= LARGEST_STEP


def is_evaluation(line: Line) -> bool:
    """Say whether a line is one of the held-out text."""
    return "eval_loss" in line


def deduplicated(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that count, by step: of two of one kind and step the highest attempt's, of equals the later."""
    held: dict[tuple[int, bool], Line] = {}
    for line in lines:
        if "resumed_from" in line:
            attempt = line.get("attempt", 1)
            lost = [key for key in held if key[0] > line["step"] and held[key].get("attempt", 1) < attempt]
            for key in lost:
                del held[key]
            continue
        key = (line["step"], is_evaluation(line))
        if key not in held or line.get("attempt", 1) >= held[key].get("attempt", 1):
            held[key] = line
    return [held[key] for key in sorted(held)]


def read_lines(path: Path) -> list[Line]:
    """Return all lines of a file that count, in the order of their steps; an unfinished last line waits."""
    return deduplicated(parsed(whole_lines(path, 0)[0]))


def read_tail(path: Path, n_bytes: int = 16_384) -> list[Line]:
    """Return the last whole lines of a file without reading the rest."""
    if not path.is_file():
        return []
    start = max(0, path.stat().st_size - n_bytes)
    lines, _ = whole_lines(path, start)
    return list(parsed(lines[1:] if start else lines))


def whole_lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    """Return the finished lines of a file from a place on, and where the next one begins."""
    if not path.is_file():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [line for line in data[:end].splitlines() if line.strip()], offset + end
