"""Measure what starting a process costs: CPU seconds and peak memory, against the least that it could be.

    python benchmarks/starts.py [--repeats 5]

Each command runs in a process of its own; printed is the least of the repeats, as what else runs on the machine only
adds to it. CPU seconds are those of the process and all its children together. The last two lines start the same empty
module, once directly and once under torchrun, as a single trainer is started and was started before.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")
COMMANDS: dict[str, tuple[str, ...]] = {
    "the interpreter alone": ("-c", "pass"),
    "typer and rich, which draw the help": ("-c", "import typer, typer.rich_utils"),
    "clp --help": ("-m", "clp_core", "--help"),
    "import clp_core": ("-c", "import clp_core"),
    "a supervisor": ("-c", "import clp_core.jobs.supervisor"),
    "torch and transformers' Trainer": ("-c", "import torch; from transformers import Trainer"),
    "the trainer's imports": ("-c", "import clp_core.training"),
    "an empty module": ("-m", "this"),
    "the same under torchrun": (*TORCHRUN, "-m", "this"),
}


def cost(arguments: tuple[str, ...]) -> tuple[float, int]:
    """Run the interpreter with arguments; return CPU seconds and the largest process's peak bytes."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for arguments in COMMANDS.values():
        cost(arguments)  # reads the files once
    print(f"{'':38}{'CPU s':>8}{'MB':>8}")
    for name, arguments in COMMANDS.items():
        costs = [cost(arguments) for _ in range(repeats)]
        print(f"{name:38}{min(c for c, _ in costs):8.2f}{min(m for _, m in costs) / 1e6:8.0f}", flush=True)


if __name__ == "__main__":
    main()
