"""The metrics of a run as pages draw them: read only where the file grew, and thinned to what a chart can show."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clp_core.jobs.job import Job
from clp_core.jobs.metrics import AXES, EVALUATED, FIGURES, Line, deduplicated, is_evaluation, parsed, whole_lines

log = logging.getLogger(__name__)

KEPT_FILE = "curves.npz"
MAX_POINTS = 2000
"""A curve is never drawn with more points."""
KEEP_AFTER_BYTES = 200_000
"""Only what took a while to read is kept in the cache."""


class Thinned:
    """A curve in at most ``MAX_POINTS`` measured points, however many were added.

    Neighbouring points form a bucket, of which the lowest and the highest are kept, so that no spike is lost. When
    there are too many buckets, each two become one. A point is ``[step, tokens, bytes, seconds, value]``. The mean of
    every bucket is known too, for a line that is to be smoothed: extremes have no mean of their own.
    """

    WIDTH = len(AXES) + 1
    PARTS = ("lows", "highs", "sums", "last")

    def __init__(self, limit: int = MAX_POINTS) -> None:
        """Begin without a point; never show more than ``limit``."""
        self._buckets = limit // 2 - 1
        self.lows = np.empty((0, self.WIDTH))
        self.highs = np.empty((0, self.WIDTH))
        self.sums = np.empty((0, self.WIDTH))
        self.last = np.empty((0, self.WIDTH))
        self.open_count = 0
        self.bucket_size = 2

    def add(self, points: np.ndarray) -> None:
        """Add points ``[n, 5]`` that follow those before."""
        if not len(points):
            return
        self.last = points[-1:]
        if self.open_count:  # the last bucket is not full
            room = self.bucket_size - self.open_count
            head, points = points[:room], points[room:]
            self._close(np.concatenate([self.lows[-1:], self.highs[-1:], head]), self.sums[-1] + head.sum(axis=0), 1)
            self.open_count = (self.open_count + len(head)) % self.bucket_size
        full = len(points) // self.bucket_size * self.bucket_size
        if full:
            grouped = points[:full].reshape(-1, self.bucket_size, self.WIDTH)
            rows = np.arange(len(grouped))
            self.lows = np.concatenate([self.lows, grouped[rows, grouped[:, :, -1].argmin(axis=1)]])
            self.highs = np.concatenate([self.highs, grouped[rows, grouped[:, :, -1].argmax(axis=1)]])
            self.sums = np.concatenate([self.sums, grouped.sum(axis=1)])
        if len(rest := points[full:]):
            self._close(rest, rest.sum(axis=0), 0)
            self.open_count = len(rest)
        while len(self.lows) > self._buckets:
            self._halve()

    def _close(self, members: np.ndarray, total: np.ndarray, replaced: int) -> None:
        """Put a bucket of these members at the end, in place of as many of the last ones."""
        keep = len(self.lows) - replaced
        low, high = members[members[:, -1].argmin()], members[members[:, -1].argmax()]
        self.lows = np.concatenate([self.lows[:keep], low[None]])
        self.highs = np.concatenate([self.highs[:keep], high[None]])
        self.sums = np.concatenate([self.sums[:keep], total[None]])

    def _halve(self) -> None:
        """Make one bucket of each two; a last one without a partner is open from now on."""
        n = len(self.lows)
        filled = (n - 1) * self.bucket_size + (self.open_count or self.bucket_size)
        pairs = n // 2
        low, high = (rows[: 2 * pairs].reshape(pairs, 2, self.WIDTH) for rows in (self.lows, self.highs))
        index = np.arange(pairs)
        rest_low, rest_high = self.lows[2 * pairs :], self.highs[2 * pairs :]
        self.lows = np.concatenate([low[index, low[:, :, -1].argmin(axis=1)], rest_low])
        self.highs = np.concatenate([high[index, high[:, :, -1].argmax(axis=1)], rest_high])
        totals = self.sums[: 2 * pairs].reshape(pairs, 2, self.WIDTH).sum(axis=1)
        self.sums = np.concatenate([totals, self.sums[2 * pairs :]])
        self.bucket_size *= 2
        self.open_count = filled % self.bucket_size

    @property
    def points(self) -> np.ndarray:
        """The points to draw, by step: ``[n, 5]``, at most ``MAX_POINTS``."""
        every = np.concatenate([self.lows, self.highs, self.last])
        return np.unique(every, axis=0)  # sorted by step, which comes first

    @property
    def means(self) -> np.ndarray:
        """The mean point of every bucket, ``[n, 5]``, at most half of ``MAX_POINTS``."""
        counts = np.full((len(self.sums), 1), float(self.bucket_size))
        if self.open_count:
            counts[-1] = self.open_count
        return self.sums / counts

    def as_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return all there is as arrays, for the cache."""
        state = np.array([self.open_count, self.bucket_size])
        return {f"{prefix}.{key}": getattr(self, key) for key in self.PARTS} | {f"{prefix}.state": state}

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> Thinned:
        """Return what ``as_arrays`` was made of."""
        curve = cls()
        for key in cls.PARTS:
            setattr(curve, key, arrays[f"{prefix}.{key}"])
        curve.open_count, curve.bucket_size = (int(value) for value in arrays[f"{prefix}.state"])
        return curve


class RunMetrics:
    """The metrics of one run as pages draw them. ``read`` looks only at what is new, however long the run."""

    def __init__(self, path: Path, kept: Path | None = None) -> None:
        """Take a file that need not be there yet, and where to keep what was read of it, if anywhere."""
        self._path = path
        self._kept = kept
        self._lock = threading.Lock()
        self._forget()
        if kept is not None:
            self._recall(kept)

    def _forget(self) -> None:
        self._offset = 0
        self._kept_offset = 0
        self._last_steps = {True: -1, False: -1}
        self.curves = {figure: Thinned() for figure in (*FIGURES, *EVALUATED)}
        self._evaluations: dict[str, list[np.ndarray]] = {measure: [] for measure in EVALUATED}
        self.last: Line = {}

    def read(self) -> RunMetrics:
        """Take in the lines that were written since the last time; return this. Several threads may call it."""
        with self._lock:
            self._read()
        return self

    def _read(self) -> None:
        if self._path.is_file() and self._path.stat().st_size < self._offset:
            self._forget()
        lines, offset = whole_lines(self._path, self._offset)
        new = list(parsed(lines))
        if new and not self._follow(new):
            self._forget()
            lines, offset = whole_lines(self._path, 0)
            new = deduplicated(parsed(lines))
            self._note_last(new)
        self._offset = offset
        self._take(new)
        if self._kept is not None and self._offset - self._kept_offset > KEEP_AFTER_BYTES:
            self._keep(self._kept)

    def _follow(self, lines: Sequence[Line]) -> bool:
        """Say whether new lines come after all those before, as they do until an attempt goes on from a checkpoint."""
        for line in lines:
            if "resumed_from" in line:
                if line["step"] < max(self._last_steps.values()):
                    return False
                continue
            kind = is_evaluation(line)
            if line["step"] <= self._last_steps[kind]:
                return False
            self._last_steps[kind] = line["step"]
        return True

    def _note_last(self, lines: Sequence[Line]) -> None:
        for line in lines:
            kind = is_evaluation(line)
            self._last_steps[kind] = max(self._last_steps[kind], line["step"])

    def _take(self, lines: Sequence[Line]) -> None:
        measured = [line for line in lines if "resumed_from" not in line]
        scores = [line for line in measured if is_evaluation(line)]
        losses = [line for line in measured if not is_evaluation(line)]
        for lines_of_kind, figures in ((losses, FIGURES), (scores, EVALUATED)):
            if not lines_of_kind:
                continue
            axes = np.stack([column(lines_of_kind, axis) for axis in AXES], axis=1)
            for figure in figures:
                values = column(lines_of_kind, figure)
                known = np.isfinite(values)
                if known.any():
                    points = np.column_stack([axes[known], values[known]])
                    self.curves[figure].add(points)
                    self._evaluations.get(figure, []).append(points)
        if measured:
            self.last = measured[-1]

    def _recall(self, kept: Path) -> None:
        if not kept.is_file() or not self._path.is_file():
            return
        try:
            with np.load(kept, allow_pickle=False) as arrays:
                told = json.loads(bytes(arrays["told"]))
                stat = self._path.stat()
                if told["inode"] != stat.st_ino or told["offset"] > stat.st_size:
                    return
                self.curves = {figure: Thinned.from_arrays(figure, arrays) for figure in self.curves}
                self._evaluations = {measure: [arrays[f"{measure}.every"]] for measure in EVALUATED}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            self._forget()
            return
        self.last = told["last"]
        self._offset = self._kept_offset = told["offset"]
        self._last_steps = {True: told["last_steps"][0], False: told["last_steps"][1]}

    def _keep(self, kept: Path) -> None:
        told = {
            "inode": self._path.stat().st_ino,
            "offset": self._offset,
            "last_steps": [self._last_steps[True], self._last_steps[False]],
            "last": self.last,
        }
        arrays = {"told": np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)}
        for figure, curve in self.curves.items():
            arrays |= curve.as_arrays(figure)
        arrays |= {f"{measure}.every": self.evaluation_points(measure) for measure in EVALUATED}
        self._kept_offset = self._offset  # a full disk is not asked again at once
        part = kept.with_name(f".{kept.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with open(part, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(part, kept)
        except OSError as error:
            log.warning("what was read of %s is not kept: %s", self._path, error)
            part.unlink(missing_ok=True)

    def evaluation_points(self, measure: str) -> np.ndarray:
        """Return one measure of every evaluation, ``[n, 5]``: step, tokens, bytes, seconds, value."""
        return np.concatenate([np.empty((0, Thinned.WIDTH)), *self._evaluations[measure]])

    def points(self, measure: str) -> np.ndarray:
        """Return the points of a measure to draw, ``[n, 5]``, at most ``MAX_POINTS``."""
        return self.curves[measure].points

    def means(self, measure: str) -> np.ndarray:
        """Return the mean points of the buckets of a curve, ``[n, 5]``: the points themselves while there are few."""
        return self.curves[measure].means

    def latest(self, figure: str) -> float | None:
        """Return the last value of a figure, or ``None``."""
        last = self.curves[figure].last
        return float(last[0, -1]) if len(last) else None

    @property
    def step(self) -> int:
        """Steps done at the last line."""
        return int(self.last.get("step", 0))


def column(lines: Sequence[Line], name: str) -> np.ndarray:
    """Return one figure of every line, ``[n]``; what a line does not hold is not a number."""
    return np.array([float_of(line.get(name)) for line in lines], dtype=np.float64)


def float_of(value: object) -> float:
    """Return a value that is a number; not a number where it is none, or an integer that no float can hold."""
    try:
        return float(value) if isinstance(value, int | float) and type(value) is not bool else math.nan
    except OverflowError:
        return math.nan


def metrics_of_run(job: Job) -> RunMetrics:
    """Return the reader of a run's metrics, which keeps what it read in the run's directory."""
    return RunMetrics(job.metrics_file, job.path / KEPT_FILE).read()
