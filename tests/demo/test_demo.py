"""The packaged demo on real text: what the product promises, measured."""

import json
import lzma
import re
import sys

import numpy as np
import pytest
from support.jobs import end_of
from support.tiny_models import put_short_text

from clp_core.data.line_key import line_key
from clp_core.data.text_sources import Texts
from clp_core.demo import DATA
from clp_core.initializers import INITIALIZERS
from clp_core.training.options import TrainOptions
from clp_core.training.submit import submit_train
from clp_core.transfer.method_comparison import AS_AUTO, compare_methods
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.workspace import Workspace
from scripts.build_demo import count_near_duplicates, line_hash, split_lines


def trained_hashes():
    deltas = np.frombuffer(lzma.decompress((DATA / "trained_lines.u64.xz").read_bytes()), dtype="<u8")
    return set(np.cumsum(deltas).tolist())


def test_held_out_text_was_never_trained_on(demo, record_property):
    valid = list(Texts.open([demo["eval_text"]]))
    train = list(Texts.open([demo["train_text"]]))
    trained = trained_hashes()
    assert all(line_hash(line) in trained for line in train)  # the list is that of the training text
    assert not [line for line in valid if line_hash(line) in trained]
    assert not {line_key(line) for line in valid} & {line_key(line) for line in train}
    near = count_near_duplicates(valid, train)
    figures = json.loads((DATA / "figures.json").read_text())["text"]
    record_property("near_duplicates", near)
    assert near <= figures["valid_near_duplicates"] <= 0.06 * len(valid)
    assert (len(train), len(valid)) == (figures["train_lines"], figures["valid_lines"])


def test_split_holds_out_whole_blocks():
    training, held_out = split_lines([str(i) for i in range(4000)], 10)
    assert held_out[:3] == ["280", "281", "282"]
    assert len(held_out) == 400
    assert sorted(map(int, training + held_out)) == list(range(4000))


def test_demo_is_small_and_its_card_tells_the_measured_figures():
    weights = sum(path.stat().st_size for path in DATA.glob("*/model.safetensors"))
    assert weights < 15e6
    assert sum((DATA / name).stat().st_size for name in ("train.txt.xz", "valid.txt.xz")) < 2e6
    figures = json.loads((DATA / "figures.json").read_text())
    card = (DATA / "README.md").read_text()
    for name, low, high in (("source", 2e6, 4e6), ("helper", 0.5e6, 1e6)):
        assert low <= figures[name]["parameters"] <= high
        assert f"{figures[name]['held_out_loss']:.3f}" in card
        assert f"{figures[name]['held_out_bits_per_byte']:.3f}" in card
        losses = [point["held_out_loss"] for point in figures[name]["curve"]]
        assert losses[-1] < min(losses) + 0.001
        assert losses[-3] - losses[-1] < 0.02  # it has flattened
    assert "CC-BY-SA-3.0" in (DATA / "NOTICE.txt").read_text()


@pytest.mark.process
def test_linear_beats_random_rows_before_training_and_clp_is_reported_as_it_is(demo, record_property):
    options = CompareMethodsOptions(str(demo["source"]), str(demo["helper"]), text=str(demo["eval_text"]))
    compared = compare_methods(options)
    assert {score.method for score in compared.scores} == set(INITIALIZERS) - {"static-vectors"} | {AS_AUTO}
    found = {score.method: score for score in compared.scores}
    for name, score in found.items():
        record_property(name, score.to_json())
        print(name, score.to_json())  # noqa: T201  shown by pytest -rP
    bits = {name: score.zero_step_bits_per_byte for name, score in found.items()}
    assert bits["linear"] < bits["random"] - 0.2
    assert bits["linear"] < bits["mean"]
    assert bits["scratch"] > bits["linear"]
    assert found["linear"].heldout.centred_cosine > 0.3
    assert compared.advice.startswith("Use linear")


def test_published_rule_on_the_demo_is_told_to_be_at_risk(demo, tmp_path):
    report = transfer(TransferOptions(str(demo["source"]), str(demo["helper"]), str(tmp_path / "t"), method="clp"))
    assert report.health.rows_at_risk > 0.5 * report.missing
    assert "--method auto" in report.warnings[-1]


@pytest.mark.process
def test_training_lowers_the_targets_bits_per_byte(demo, tmp_path):
    space = Workspace(demo["workspace"])
    target = tmp_path / "target"
    transfer(TransferOptions(str(demo["source"]), str(demo["helper"]), str(target), method="linear"))
    put_short_text(tmp_path)
    held_out = str(tmp_path / demo["eval_text"].name)
    options = TrainOptions(
        str(target), (str(demo["train_text"]),), held_out, max_steps=20, eval_every=20, batch_tokens=1024
    )
    job = submit_train(space, options)
    assert end_of(job, 300).state == "finished", job.log_tail()
    first, last = (line["bits_per_byte"] for line in job.metrics() if "bits_per_byte" in line)
    assert last < first - 0.2


@pytest.mark.process
def test_build_script_trains_a_pair_from_any_text(tmp_path, monkeypatch):
    from scripts import build_demo as build

    words = ["Haus", "Wald", "Fluss", "Mühle", "Fuchs", "Hund", "läuft", "springt", "alt", "tief", "und", "der", "die"]
    r = np.random.default_rng(0)
    lines = [" ".join(r.choice(words, 12)) for _ in range(1200)]
    for name in ("en.txt", "de.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    small = {"vocab_size": 300, "block_length": 32, "batch_blocks": 8, "epochs": 0.05, "learning_rate": 1e-3}
    monkeypatch.setattr(build, "SOURCE", build.Recipe(**small))
    monkeypatch.setattr(build, "HELPER", build.Recipe(**small))
    arguments = ["--source-text", "en.txt", "--helper-text", "de.txt", "--shipped-text", "de.txt", "--output", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["build", *arguments])
    build.main()
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["helper"]["tokens_seen"] > 0
    assert re.search("Llama", (tmp_path / "out" / "source" / "config.json").read_text())
    report = transfer(TransferOptions(str(tmp_path / "out/source"), str(tmp_path / "out/helper"), str(tmp_path / "t")))
    assert report.overlap == pytest.approx(300, abs=5)
