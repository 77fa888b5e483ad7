"""Measure what watching and comparing runs costs: the page Compare with many long runs, and the reader of a live run.

    python benchmarks/runs.py [--runs 100 --points 10000]

The runs are directories as a trainer leaves them, each with as many lines of loss and as many evaluations as asked. The
page is run as the server runs it (streamlit's AppTest: the script and what it would send, without network and drawing).
It is timed at the first opening of a server that has never seen the runs, at the first opening of another server (what
was read is kept in the workspace's cache), and at reruns that change the baseline. The reader is timed on taking in one
new line of runs of 1,000 to 1,000,000 lines: its work must not grow with them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def lines_of(n: int, speed: float, generator: np.random.Generator) -> str:
    """Return the metrics file of a run of ``n`` steps that is scored after every one."""
    noise = generator.normal(scale=0.02, size=n + 1)
    out = []
    for step in range(1, n + 1):
        line = {"step": step, "tokens": 4096 * step, "bytes": 14_000 * step, "seconds": step / 3, "time": 1.7e9 + step}
        loss = 3 + 4 * 2.718 ** (-speed * step / n) + float(noise[step])
        figures = {"attempt": 1, "loss": loss, "lr": 1e-4, "grad_norm": 0.7, "tokens_per_s": 12_000.0, "memory": 4.1e10}
        out.append(json.dumps(line | figures | {"busy": 0.97}))
        scores = {"attempt": 1, "eval_loss": loss, "bits_per_byte": loss / 3, "unknown_share": 0.0}
        out.append(json.dumps(line | scores))
    return "\n".join(out) + "\n"


def make_runs(n_runs: int, n_points: int) -> list[str]:
    """Make the directories of runs in the current workspace; return their ids, oldest first."""
    from made_runs import make_run

    from clp_core.workspace import Workspace

    generator = np.random.default_rng(0)
    ids = []
    for i in range(n_runs):
        job = make_run(Workspace.current(), f"run {i}", [], steps=n_points, seed=i)
        job.metrics_file.write_text(lines_of(n_points, 2 + 8 * generator.random(), generator))
        ids.append(job.id)
    return ids


def open_compare(ids: list[str]) -> None:
    """Open the page in this process, then rerun it with other baselines; print the seconds as JSON."""
    from streamlit.testing.v1 import AppTest

    def page() -> AppTest:
        app = AppTest.from_file(ROOT / "app.py", default_timeout=600)
        app.query_params["runs"] = ",".join(ids)
        app.query_params["baseline"] = ids[0]
        return app.run()

    app = page()  # app.py and the overview: what a server does once
    began = time.perf_counter()
    app = app.switch_page("pages/compare.py").run()
    first = time.perf_counter() - began
    assert not app.exception
    assert len(app.multiselect[0].value) == len(ids) - 1
    reruns = []
    for key in ids[1:6]:
        began = time.perf_counter()
        next(box for box in app.selectbox if box.label == "Baseline").set_value(key).run()
        reruns.append(time.perf_counter() - began)
        assert not app.exception
    sent = len(app.get("plotly_chart")[0].proto.spec)
    print(json.dumps({"first": first, "rerun": statistics.median(reruns), "sent_mb": sent / 1e6}))


def in_a_new_process(ids: list[str]) -> dict[str, float]:
    """Open the page in a process of its own; return its figures."""
    command = [sys.executable, __file__, "--open", ",".join(ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.strip().splitlines()[-1])


def reader_figures(folder: Path) -> dict[int, float]:
    """Return the milliseconds it takes to take in one new line and have the points of a curve, by lines in the file."""
    from clp_core.jobs.run_metrics import RunMetrics

    found = {}
    for n in (1_000, 10_000, 100_000, 1_000_000):
        path = folder / f"{n}.jsonl"
        line = {"step": 0, "tokens": 1, "bytes": 1, "seconds": 1.0, "attempt": 1, "loss": 3.0, "lr": 1e-3}
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line | {"step": step, "loss": 3 + 1 / step}) + "\n" for step in range(1, n + 1))
        reader = RunMetrics(path).read()
        times = []
        for step in range(n + 1, n + 102):
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"step": step}) + "\n")
            began = time.perf_counter()
            reader.read().points("loss")
            times.append(time.perf_counter() - began)
        found[n] = 1000 * statistics.median(times)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--open", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        open_compare(arguments.open.split(","))
        return
    with tempfile.TemporaryDirectory() as folder:
        reader = reader_figures(Path(folder))
        os.environ |= {"CLP_WORKSPACE": f"{folder}/workspace", "CLP_QUEUE": f"{folder}/queue"}
        ids = make_runs(arguments.runs, arguments.points)
        unseen, seen = in_a_new_process(ids), in_a_new_process(ids)
    print(f"page Compare, {arguments.runs} runs, {arguments.points} losses and as many evaluations each:")
    print(f"  rerun with another baseline   {1000 * unseen['rerun']:6.0f} and {1000 * seen['rerun']:.0f} ms")
    print(f"  opened by another server      {1000 * seen['first']:6.0f} ms")
    print(f"  opened for the first time     {1000 * unseen['first']:6.0f} ms (every line is read once)")
    print(f"  the figure that is sent       {seen['sent_mb']:6.1f} MB")
    print("reader of a live run, one new line and the points of its curve:")
    for n, milliseconds in reader.items():
        print(f"  after {n:9,} lines {milliseconds:8.3f} ms")
    print(f"  longest over shortest run: {reader[1_000_000] / reader[1_000]:.2f} x")


if __name__ == "__main__":
    main()
