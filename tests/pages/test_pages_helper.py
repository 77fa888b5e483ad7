"""The page Helper: from a text to a tokenizer, a tiny helper, and the page Transfer with it."""

import shutil

import pytest
from support.jobs import end_of, wait_for
from support.made_runs import lines_of, make_run
from support.pages_run import check, cut_texts, open_page, text_of

from clp_core.demo import SOURCE, TRAIN_TEXT
from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.helper.tokenizer_training import train_tokenizer
from clp_core.jobs import JobStore
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer as write_target

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")


def jobs_of(space, kind):
    return [job for job in JobStore(space.jobs).jobs() if job.kind == kind]


def button(app, label):
    return next(button for button in app.button if button.label == label)


def commands(app, kind):
    return [code.value for code in app.code if code.value.startswith(f"clp {kind} ")]


def field(widgets, label):
    return next(widget for widget in widgets if widget.label == label)


@pytest.fixture
def space(space):
    """The demo with texts that are cut short."""
    cut_texts(space)
    return space


@pytest.fixture
def tokenizer(space):
    output = space.tokenizers / "german"
    train_tokenizer(
        TokenizerOptions(
            text=(str(space.texts / TRAIN_TEXT),),
            output=str(output),
            vocab_size=2000,
            source=str(space.models / SOURCE),
        )
    )
    return output


@pytest.mark.process
def test_page_trains_a_tokenizer_by_the_command_it_shows(space):
    app = check(open_page("helper"))
    assert "None was made here yet" in text_of(app)
    assert not any(button.label == "Make the helper" for button in app.button)
    field(app.number_input, "Tokens (0: by the text's size)").set_value(1000).run()
    field(app.text_input, "Name of the tokenizer").set_value("german").run()
    (shown,) = commands(app, "tokenizer")
    assert "--vocab-size 1000" in shown
    assert f"--source {space.models / SOURCE}" in shown
    button(app, "Train the tokenizer").click().run()
    check(app)
    (job,) = jobs_of(space, "tokenizer")
    assert job.command == shown
    assert end_of(job).state == "finished", job.log_tail()
    assert Vocabulary.open(space.tokenizers / "german").size == 1000
    app = check(open_page("helper"))
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["Bytes a token"].startswith(f"{job.result()['bytes_per_token']:.2f}")
    assert int(metrics["Overlap"].replace("\N{NARROW NO-BREAK SPACE}", "")) == job.result()["source"]["raw"]["overlap"]
    assert "there is a tokenizer, a tiny helper is next" in text_of(app)
    field(app.text_input, "Name of the tokenizer").set_value("german").run()
    assert any("german exists and is kept" in info.value for info in app.info)
    field(app.text_input, "Name of the tokenizer").set_value("../up").run()
    assert any("plain name without slashes" in error.value for error in app.error)


@pytest.mark.process
def test_page_makes_a_tiny_helper_and_leads_to_the_transfer(space, tokenizer):
    app = check(open_page("helper"))
    (sizes,) = [table.value for table in app.dataframe if "wants" in table.value.columns]
    assert list(sizes["size"]) == ["tiny", "small", "base", "medium", "large"]
    assert (sizes["wants"] == 20 * sizes["parameters"]).all()
    assert any("small for tiny" in warning.value for warning in app.warning)
    field(app.number_input, "Tokens to train on (0: as planned)").set_value(8192).run()
    (shown,) = commands(app, "pretrain")
    assert "--max-tokens 8192" in shown
    button(app, "Make the helper").click().run()
    check(app)
    (job,) = jobs_of(space, "pretrain")
    assert job.command == shown
    assert end_of(job).state == "finished", job.log_tail()
    (run,) = wait_for(lambda: jobs_of(space, "train"))
    assert end_of(run, 300).state == "finished", run.log_tail()
    app = check(open_page("helper"))
    assert run.name in text_of(app)
    name = f"{run.id}/{run.checkpoints()[-1].name}"
    assert str(run.checkpoints()[-1]) in next(code.value for code in app.code if "clp transfer" in code.value)
    assert not any("the next helper" in link.proto.label for link in app.get("page_link"))
    target = space.models / "next"
    write_target(TransferOptions(str(space.models / SOURCE), str(run.checkpoints()[-1]), str(target), "linear"))
    app = check(open_page("helper"))
    link = next(link for link in app.get("page_link") if "Train next on" in link.proto.label)
    assert "model=next" in link.proto.query_string
    cloned = check(open_page("train", clone=run.id))  # its first weights are no model in a list, but are found
    assert not cloned.error
    assert f"--model {run.spec['arguments']['model']}" in commands(cloned, "train")[0]
    transfer = check(open_page("transfer", source=SOURCE, helper=name))
    assert not transfer.error
    offered = [button.label for button in transfer.button]
    assert "Write the target" in offered or any("Prepare" in label for label in offered)


def test_page_says_that_a_helper_is_under_way_and_links_to_it(space, tokenizer):
    make_run(space, "going on", lines_of(60), state="queued", model=str(space.cache / "helpers" / "tiny-x"))
    app = check(open_page("helper"))
    assert "going on" in text_of(app)


def test_text_and_tokenizer_stand_in_the_address(space, tokenizer):
    app = check(open_page("helper", texts=TRAIN_TEXT, size="small"))
    assert app.multiselect[0].value == [TRAIN_TEXT]
    assert "--size small" in commands(app, "pretrain")[0]
    assert app.query_params["tokenizer"] == "german"
    app.multiselect[0].set_value([]).run()
    check(app)
    assert "Choose the text" in text_of(app)


def test_tokenizer_that_is_a_link_to_elsewhere_is_not_offered(space, tokenizer, tmp_path):
    shutil.move(tokenizer, tmp_path / "elsewhere")
    tokenizer.symlink_to(tmp_path / "elsewhere")
    app = check(open_page("helper", texts="../../etc/passwd"))
    assert not any(select.label == "Tokenizer" for select in app.selectbox)
    assert app.multiselect[0].value == [TRAIN_TEXT]


def test_pair_bar_without_a_helper_leads_here(space):
    for path in space.models.iterdir():
        if path.name != SOURCE:
            shutil.rmtree(path)
    app = check(open_page("transfer"))
    assert any("No helper? Make one" in link.proto.label for link in app.get("page_link"))
