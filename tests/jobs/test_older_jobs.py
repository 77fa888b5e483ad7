"""Directories of jobs as an earlier version has left them, before its modules were sorted into packages."""

import shutil
from pathlib import Path

import pytest

from clp_core.jobs import JobStore
from clp_core.jobs.run_metrics import metrics_of_run
from clp_core.publishing.training_facts import facts_of_run
from clp_core.reports.transfer_report import TransferReport
from clp_core.run_comparison.curve import curve_of_run
from clp_core.training.options import TrainOptions
from clp_core.transfer.options import TransferOptions

OLDER = Path(__file__).with_name("older_jobs")


@pytest.fixture
def jobs(tmp_path):
    shutil.copytree(OLDER, tmp_path / "jobs")
    return {job.kind: job for job in JobStore(tmp_path / "jobs").jobs()}


def test_their_states_names_and_options_are_read(jobs):
    assert {job.status().state for job in jobs.values()} == {"finished"}
    assert jobs["train"].name == "a run"
    options = TrainOptions.of_json(jobs["train"].spec["arguments"])
    assert (options.max_steps, options.schedule, options.first_stage_share) == (4, "two-stage", 0.1)
    options = TransferOptions.of_json(jobs["transfer"].spec["arguments"])
    assert (options.method, options.check, options.helper) == ("auto", "logits", "/workspace/models/demo-helper-de")


def test_the_modules_that_they_name_are_there_to_go_on(jobs):
    for job in jobs.values():
        module = job.spec["argv"][1]
        package = Path(*module.split("."))
        assert (OLDER.parents[2] / package / "__main__.py").is_file()


def test_a_run_has_its_curve_and_its_facts(jobs):
    run = jobs["train"]
    curve = curve_of_run(run, metrics_of_run(run))
    assert curve.points["bits_per_byte"][:, 4].round(3).tolist() == [3.688, 3.563, 3.479, 3.391, 3.334]
    facts = facts_of_run(run, 2)
    assert (facts.tokens, facts.steps_planned, facts.step_tokens) == (128, 4, 64)
    assert [point.step for point in facts.curve] == [0, 1, 2]


def test_a_transfer_has_its_report(jobs):
    report = TransferReport.of_json(jobs["transfer"].result())
    assert (report.method, report.overlap, report.missing) == ("linear", 1378, 4766)
    assert report.auto is not None
    assert report.auto.scores["two-view"] == pytest.approx(0.4429, abs=1e-4)
    assert report.zero_step is not None
    assert report.zero_step.bits_per_byte == pytest.approx(2.877, abs=1e-3)
