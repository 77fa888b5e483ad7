"""Prove the workbench on a GPU: transfers, runs, throughput, an experiment, savings, neighbours.

    python benchmarks/gpu.py [--items transfer,train] [--minutes 9] [--output build/gpu] [--resume]
    python benchmarks/gpu.py --smoke     the same code in miniature on the CPU
    python benchmarks/gpu.py --list      the items and their time limits

Each item runs in a process of its own that is killed at its limit with everything it has started; the others go on.
``--output`` gets one JSON file per item, ``gpu.json`` with all of them and ``report.md``, rewritten as each item ends.
The exit code is 1 where an item failed. A bare machine without network: see docs/gpu.md (``--pack``, ``--join``).
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from gpu_items.contain import Outcome, run_contained  # noqa: E402 (found by the path above)
from gpu_items.findings import FAILED, INCOMPLETE, PASSED, SKIPPED, Findings, read_json, write_json  # noqa: E402
from gpu_items.report import report_of  # noqa: E402
from gpu_items.setting import Setting, environment_of, gpu_bytes, gpu_name, wait_until  # noqa: E402

SMOKE_LIMIT_S = 300.0
LEAST_LIMIT_S = 20.0
LOG_TAIL = 3000
GPU_SLACK_BYTES = 64 << 20
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "faiss-gpu", "faiss-gpu-cuvs", "faiss-cpu", "torchao")


@dataclass(frozen=True)
class Item:
    """One part of the proof.

    Attributes:
        title: what the report calls it.
        minutes: its time limit at full size.
        module: module of ``gpu_items`` whose ``run`` does it.
    """

    title: str
    minutes: float
    module: str


ITEMS = {
    "transfer": Item("Transfers on the GPU equal those on the CPU", 2, "transfers"),
    "train": Item("Runs: loss curves, stop, kill, queue, out of memory", 5, "runs"),
    "throughput": Item("Throughput, memory and MFU against a bare loop", 7, "throughput"),
    "experiment": Item("SmolLM2-135M to German, several arms and seeds", 9, "experiment"),
    "savings": Item("What compilation, fused losses and 8-bit states save", 4, "savings"),
    "faiss": Item("Neighbours on the GPU equal those on the CPU", 2, "neighbours"),
}
"""Most valuable first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    args = parser().parse_args(arguments)
    if args.list:
        for name, item in ITEMS.items():
            print(f"{name:11} {item.minutes:4.0f} min  {item.title}")
        return 0
    if args.pack or args.join:
        from gpu_items import kit

        return (
            kit.pack(args.pack, args.source, args.corpora, faiss=not args.no_faiss)
            if args.pack
            else kit.join(args.join)
        )
    if args.child:
        return run_child(args.child, Path(args.work))
    names = args.items.split(",")
    if unknown := [name for name in names if name not in ITEMS]:
        print(f"--items: {unknown[0]} is unknown; use {', '.join(ITEMS)}", file=sys.stderr)
        return 2
    if not args.smoke and not gpu_name():
        print("no GPU is found; --smoke runs the same code in miniature on the CPU", file=sys.stderr)
        return 2
    return Proof(args, names).run()


def parser() -> argparse.ArgumentParser:
    """Options of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--items", default=",".join(ITEMS), help="items to run, by name (default: all)")
    made.add_argument("--minutes", type=float, default=0.0, help="time for all of them; longer limits shrink to it")
    made.add_argument("--limit", action="append", default=[], metavar="ITEM=SECONDS", help="another limit for an item")
    made.add_argument("--smoke", action="store_true", help="in miniature on the CPU")
    made.add_argument("--output", type=Path, default=ROOT / "build" / "gpu", help="folder of the results")
    made.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-work", help="folder of workspaces and logs")
    made.add_argument("--resume", action="store_true", help="leave out the items that have passed in --output")
    made.add_argument("--source", default="", help="folder of the experiment's source model")
    made.add_argument("--corpora", default="", help="folder with de/*.txt.xz and en/*.txt.xz")
    made.add_argument("--tokens", type=int, default=20_000_000, help="tokens per run of the experiment")
    made.add_argument("--list", action="store_true", help="print the items and their time limits")
    made.add_argument("--pack", type=Path, metavar="DIR", help="collect what a bare machine lacks into a folder")
    made.add_argument("--no-faiss", action="store_true", help="with --pack: leave out FAISS for GPUs (360 MB)")
    made.add_argument("--join", type=Path, metavar="DIR", help="join and check the parts of such a folder")
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made


class Proof:
    """One call: its items, their limits, and what is written as each ends."""

    def __init__(self, args: argparse.Namespace, names: Sequence[str]) -> None:
        """Take the options and the names of the items."""
        self._args = args
        self._names = names
        self._limits = limits_of(names, args.smoke, args.limit)
        self._began = time.monotonic()
        self._output, self._work = args.output.absolute(), args.work.absolute()
        known = read_json(self._output / "gpu.json") if args.resume else {}
        is_same_kind = known.get("smoke") == args.smoke  # a miniature stands for nothing at full size
        self._results: dict[str, dict[str, Any]] = dict(known["items"]) if is_same_kind else {}

    def run(self) -> int:
        """Run the items; return 1 where one failed."""
        self._output.mkdir(parents=True, exist_ok=True)
        for place, name in enumerate(self._names):
            if self._args.resume and self._results.get(name, {}).get("status") == PASSED:
                print(f"{name}: passed in an earlier call", flush=True)
                continue
            result = self.run_item(name, self.limit_of(place))
            self._results[name] = result
            self.write(name)
            print(f"{name}: {result['status']} in {result['seconds']:.0f} s {result['error']}".rstrip(), flush=True)
        self.write()
        print(f"\n{(self._output / 'report.md').read_text(encoding='utf-8')}", flush=True)
        return int(any(self._results[name]["status"] == FAILED for name in self._names))

    def limit_of(self, place: int) -> float:
        """Limit of an item in seconds: its own, or its part of what is left of the time for all."""
        own = self._limits[self._names[place]]
        if not self._args.minutes:
            return own
        left = 60 * self._args.minutes - (time.monotonic() - self._began)
        later = sum(self._limits[name] for name in self._names[place:])
        return min(own, max(LEAST_LIMIT_S, left * own / later))

    def run_item(self, name: str, limit_s: float) -> dict[str, Any]:
        """Run one item in a process of its own; return its result, an error included."""
        args, work = self._args, self._work / name
        clear(work, keep=name == "experiment" and args.resume)
        device = "cpu" if args.smoke else "cuda"
        setting = Setting(args.smoke, device, work, limit_s, args.source, args.corpora, args.tokens)
        write_json(work / "setting.json", setting.to_json())
        command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--work", str(work)]
        used = None if args.smoke else gpu_bytes()
        outcome = run_contained(command, limit_s, work / "log.txt", environment_of(setting))
        findings = Findings.of_file(work / "findings.json")
        if used and (kept := bytes_kept(used[0])):
            findings.check("the GPU's memory is free after the item", False, f"{kept / 1e6:,.0f} MB are still in use")
        found = read_json(findings.path)
        result = {"item": name, "title": ITEMS[name].title, **verdict(outcome, found, work, limit_s)}
        result |= {"seconds": round(outcome.seconds, 1), "cpu_seconds": round(outcome.cpu_seconds, 1)}
        result |= {"limit_s": limit_s, "left_processes": outcome.left}
        result |= {"checks": found.get("checks", {}), "figures": found.get("figures", {})}
        return result

    def write(self, name: str = "") -> None:
        """Write the item's file, the combined one and the report."""
        if name:
            write_json(self._output / f"{name}.json", self._results[name])
        items = {key: self._results[key] for key in ITEMS if key in self._results}
        content = {"smoke": self._args.smoke, "machine": machine(self._args.smoke), "items": items}
        write_json(self._output / "gpu.json", content)
        (self._output / "report.md").write_text(report_of(content), encoding="utf-8")


def limits_of(names: Sequence[str], smoke: bool, given: Sequence[str]) -> dict[str, float]:
    """Limits in seconds by item; ``given`` holds those that the user names, as ``ITEM=SECONDS``."""
    limits = {name: SMOKE_LIMIT_S if smoke else 60 * ITEMS[name].minutes for name in names}
    for told in given:
        name, _, seconds = told.partition("=")
        limits[name] = float(seconds)
    return limits


def clear(work: Path, *, keep: bool) -> None:
    """Empty an item's folder, or keep what an earlier call has made there for it to resume."""
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "findings.json").unlink(missing_ok=True)


def verdict(outcome: Outcome, found: Mapping[str, Any], work: Path, limit_s: float) -> dict[str, Any]:
    """Status of an item, and the reason where it failed."""
    checks = found.get("checks", {})
    failed = [f"{name}: {check['detail']}" for name, check in checks.items() if check["verdict"] == FAILED]
    error = ""
    if outcome.timed_out:
        error = f"killed at its limit of {limit_s:g} s"
    elif outcome.code:
        error = found.get("error") or f"ended with exit code {outcome.code}"
    elif failed:
        error = "; ".join(failed)
    log = work / "log.txt"
    tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if error and log.is_file() else ""
    return {"status": FAILED if error else status_of(checks), "error": error, "log": tail}


def status_of(checks: Mapping[str, Mapping[str, str]]) -> str:
    """Return the status of an item that has not failed."""
    verdicts = {check["verdict"] for check in checks.values()}
    if INCOMPLETE in verdicts:
        return INCOMPLETE
    return SKIPPED if verdicts == {SKIPPED} else PASSED


def bytes_kept(before: int) -> int:
    """GPU memory in bytes that is still in use beyond what was before an item, once its processes are gone."""

    def kept() -> int:
        used = gpu_bytes()
        return max(0, used[0] - before) if used else 0

    try:
        wait_until(lambda: kept() < GPU_SLACK_BYTES, 10, "the GPU's memory being free")
    except TimeoutError:
        return kept()
    return 0


def machine(smoke: bool) -> dict[str, Any]:
    """Describe what the figures are measured on."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"gpu": "" if smoke else gpu_name(), "cores": os.cpu_count(), "versions": versions}


def run_child(name: str, work: Path) -> int:
    """Do an item in this process, and leave the reason where it raises."""
    setting = Setting.of_json(read_json(work / "setting.json"))
    findings = Findings(work / "findings.json")
    findings.save()
    try:
        importlib.import_module(f"gpu_items.{ITEMS[name].module}").run(setting, findings)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        findings.error = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        findings.save()
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
