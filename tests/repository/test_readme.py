"""The README's commands work as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import clp
from support.tiny_models import put_short_text

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^make (\w+)", BLOCKS[0], re.MULTILINE)
    assert named == ["app", "test"]
    assert set(named) <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def words_of(line, settings, folder):
    """Return the words of a line as a shell reads it, after the settings of variables before it."""
    script = f"{settings}\nprintf '%s\\0' {line}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.notebook
def test_command_line_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    script = BLOCKS[1].replace("--max-steps 300", "--max-steps 2")
    assert script != BLOCKS[1]
    put_short_text(tmp_path / "workspace" / "texts", 24)
    monkeypatch.delenv("CLP_WORKSPACE")
    first, *lines = script.splitlines()
    binary = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binary}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", first], cwd=tmp_path, env=environment, check=True)
    settings, told = "", ""
    for line in lines:
        name, *arguments = words_of(line, settings, tmp_path)
        if name == "clp":
            done = clp(*arguments, cwd=tmp_path)
            assert done.returncode == 0, (line, done.stderr[-2000:])
            told += done.stdout
        else:
            assert re.fullmatch(r"(\w+=\S+ ?)+", line)
            settings = line
    assert "Use linear" in told
    assert (tmp_path / "german.parquet").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_files_that_the_readme_names_are_there(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize(
    "name",
    re.findall(r"`([^` ]+)`", "".join(re.findall(r"^\| (`.*?) \|", README.partition("## Where")[2], re.MULTILINE))),
)
def test_places_that_the_readme_names_are_there(name):
    assert any((folder / name).exists() or any(folder.glob(name)) for folder in (ROOT, ROOT / "clp_core"))


def test_methods_page_lists_every_method_with_its_settings():
    from clp_core.initializers import INITIALIZERS

    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == set(INITIALIZERS)
    for name, method in INITIALIZERS.items():
        expected = ", ".join(f"`{s.name}` {s.default:g}" for s in method.settings) or "none"
        assert rows[name] == expected, name


def test_readme_points_to_files_that_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / script).is_file(), script
