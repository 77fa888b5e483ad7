from fnmatch import fnmatch
from pathlib import Path

import pytest

import clp_core
from clp_core.model_cards.card import TEMPLATE, Card, with_single_blank_lines, without_metadata

tomllib = pytest.importorskip("tomllib")  # Python 3.11
PYPROJECT = Path(clp_core.__file__).parents[1] / "pyproject.toml"


def test_template_is_packed_with_its_package():
    packed = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert TEMPLATE.is_file()
    assert any(fnmatch(TEMPLATE.name, pattern) for pattern in packed["clp_core.model_cards"])


def test_card_of_a_model_of_which_nothing_is_known_has_no_empty_parts():
    text = Card("a <model>", None).text()
    assert "# a \\<model>" in text
    assert "\n\n\n" not in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Use", "## Limits", "## Licences"]
    assert "{{" not in text
    assert "{%" not in text


def test_metadata_that_is_not_yaml_is_cut_off_too():
    assert without_metadata("---\nlicense: [mit\n---\n# Mine\n") == "# Mine"
    assert without_metadata("# Mine\n\n---\n\nmore\n---\n") == "# Mine\n\n---\n\nmore\n---"


def test_no_two_blank_lines_follow_each_other():
    assert with_single_blank_lines("a\n \n\n\nb\n\nc\n") == "a\n\nb\n\nc\n"
