"""The reader of metrics sees what the file says, however it grew; a long run is no more work than a short one."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clp_core.jobs import run_metrics
from clp_core.jobs.metrics import MetricsWriter, read_lines, read_tail
from clp_core.jobs.run_metrics import MAX_POINTS, RunMetrics, Thinned

QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

events = st.lists(
    st.one_of(
        st.tuples(st.just("line"), st.integers(0, 12), st.booleans(), st.integers(1, 3), st.integers(1, 60)),
        st.tuples(st.just("torn"), st.integers(0, 12), st.booleans(), st.integers(1, 3), st.integers(1, 60)),
        st.tuples(st.just("resume"), st.integers(0, 12), st.booleans(), st.integers(2, 3), st.integers(1, 60)),
    ),
    max_size=25,
)


def naive(lines):
    """What counts, by the rules in words: highest attempt, then the later; a resume voids what earlier attempts had."""
    held = {}
    for line in lines:
        if "resumed_from" in line:
            held = {k: v for k, v in held.items() if k[0] <= line["step"] or v["attempt"] >= line["attempt"]}
        else:
            key = (line["step"], "eval_loss" in line)
            if key not in held or line["attempt"] >= held[key]["attempt"]:
                held[key] = line
    return [held[key] for key in sorted(held)]


@given(events)
@QUIET
def test_reader_sees_the_same_however_the_file_grows(tmp_path, events):
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    reader = RunMetrics(path)
    written = []
    for i, (kind, step, is_evaluation, attempt, cut) in enumerate(events):
        line = {"step": step, "tokens": step, "bytes": step, "seconds": step, "attempt": attempt}
        figure = {"resumed_from": step} if kind == "resume" else {("eval_loss" if is_evaluation else "loss"): float(i)}
        data = json.dumps(line | figure).encode()
        with open(path, "ab") as file:
            if kind == "torn":  # a process died within the line, the next one begins a new line
                file.write(data[: min(cut, len(data) - 1)])
                file.flush()
                reader.read()
                file.write(b"\n")
            else:
                file.write(data[:5])
                file.flush()
                reader.read()
                file.write(data[5:] + b"\n")
                written.append(line | figure)
    expected = naive(written)
    assert read_lines(path) == expected
    for read in (reader.read(), RunMetrics(path).read()):
        scores = [(line["step"], line["eval_loss"]) for line in expected if "eval_loss" in line]
        assert [(int(p[0]), p[-1]) for p in read.evaluation_points("eval_loss")] == scores
        losses = [(line["step"], line["loss"]) for line in expected if "loss" in line]
        assert [(int(p[0]), p[-1]) for p in read.points("loss")] == losses


@given(st.lists(st.integers(1, 700), max_size=12), st.integers(0, 2**31))
@QUIET
def test_thinned_curve_keeps_extremes_ends_and_order(sizes, seed):
    values = np.random.default_rng(seed).normal(size=sum(sizes))
    every = np.stack([np.arange(len(values))] * 4 + [values], axis=1).astype(float)
    curve, start = Thinned(), 0
    for size in sizes:
        curve.add(every[start : start + size])
        start += size
    points = curve.points
    assert len(points) <= MAX_POINTS + 1
    assert (np.diff(points[:, 0]) > 0).all()
    assert np.isin(points[:, 0], every[:, 0]).all()
    assert np.array_equal(points[:, -1], values[points[:, 0].astype(int)])  # only what was measured
    if len(values):
        assert points[:, -1].max() == values.max()
        assert points[:, -1].min() == values.min()
        assert points[-1, 0] == len(values) - 1


def test_thinned_curve_does_not_depend_on_how_points_came():
    values = np.random.default_rng(3).normal(size=30_011)
    every = np.stack([np.arange(len(values))] * 4 + [values], axis=1).astype(float)
    whole, single = Thinned(), Thinned()
    whole.add(every)
    for i in range(0, len(every), 7):
        single.add(every[i : i + 7])
    assert single.bucket_size == whole.bucket_size
    assert np.array_equal(single.points, whole.points)
    assert MAX_POINTS / 2 - 10 < len(whole.points) <= MAX_POINTS
    assert np.allclose(single.means, whole.means)
    full = len(values) // whole.bucket_size
    expected = values[: full * whole.bucket_size].reshape(full, -1).mean(axis=1)
    assert np.allclose(whole.means[:full, -1], expected)
    assert whole.means[-1, -1] == pytest.approx(values[full * whole.bucket_size :].mean())


def lines_of(n, start=1):
    writer_lines = []
    for step in range(start, start + n):
        line = {"step": step, "tokens": 64 * step, "bytes": 200 * step, "seconds": step / 10, "attempt": 1}
        writer_lines.append(line | {"loss": 3 + 1 / step, "lr": 1e-3, "grad_norm": 1.0})
        if step % 50 == 0:
            writer_lines.append(line | {"eval_loss": 3.0, "bits_per_byte": 1 + 1 / step})
    return "".join(json.dumps(line) + "\n" for line in writer_lines)


def test_refresh_of_a_long_run_reads_and_parses_only_what_is_new(tmp_path, monkeypatch):
    parsed, path = [], tmp_path / "metrics.jsonl"
    original = run_metrics.parsed

    def counting(lines):
        parsed.append(len(lines))
        return original(lines)

    monkeypatch.setattr(run_metrics, "parsed", counting)
    path.write_text(lines_of(20_000))
    reader = RunMetrics(path).read()
    with open(path, "a") as file:
        file.write(lines_of(3, start=20_001))
    reader.read()
    reader.read()
    assert parsed == [20_400, 3, 0]
    assert reader.step == 20_003
    assert reader.points("loss")[-1, 0] == 20_003


def test_what_was_read_is_kept_and_gone_on_with(tmp_path, monkeypatch):
    path, kept = tmp_path / "metrics.jsonl", tmp_path / "run.npz"
    path.write_text(lines_of(3000))
    first = RunMetrics(path, kept).read()
    with open(path, "a") as file:
        file.write(lines_of(20, start=3001))
    seen = []
    original = run_metrics.parsed
    monkeypatch.setattr(run_metrics, "parsed", lambda lines: seen.append(len(lines)) or original(lines))
    again = RunMetrics(path, kept).read()
    assert seen == [20]
    fresh = RunMetrics(path).read()
    for figure in ("loss", "lr", "grad_norm", "bits_per_byte"):
        assert np.array_equal(again.points(figure), fresh.points(figure))
    assert np.array_equal(again.evaluation_points("eval_loss"), fresh.evaluation_points("eval_loss"))
    assert first.step == 3000


def test_kept_reading_of_another_file_or_of_rubbish_is_not_used(tmp_path):
    path, kept = tmp_path / "metrics.jsonl", tmp_path / "run.npz"
    path.write_text(lines_of(3000))
    RunMetrics(path, kept).read()
    other = tmp_path / "other.jsonl"
    other.write_text(lines_of(10))
    other.rename(path)  # shorter, and another file
    assert RunMetrics(path, kept).read().step == 10
    for rubbish in (b"rubbish", b"", b"PK\x03\x04 half a zip"):
        kept.write_bytes(rubbish)
        assert RunMetrics(path, kept).read().step == 10


def test_reading_goes_on_where_nothing_can_be_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(3000))
    reader = RunMetrics(path, tmp_path / "no such folder" / "run.npz").read()
    assert reader.step == 3000
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_file_that_shrinks_is_read_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines_of(100))
    reader = RunMetrics(path).read()
    path.write_text(lines_of(5))
    assert reader.read().step == 5


def test_writer_begins_a_new_line_after_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    MetricsWriter(path).write({"step": 3, "loss": 1.0})
    assert [line["step"] for line in read_lines(path)] == [1, 3]
    assert [line["step"] for line in read_tail(path)] == [1, 3]


@pytest.mark.parametrize("line", [b"NaN", b"[]", b"3", b'{"step": "x"}', b'{"loss": 1}', b"\xff\xfe", b"}{", b"1, 2"])
def test_line_that_is_no_measurement_is_passed_over(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + line + b'\n{"step": 2, "loss": 1.0}\n')
    assert [found["step"] for found in read_lines(path)] == [1, 2]
    assert RunMetrics(path).read().step == 2
