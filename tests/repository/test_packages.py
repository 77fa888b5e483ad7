"""docs/packages.md is written from the packages themselves: CLP_WRITE_DOCS=1 writes it anew."""

import ast
import os
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11


ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "packages.md"
HEAD = """\
# The packages of clp_core

Lowest first: a module imports only from its own package and from those listed above it, which `make lint` checks by
`lint-imports`. `tests/` has a folder for each, besides `pages` (the web app), `repository` (documents, notebooks and
benchmarks) and `robustness` (damaged and hostile input, through many packages).

| package | what it is for | modules |
|---|---|---|
"""


def contract():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return content["tool"]["importlinter"]["contracts"][0]


def purpose_of(name):
    folder = ROOT / "clp_core" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).partition("\n\n")[0].replace("\n", " ")


def modules_of(name):
    folder = ROOT / "clp_core" / name
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*.py")) if not path.name.startswith("__")]
    return ", ".join(f"`{path.with_suffix('').as_posix()}`" for path in found)


def test_page_lists_every_package_in_its_order_with_its_purpose():
    rows = []
    for name in reversed(contract()["layers"]):
        shown = f"`{name}/`" if (ROOT / "clp_core" / name).is_dir() else f"`{name}.py`"
        rows.append(f"| {shown} | {purpose_of(name)} | {modules_of(name)} |\n".replace("``", "`"))
    page = HEAD + "".join(rows)
    if os.environ.get("CLP_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page


def test_no_module_lies_outside_a_package_but_the_ground():
    found = {path.stem for path in (ROOT / "clp_core").glob("*.py")}
    assert found == {"__init__", "__main__", "errors", "options", "progress", "workspace", "submission"}


@pytest.mark.parametrize("folder", sorted(path.name for path in (ROOT / "tests").iterdir() if path.is_dir()))
def test_tests_mirror_the_packages(folder):
    beside = {"pages", "repository", "robustness", "support", "__pycache__"}
    assert folder in beside or (ROOT / "clp_core" / folder).is_dir()
