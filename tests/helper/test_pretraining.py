"""A helper from random weights: its sizes, its seed, what is held out, and a real one from text to transfer."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from support.commands import clp, refused, result_of
from support.jobs import end_of, wait_for
from support.pages_run import ROOT
from support.tiny_models import GERMAN

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.data.line_key import line_key
from clp_core.data.text_sources import Texts
from clp_core.data.train_valid_split import SplitRule, hold_out
from clp_core.errors import InputError
from clp_core.helper.model_sizes import MOST_PASSES, SIZES, HelperPlan
from clp_core.helper.pretrain_options import PretrainOptions
from clp_core.helper.pretraining import fresh_folder, fresh_model, is_helper_run, start_helper, submit_helper
from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.helper.tokenizer_training import train_tokenizer
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.options import TrainOptions
from clp_core.training.submit import resume

TINY_RUN = {"max_steps": 20, "block_length": 32, "batch_tokens": 256, "eval_every": 10}


@pytest.fixture(scope="module")
def german(tmp_path_factory, demo):
    """Four hundred lines of real text."""
    path = tmp_path_factory.mktemp("german") / "german.txt"
    lines = list(Texts.open([demo["train_text"]]))[:400]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, german):
    output = tmp_path_factory.mktemp("tokenizer") / "german"
    options = TokenizerOptions(text=(str(german),), output=str(output), vocab_size=1000, pad_token="<|pad|>")
    train_tokenizer(options)
    return output


def options_of(tokenizer, text, **more):
    return PretrainOptions(tokenizer=str(tokenizer), text=(str(text),), **(TINY_RUN | more))


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_sizes_are_sound_and_count_their_parameters(size):
    from transformers import LlamaConfig, LlamaForCausalLM

    assert size.width % 64 == size.inner % 64 == size.width % size.heads == 0
    assert abs(size.inner - 8 * size.width / 3) <= 64
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**size.config(1000, {})))
    assert sum(parameter.numel() for parameter in model.parameters()) == size.parameters(1000)
    assert size.parameters(1000) - size.body_parameters == 1000 * size.width


def test_sizes_grow():
    bodies = [size.body_parameters for size in SIZES.values()]
    assert all(larger > 2 * smaller for smaller, larger in itertools.pairwise(bodies))


def test_seed_decides_the_weights_and_ids_are_in_step(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    vocabulary = Vocabulary.open(tokenizer)
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        assert fresh_model(tokenizer, vocabulary, SIZES["tiny"], 128, seed, tmp_path / name) == []
    one, same, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "same", "other"))
    assert one == same != other
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.max_position_embeddings == 128
    opened = AutoTokenizer.from_pretrained(tmp_path / "one")
    for config in (model.config, model.generation_config):
        ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
        assert ids == (opened.bos_token_id, opened.eos_token_id, opened.pad_token_id)
    assert ids == (0, 0, 1)
    assert opened("Das Haus")["input_ids"] == vocabulary.encode("Das Haus")


def test_tokenizer_that_transformers_reads_otherwise_is_told_every_time(workspace, tokenizer, german, monkeypatch):
    from clp_core.transfer import target_folder

    monkeypatch.setattr(target_folder, "check_tokenizer", lambda *_: ["7 lines differ"])
    vocabulary, options = Vocabulary.open(tokenizer), options_of(tokenizer, german)
    for _ in range(2):
        _, warnings = fresh_folder(workspace, tokenizer, vocabulary, options)
        assert warnings == ["7 lines differ"]


def test_whole_blocks_are_held_out_once_and_not_trained_on(tmp_path, german):
    split = hold_out(Texts.open([german]), "german", tmp_path / "texts")
    documents, train, valid = ([*Texts.open([path])] for path in (german, split.train, split.valid))
    assert split.rule == SplitRule(4, 10)
    assert valid == [document for i, document in enumerate(documents) if i // 4 % 10 == 7]
    assert set(train) < set(documents)
    assert not {line_key(line) for line in train} & {line_key(line) for line in valid}
    assert len(train) > 0.85 * len(documents)
    stamp = split.train.stat().st_mtime_ns
    assert hold_out(Texts.open([german]), "german", tmp_path / "texts") == split
    assert split.train.stat().st_mtime_ns == stamp
    assert len(list((tmp_path / "texts").iterdir())) == 2


@pytest.mark.parametrize(
    ("documents", "n_bytes", "rule"),
    [
        (20, 1_000, SplitRule(1, 10)),
        (5_000, 1_000_000, SplitRule(40, 10)),
        (1_000_000, 1_000_000_000, SplitRule(40, 1000)),
    ],
)
def test_about_a_megabyte_is_held_out_and_a_tenth_at_most(documents, n_bytes, rule):
    assert SplitRule.of(documents, n_bytes) == rule
    held = sum(rule.holds_out(i) for i in range(documents))
    assert 0 < held <= documents / 10
    assert held * n_bytes / documents == pytest.approx(min(1e6, n_bytes / 10), rel=0.25)


def test_documents_with_line_ends_stay_whole(tmp_path):
    documents = [f"First line of {word}.\nSecond line of {word}." for word in itertools.product("abcde", "fghij")]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"body": document}) + "\n" for document in documents))
    split = hold_out(Texts.open([path], "body"), "lines", tmp_path / "texts")
    train, valid = ([*Texts.open([part], "body")] for part in (split.train, split.valid))
    assert split.valid.suffix == ".jsonl"
    assert valid == documents[7::10]
    assert sorted(train + valid) == sorted(documents)


def test_few_documents_with_many_bytes_still_leave_some_held_out():
    rule = SplitRule.of(100, 10_000_000_000)
    assert sum(rule.holds_out(i) for i in range(100)) == 10


def test_text_that_repeats_itself_or_is_too_short_is_refused(tmp_path):
    (tmp_path / "same.txt").write_text("\n".join(GERMAN) + "\n")
    with pytest.raises(InputError, match="108 of 120"):
        hold_out(Texts.open([tmp_path / "same.txt"]), "same", tmp_path / "texts")
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"2 documents .* --eval-text"):
        hold_out(Texts.open([tmp_path / "short.txt"]), "short", tmp_path / "texts")
    assert not list((tmp_path / "texts").iterdir())


def test_plan_wants_twenty_tokens_a_parameter_and_says_what_a_text_feeds():
    size = SIZES["tiny"]
    rich = HelperPlan(size, 1000, 10**9)
    assert rich.tokens == rich.wanted_tokens == 20 * size.parameters(1000)
    assert rich.is_fed
    assert rich.shortfall == ""
    poor = HelperPlan(SIZES["base"], 1000, SIZES["small"].wanted_tokens(1000) // 3)
    assert poor.tokens == MOST_PASSES * poor.text_tokens < poor.wanted_tokens
    assert poor.passes == MOST_PASSES
    assert "small is the largest size it feeds" in poor.shortfall
    assert "give more text" in HelperPlan(size, 1000, 1000).shortfall
    assert HelperPlan(size, 1000, 1000, asked_tokens=500).tokens == 500


def test_every_option_of_a_run_but_its_model_is_one_of_a_helper(tokenizer, german):
    options = options_of(tokenizer, german, learning_rate=0.002, prompt=("Der",), precision="float32")
    run = options.as_train("/model", ["/train.txt"], "/valid.txt")
    for item in dataclasses.fields(TrainOptions):
        if item.name not in ("model", "text", "eval_text"):
            assert getattr(run, item.name) == getattr(options, item.name)
    assert (run.model, run.text, run.eval_text) == ("/model", ("/train.txt",), "/valid.txt")
    assert (run.learning_rate, run.prompt, run.precision, run.max_steps) == (0.002, ("Der",), "float32", 20)
    for given, told in (
        ({"size": "huge"}, "--size: 'huge' is unknown; use one of tiny, small"),
        ({"positions": 4}, "--positions: 4 is too small; give 16 or more, or 0"),
        ({"max_tokens": 5}, "exclude each other"),
        ({"device": "tpu"}, "--device: 'tpu' is not valid"),
    ):
        with pytest.raises(InputError) as error:
            options_of(tokenizer, german, **given)
        assert told in str(error.value)


@pytest.mark.process
def test_helper_is_made_from_text_alone_and_serves_in_a_transfer(workspace, tokenizer, german, demo, tmp_path):
    from transformers import AutoModelForCausalLM

    from clp_core.transfer.options import TransferOptions
    from clp_core.transfer.pipeline import transfer

    given = ["--tokenizer", tokenizer, "--text", german, "--learning-rate", 0.003]
    given += [part for name, value in TINY_RUN.items() for part in (f"--{name.replace('_', '-')}", value)]
    found = result_of("pretrain", *given)
    assert (found["state"], found["step"], found["tokens"]) == ("finished", 20, 20 * 256)
    assert found["plan"]["parameters"] == SIZES["tiny"].parameters(1000)
    assert "the text is small for tiny" in found["warnings"][0]
    checkpoint = Path(found["job"]) / "checkpoints" / "checkpoint-20"
    job = next(job for job in [*_jobs(workspace)] if str(job.path) == found["job"])
    assert is_helper_run(job, workspace)
    scores = [line["bits_per_byte"] for line in job.metrics() if "bits_per_byte" in line]
    assert scores[-1] < scores[0] - 0.1
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == 1000
    assert [path.name for path in workspace.list_texts()] == sorted(path.name for path in workspace.texts.glob("*.txt"))
    assert not [entry for entry in workspace.list_models() if entry.kind == "model"]  # no clutter of first weights
    report = transfer(TransferOptions(str(demo["source"]), str(checkpoint), str(tmp_path / "target"), "linear"))
    assert report.overlap > 256
    target = Checkpoint.open(tmp_path / "target")
    assert target.rows("input").shape == (1000, 256)
    assert Vocabulary.open(tmp_path / "target").content == Vocabulary.open(tokenizer).content


def _jobs(workspace):
    from clp_core.jobs import JobStore

    return JobStore(workspace.jobs).jobs()


@pytest.mark.process
def test_helper_that_was_stopped_at_once_begins_again_with_the_same_weights(workspace, tokenizer, german):
    options = options_of(tokenizer, german, max_steps=0, max_tokens=256 * 100_000, eval_every=100_000)
    started = start_helper(workspace, options)
    again = start_helper(workspace, options)
    assert again.job.id == started.job.id  # a second click starts no second run
    weights = Path(started.job.spec["arguments"]["model"])
    before = (weights / "model.safetensors").stat().st_mtime_ns
    wait_for(lambda: started.job.status().state == "running", 60)
    started.job.ask_stop(kill=True)
    assert end_of(started.job, 60).state == "stopped"
    assert start_helper(workspace, dataclasses.replace(options, name="another")).job.spec["arguments"]["model"] == str(
        weights
    )
    assert (weights / "model.safetensors").stat().st_mtime_ns == before
    resume(workspace, started.job)
    for job in _jobs(workspace):
        job.ask_stop(kill=True)
        assert end_of(job, 60).state == "stopped", job.log_tail()


@pytest.mark.process
def test_job_of_the_page_starts_the_run_and_names_it(workspace, tokenizer, german):
    job = submit_helper(workspace, options_of(tokenizer, german, name="mine"))
    assert submit_helper(workspace, options_of(tokenizer, german, name="mine")).id == job.id
    assert end_of(job, 120).state == "finished", job.log_tail()
    assert job.command.startswith("clp pretrain ")
    assert job.command.endswith(" --detach")
    run = next(found for found in _jobs(workspace) if found.kind == "train")
    assert job.result()["job"] == str(run.path)
    assert run.name == "mine"
    assert end_of(run, 240).state == "finished", run.log_tail()  # it outlives the job that started it


@pytest.mark.process
def test_command_refuses_bad_input_in_one_line(tmp_path, tokenizer, german, workspace):
    given = ("pretrain", "--tokenizer", tokenizer, "--text", german)
    assert "--size: 'huge'" in refused(*given, "--size", "huge")
    assert "no.txt" in refused("pretrain", "--tokenizer", tokenizer, "--text", tmp_path / "no.txt")
    assert "no tokenizer" in refused("pretrain", "--tokenizer", german.parent, "--text", german)
    assert "--tokenizer" in refused("pretrain", "--text", german)
    assert not workspace.jobs.exists()
    assert not workspace.texts.exists()


def test_help_shows_no_model_option():
    told = clp("pretrain", "--help", cwd=ROOT).stdout
    assert "--tokenizer" in told
    assert "--learning-rate" in told
    assert "--model" not in told
