"""Memory that a process can take within its control groups."""

import psutil
import pytest

from clp_core.environment import free_memory
from clp_core.environment.free_memory import free_in_groups


def group(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_second_version_counts_every_group_above(tmp_path):
    (tmp_path / "own").write_text("0::/slurm/job/step\n")
    group(tmp_path / "fs/slurm/job/step", {"memory.max": "max", "memory.current": 10})
    group(
        tmp_path / "fs/slurm/job",
        {"memory.max": 1000, "memory.current": 700, "memory.stat": "anon 1\ninactive_file 50"},
    )
    group(tmp_path / "fs/slurm", {"memory.max": 5000, "memory.current": 800})
    assert list(free_in_groups(tmp_path / "own", tmp_path / "fs")) == [350, 4200]


def test_first_version_counts_the_group_of_memory_alone(tmp_path):
    (tmp_path / "own").write_text("9:cpu:/other\n4:memory:/docker/7f\n0::/\n")
    files = {"memory.limit_in_bytes": 900, "memory.usage_in_bytes": 1000, "memory.stat": "total_inactive_file 30"}
    group(tmp_path / "fs/memory", files)  # a container sees its own group as the root
    group(tmp_path / "fs/cpu/other", {"memory.limit_in_bytes": 1, "memory.usage_in_bytes": 1})
    assert list(free_in_groups(tmp_path / "own", tmp_path / "fs")) == [0]


def test_without_groups_the_machine_counts(tmp_path, monkeypatch):
    assert list(free_in_groups(tmp_path / "none", tmp_path)) == []
    monkeypatch.setattr(free_memory, "free_in_groups", lambda: iter([5]))
    assert free_memory.free_memory() == 5
    monkeypatch.setattr(free_memory, "free_in_groups", lambda: iter([2**60]))
    assert free_memory.free_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.5)
