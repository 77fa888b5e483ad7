"""Rows of an experiment's tables out of the reports of its transfers."""

from types import SimpleNamespace

import pytest

from clp_core.errors import InputError
from clp_core.experiments.records import Records
from clp_core.experiments.summary import heldout_of
from clp_core.files.json_files import write_json
from clp_core.reports.transfer_report import HeldOutSummary


def report(cosine, error):
    return SimpleNamespace(heldout=HeldOutSummary(cosine, error))


def test_held_out_scores_are_spread_over_the_seeds():
    cosines, errors = heldout_of([report(0.25, 0.5), report(0.75, 1.0)])
    assert (cosines.mean, errors.values) == (0.5, (0.5, 1.0))


@pytest.mark.parametrize("reports", [[], [None], [report(0.5, 0.9), None], [report(0.5, None)], [report(None, None)]])
def test_held_out_scores_that_a_seed_lacks_are_left_out(reports):
    assert heldout_of(reports) is None


def test_damaged_report_of_a_transfer_is_named(tmp_path):
    records, run = Records(SimpleNamespace(folder=tmp_path)), SimpleNamespace(key="a-s1")
    (tmp_path / "runs").mkdir()
    for content, named in (({"transfer": {"output": "x"}}, "'source'"), ({"transfer": [1]}, "''")):
        write_json(tmp_path / "runs" / "a-s1.json", content)
        with pytest.raises(InputError, match=rf"a-s1\.json is damaged: the entry {named}"):
            records.transfer_report(run)
    write_json(tmp_path / "runs" / "a-s1.json", {"transfer": {}})
    assert records.transfer_report(run) is None
