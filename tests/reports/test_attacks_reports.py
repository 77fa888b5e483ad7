"""Reports and specs that others have written: whatever they hold ends in one line, and leads pages nowhere else."""

import json
from dataclasses import MISSING, fields

import pytest
from support.made_runs import lines_of, make_run
from support.pages_run import check, open_page

from clp_core.errors import InputError
from clp_core.files.artifacts import REPORT_FILE
from clp_core.reports.transfer_report import TransferReport, read_transfer_report
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.options import TrainOptions
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from components.path_confinement import OutsideError
from components.train_form import as_confined, confine_teacher

NEEDED = [item.name for item in fields(TransferReport) if item.default is MISSING and item.default_factory is MISSING]
OTHERS = (5, "x", [1], {"a": [1]}, True)


@pytest.fixture(scope="module")
def written(tmp_path_factory, pair):
    folder = tmp_path_factory.mktemp("written") / "target"
    transfer(TransferOptions(str(pair[0]), str(pair[1]), str(folder), method="clp-sparse", check="files"))
    return folder


@pytest.fixture
def change(written):
    file = written / REPORT_FILE
    before = file.read_text()
    yield lambda **parts: file.write_text(json.dumps(json.loads(before) | parts))
    file.write_text(before)


def test_report_of_a_transfer_is_read_as_it_was_written(written):
    report = read_transfer_report(written, for_card=True)
    assert report.to_json() == json.loads((written / REPORT_FILE).read_text())


def test_every_entry_of_another_kind_ends_in_one_line_or_does_no_harm(written, change):
    report = json.loads((written / REPORT_FILE).read_text())
    messages = []
    for name in report:
        for other in OTHERS:
            change(**{name: other})
            try:
                explainer = Explainer.open(written)
                for token_id in (0, 5, len(explainer.table) - 1):
                    assert explainer.explain(token_id)
            except InputError as error:
                messages.append(str(error))
    assert messages
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("other", [None, 1.5, [1]])
def test_entry_that_explains_rows_is_named_where_it_is_missing_or_of_another_kind(written, change, name, other):
    change(**{name: other})
    with pytest.raises(InputError, match=f"its entry '{name}"):
        read_transfer_report(written)


@pytest.mark.parametrize("settings", [5, {"clp-sparse": 5}, {"clp-sparse": {"x": 1}}, {"clp-sparse": {"x": "1"}}])
def test_settings_of_a_wrong_kind_are_an_error_of_the_report(written, change, settings):
    change(settings=settings)
    with pytest.raises(InputError):  # noqa: PT012 - it may be found when the method is fitted again
        explainer = Explainer.open(written)
        explainer.explain(int(explainer.table["method"].first_valid_index()))


def test_pages_read_no_vocabulary_from_a_folder_that_a_report_names(written, change, pair, tmp_path, monkeypatch):
    change(source=str(tmp_path))
    source = Vocabulary.open(pair[0])
    explainer = Explainer.open(written, source=source)
    monkeypatch.setattr(Vocabulary, "open", None)
    assert explainer._source_vocabulary is source
    assert explainer._token(-1, 10**9) == "#1000000000"
    assert explainer._token(10**9, 0) == "#1000000000"


def test_settings_of_a_run_that_no_longer_exist_are_left_out():
    content = {"model": "m", "seed": 7, "precision": "fp8", "batch_tokens": "many", "gone": 1, "schedule": "joint"}
    values, refused = TrainOptions.usable_part(content)
    assert (values["model"], values["seed"]) == ("m", 7)
    assert {"precision", "batch_tokens", "gone"} <= set(refused)
    assert TrainOptions.usable_part(5) == ({}, ())


@pytest.mark.parametrize("reference", ["/etc/passwd", "/proc/self", "../other"])
def test_texts_and_teachers_of_a_cloned_run_lie_where_pages_may_read(workspace, reference):
    with pytest.raises(OutsideError):
        as_confined(reference, workspace)
    with pytest.raises(OutsideError):
        confine_teacher(reference, workspace)


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_form_is_filled_from_a_spec_of_unknown_values(space):
    job = make_run(space, "a run", lines_of(3))
    spec = json.loads((job.path / "spec.json").read_text())
    spec["arguments"] |= {
        "preset": "gone", "precision": "fp8", "schedule": 5, "device": "cuda:99", "launcher": "moon",
        "text": ["/gone.txt"], "eval_text": "/gone-too.txt", "model": 7, "seed": 10**30, "prompt": 5,
        "teacher": "/etc",
    }  # fmt: skip
    (job.path / "spec.json").write_text(json.dumps(spec))
    app = check(open_page("train", clone=job.id))
    assert any("have their defaults" in warning.value and "precision" in warning.value for warning in app.warning)
