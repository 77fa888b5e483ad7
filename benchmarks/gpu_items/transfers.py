"""Transfers with ``--device cuda`` against the CPU's: the rows within rounding, and the seconds of both."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.demo import DATA
from clp_core.embeddings.matmul_backend import TorchBackend
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from gpu_items import made
from gpu_items.findings import NEEDS_GPU, Findings
from gpu_items.setting import Setting, note

METHODS = {"demo": ("clp", "clp-sparse", "clp-topk", "linear", "omp", "auto"), "made": ("clp", "clp-topk", "linear")}
SMOKE_METHODS = ("clp", "linear")
MADE_ROWS, MADE_SOURCE_WIDTH, MADE_HELPER_WIDTH = 50_000, 2048, 768
SMOKE_ROWS, SMOKE_SOURCE_WIDTH, SMOKE_HELPER_WIDTH = 400, 64, 64
UNIT_OF_LAST_PLACE = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-23}
FLOAT32_PRODUCTS = 1e-4
"""Relative difference of a row that float32 products summed in another order may cause before it is stored."""
CHOOSER = "device_named"
"""Function of the workbench that chooses a transfer's device, wherever it is imported."""

MOST_BEYOND = 1e-3
"""Share of rows that may differ by more: a tie between neighbours, or weights that cancel."""


def run(setting: Setting, findings: Findings) -> None:
    """Transfer both pairs with several methods on both devices."""
    pairs = {"demo": (DATA / "source", DATA / "helper")}
    rows, *widths = (
        (SMOKE_ROWS, SMOKE_SOURCE_WIDTH, SMOKE_HELPER_WIDTH)
        if setting.smoke
        else (MADE_ROWS, MADE_SOURCE_WIDTH, MADE_HELPER_WIDTH)
    )
    pairs["made"] = made.write_pair(setting.work / "made", rows, *widths)
    if setting.smoke:
        findings.skip("speed against the CPU", f"{NEEDS_GPU}; here torch's products on the CPU stand in for it")
    else:  # what happens only once is not timed: imports, the GPU's context
        compared(setting, *made.write_pair(setting.work / "warm-up", SMOKE_ROWS, 64, 64), "clp")
    found: dict[str, dict[str, Any]] = {}
    for pair, (source, helper) in pairs.items():
        for method in SMOKE_METHODS if setting.smoke else METHODS[pair]:
            if setting.left_s < 0:
                findings.skip(f"{pair}: {method}", "no time left")
                continue
            found[f"{pair} {method}"] = compared(setting, source, helper, method)
            findings.figure("transfers", found)
            judge(findings, f"{pair}: {method}", found[f"{pair} {method}"])


def compared(setting: Setting, source: Path, helper: Path, method: str) -> dict[str, Any]:
    """Transfer on both devices and compare the rows."""
    figures: dict[str, Any] = {}
    targets = {}
    for device in ("cpu", "cuda"):
        targets[device] = output = setting.work / f"target-{device}"
        shutil.rmtree(output, ignore_errors=True)
        options = TransferOptions(
            source=str(source), helper=str(helper), output=str(output), method=method, no_heldout=True,
            provenance="light", device="cpu" if setting.smoke else device,
        )  # fmt: skip
        with torch_products() if setting.smoke and device == "cuda" else contextlib.nullcontext():
            report = transfer(options)
        figures[f"seconds_{device}"] = report.seconds
        figures[f"device_{device}"] = report.device
        figures["method"] = report.method
    figures |= difference(*targets.values())
    note(f"{source.parent.name} {method}: {figures}")
    return figures


@contextlib.contextmanager
def torch_products() -> Iterator[None]:
    """Have a transfer's products done by torch on the CPU."""
    users = [name for name, module in sys.modules.items() if name.startswith("clp_core.") and hasattr(module, CHOOSER)]
    with contextlib.ExitStack() as stack:
        for name in users:
            stack.enter_context(mock.patch(f"{name}.{CHOOSER}", return_value=TorchBackend("cpu")))
        yield


def difference(first: Path, second: Path) -> dict[str, Any]:
    """Differences between the input rows of two models of one shape.

    Returns:
        Rows; the largest absolute difference of an element; the largest relative difference of a row, by its length;
        the bound for rounding; and how many rows are beyond it.
    """
    one, other = (Checkpoint.open(folder) for folder in (first, second))
    ids = np.arange(one.rows("input").shape[0])
    left, right = (checkpoint.rows("input").take(ids).astype(np.float64) for checkpoint in (one, other))
    lengths = np.linalg.norm(left, axis=1)
    relative = np.linalg.norm(left - right, axis=1) / np.maximum(lengths, 1e-12)
    bound = UNIT_OF_LAST_PLACE[one.entry("input").dtype] + FLOAT32_PRODUCTS
    return {
        "rows": len(ids),
        "largest_difference": float(np.abs(left - right).max()),
        "largest_relative_difference": float(relative.max()),
        "bound": bound,
        "rows_beyond": int((relative > bound).sum()),
        "rows_equal": int((relative == 0).sum()),
    }


def judge(findings: Findings, name: str, figures: dict[str, Any]) -> None:
    """Add the verdict on one comparison."""
    detail = (
        f"{figures['rows']:,} rows, relative difference at most {figures['largest_relative_difference']:.2g} "
        f"(rounding {figures['bound']:.2g}), {figures['rows_beyond']:,} rows beyond; "
        f"{figures['seconds_cuda']:.1f} s, CPU {figures['seconds_cpu']:.1f} s"
    )
    findings.check(f"{name} equals the CPU's", figures["rows_beyond"] <= MOST_BEYOND * figures["rows"], detail)
