"""Reports of tokenizers as JSON: read back as they were written, and refused where they are damaged."""

import json

import pytest

from clp_core.helper.tokenizer_report import MatchFigures, SourceFigures, TokenizerReport

SOURCE = SourceFigures("gpt2", 50_257, 2.5, 2.0, MatchFigures(300, 0.3, 0.5), MatchFigures(310, 0.31, 0.51))
REPORT = TokenizerReport(
    output="german",
    size=1000,
    bytes_per_token=3.5,
    fertility=1.5,
    measured_on="30 documents that were held out (every 50th)",
    style="byte-level",
    end_of_text="<|end|>",
    documents=1500,
    bytes=100_000,
    source=SOURCE,
    warnings=("the text gave 1,000 of 5,000 tokens",),
)


def test_report_comes_back_from_json():
    assert TokenizerReport.of_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"size": "1000"}, "size"),
        ({"warnings": "x"}, "warnings"),
        ({"source": 7}, "source"),
        ({"source": {"name": "gpt2"}}, "source.size"),
    ],
)
def test_damaged_entry_is_named(damage, named):
    with pytest.raises(ValueError, match=f"^{named}$"):
        TokenizerReport.of_json(REPORT.to_json() | damage)
