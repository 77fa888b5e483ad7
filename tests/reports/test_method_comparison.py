"""Comparisons of methods as JSON: written with the keys of the command, and read back from any version."""

import json
import math
import subprocess
import sys

import pytest

from clp_core.reports.method_comparison import MethodComparison, MethodScore
from clp_core.reports.transfer_report import HeldOutSummary

SCORES = (
    MethodScore("linear:neighbours=16", HeldOutSummary(0.5, 0.9), 2.25, 1.23456, 5000),
    MethodScore("mean", HeldOutSummary(None, None), None, 0.5, note="there are too few anchors"),
)
FOUND = MethodComparison(SCORES, "Use linear: it finds hidden anchors best.")
OLDEST = {
    "methods": [
        {
            "method": "clp",
            "heldout": {"centred_cosine": 1, "relative_error": None},
            "zero_step_bits_per_byte": None,
            "seconds": 3,
        }
    ],
    "advice": "",
}
"""Whole numbers where a figure has none behind the point, and entries that came later left out."""


def test_json_has_the_keys_of_the_command():
    content = json.loads(json.dumps(FOUND.to_json()))
    assert list(content) == ["methods", "advice"]
    assert content["methods"][0] == {
        "method": "linear:neighbours=16",
        "heldout": {"centred_cosine": 0.5, "relative_error": 0.9},
        "zero_step_bits_per_byte": 2.25,
        "seconds": 1.235,
        "peak_bytes": 5000,
        "note": "",
    }


def test_comparison_comes_back_from_json_and_is_found_by_method():
    again = MethodComparison.of_json(json.loads(json.dumps(FOUND.to_json())))
    assert again.to_json() == FOUND.to_json()
    assert again.score_of("mean") == SCORES[1] == MethodScore.of_json(SCORES[1].to_json())
    assert again.score_of("linear") is None


def test_older_and_newer_files_are_read():
    (score,) = MethodComparison.of_json(OLDEST | {"more": [1]}).scores
    assert (score.heldout.centred_cosine, score.peak_bytes, score.note) == (1.0, None, "")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"methods": None}, "methods"),
        ({"methods": {"method": "clp"}}, "methods"),
        ({"methods": [{"method": "clp"}]}, "methods.0.heldout"),
        ({"methods": [OLDEST["methods"][0] | {"seconds": "3"}]}, "methods.0.seconds"),
        ({"methods": [OLDEST["methods"][0] | {"seconds": True}]}, "methods.0.seconds"),
        ({"methods": [OLDEST["methods"][0] | {"heldout": {"centred_cosine": 1}}]}, "methods.0.heldout.relative_error"),
        ({"methods": [OLDEST["methods"][0] | {"peak_bytes": math.pi}]}, "methods.0.peak_bytes"),
        ({"advice": None}, "advice"),
    ],
)
def test_damaged_entry_is_named(damage, named):
    with pytest.raises(ValueError, match=f"^{named}$"):
        MethodComparison.of_json(OLDEST | damage)


@pytest.mark.parametrize("content", [{}, [OLDEST], None, 3])
def test_another_content_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"^(methods)?$"):
        MethodComparison.of_json(content)


def test_results_load_no_heavy_library():
    code = (
        "import sys, clp_core.reports.method_comparison, clp_core.publishing.push_result, "
        "clp_core.helper.tokenizer_report\n"
        "print([name for name in ('torch', 'transformers', 'faiss', 'scipy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
