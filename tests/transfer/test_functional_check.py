"""The functional check finds targets that predict otherwise than their source, whatever the reason."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import refused, result_of
from support.sources import make_source
from support.tiny_models import GERMAN, make_model, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.model_config import max_positions
from clp_core.checkpoints.positions import Padding
from clp_core.errors import ClpError, InputError
from clp_core.evaluation.bits_per_byte import evaluate
from clp_core.reports.transfer_report import CheckSummary
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer import functional_check
from clp_core.transfer.functional_check import NO_ROOM, UNCUT, Expected, extent_of, n_parameters
from clp_core.transfer.method_comparison import compare_methods
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.model_pair import ModelPair
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.transfer.target_folder import SpecialIds, target_config, without_placeholders
from clp_core.transfer.vocabulary_tensors import VocabularyTensors


@pytest.fixture(scope="module")
def padded_helper(tmp_path_factory):
    """A helper whose padding token is its last."""
    tokenizer = make_tokenizer("sentencepiece-bpe", GERMAN)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return make_model(tmp_path_factory.mktemp("helper") / "helper", tokenizer, "gpt2", width=16, seed=2)


@pytest.fixture
def english(tokenizers):
    return tokenizers["sentencepiece-bpe", "en"]


def options_for(source, helper, target, **more):
    return TransferOptions(str(source), str(helper), str(target), "clp", no_heldout=True, **more)


@pytest.fixture(scope="module")
def written(tmp_path_factory, pair):
    """A sound target of the Llama pair, and what its source predicts."""
    folder = tmp_path_factory.mktemp("written") / "target"
    transfer(options_for(*pair, folder))
    opened = ModelPair.of(options_for(*pair, folder))
    return folder, Expected.of(opened.source, opened.plan())


def changed(written, tmp_path, change):
    """Copy a target and change its tensors or its configuration."""
    folder = shutil.copytree(written[0], tmp_path / "changed")
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    tensors, config = change(dict(tensors), config)
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_sound_target_passes_with_all_layers_and_all_copied_tokens(written, pair):
    found = written[1].compare(written[0])
    assert found.largest_difference < 1e-5
    assert (found.layers, found.of_layers, found.dtype) == (1, 1, "float32")
    assert found.tokens_compared == ModelPair.of(options_for(*pair, "x")).overlap.size


def rolled(part):
    """Move the rows of the tensors with a part of a name by one."""
    return lambda tensors, config: (
        {name: one.roll(1, 0) if part in name else one for name, one in tensors.items()},
        config,
    )


def with_entries(**entries):
    return lambda tensors, config: (tensors, config | entries)


CHANGES = {
    "norm": with_entries(rms_norm_eps=1.0),
    "rotary base": with_entries(rope_parameters={"rope_type": "default", "rope_theta": 3.0}),
    "body": rolled("mlp"),
    "rows moved by one": rolled("embed"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_target_that_predicts_otherwise_is_not_kept(written, tmp_path, change):
    with pytest.raises(ClpError, match="does not predict as the source does"):
        written[1].compare(changed(written, tmp_path, change))


def test_target_that_predicts_nothing_finite_is_not_kept(written, tmp_path):
    folder = changed(written, tmp_path, lambda tensors, config: (
        {name: one * torch.nan if "norm" in name else one for name, one in tensors.items()}, config))  # fmt: skip
    with pytest.raises(ClpError, match="does not predict as the source does"):
        written[1].compare(folder)


def test_new_rows_are_not_part_of_the_comparison(written, tmp_path, pair):
    missing = ModelPair.of(options_for(*pair, "x")).plan().missing_ids

    def change(tensors, config):
        name = next(name for name in tensors if "embed_tokens" in name)
        tensors[name][missing] = 7.0
        return tensors, config

    assert written[1].compare(changed(written, tmp_path, change)).largest_difference < 1e-5


def test_files_alone_are_checked_where_that_is_asked_for(tmp_path, pair, monkeypatch):
    monkeypatch.setattr(functional_check, "load", None)
    report = transfer(options_for(*pair, tmp_path / "target", check="files"))
    assert report.check == CheckSummary("files", "as asked for by --check files")
    report = transfer(TransferOptions(*map(str, pair), str(tmp_path / "drawn"), "scratch"))
    assert report.check.kind == "files"
    assert "draws the whole model" in report.check.reason


def test_check_stands_in_the_report_of_the_command(tmp_path, pair):
    arguments = ("transfer", "--source", pair[0], "--helper", pair[1], "--output")
    assert result_of(*arguments, tmp_path / "one")["check"]["kind"] == "logits"
    assert result_of(*arguments, tmp_path / "two", "--check", "files")["check"]["kind"] == "files"
    assert "--check" in refused(*arguments, tmp_path / "three", "--check", "nothing")


@pytest.fixture
def deep(tmp_path, english):
    return make_source(tmp_path / "deep", "qwen3_next", english, tied=False)


def limited(monkeypatch, n_bytes):
    """Let this many bytes be the share of the free memory."""
    monkeypatch.setattr(functional_check, "free_memory", lambda: n_bytes / functional_check.MEMORY_SHARE)


def test_first_layers_are_compared_where_the_model_is_too_large(tmp_path, deep, padded_helper, monkeypatch):
    """A hybrid: the lists with an entry per layer are cut with it."""
    one, whole = n_parameters(deep, 1), n_parameters(deep, 2)
    source = Checkpoint.open(deep)
    assert one < whole == source.n_parameters
    limited(monkeypatch, 4 * whole)
    assert extent_of(source) == functional_check.Extent(None, "float32")
    limited(monkeypatch, 4 * whole - 1)
    assert extent_of(source) == functional_check.Extent(1, "float32")
    report = transfer(options_for(deep, padded_helper, tmp_path / "target"))
    assert (report.check.layers, report.check.of_layers) == (1, 2)
    assert report.check.largest_difference < 1e-5
    limited(monkeypatch, 4 * one - 1)
    assert extent_of(source) == NO_ROOM  # its files are float32, which takes as much
    report = transfer(options_for(deep, padded_helper, tmp_path / "other"))
    assert report.check == CheckSummary("files", NO_ROOM)
    assert any(NO_ROOM in warning for warning in report.warnings)


@pytest.mark.parametrize("model_type", ["bart", "whisper", "prophetnet", "longcat_flash", "bamba", "mamba2"])
def test_layers_of_the_decoder_are_counted(tmp_path, english, padded_helper, monkeypatch, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=True)
    limited(monkeypatch, 4 * Checkpoint.open(source).n_parameters - 1)
    report = transfer(options_for(source, padded_helper, tmp_path / "target"))
    assert (report.check.layers, report.check.of_layers) == (1, 2)


@pytest.mark.parametrize("model_type", ["gpt_neox_japanese", "rwkv"])
def test_class_that_cannot_be_cut_is_checked_by_its_files(tmp_path, english, padded_helper, monkeypatch, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=False)
    limited(monkeypatch, 4 * Checkpoint.open(source).n_parameters - 1)
    report = transfer(options_for(source, padded_helper, tmp_path / "target"))
    assert report.check == CheckSummary("files", UNCUT)
    assert any(UNCUT in warning for warning in report.warnings)


def test_as_many_layers_as_fit_are_compared(tmp_path, english, monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=len(english), hidden_size=16, intermediate_size=16, num_hidden_layers=7,
                         num_attention_heads=2)  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    english.save_pretrained(tmp_path)
    source = Checkpoint.open(tmp_path)
    for layers in (1, 2, 5, 6):
        limited(monkeypatch, 4 * n_parameters(tmp_path, layers))
        assert extent_of(source) == functional_check.Extent(layers, "float32")
    limited(monkeypatch, 2 * n_parameters(tmp_path, 1))
    assert extent_of(source) == functional_check.Extent(1, "bfloat16")


def test_half_precision_passes_within_its_rounding(tmp_path, tokenizers, pair, monkeypatch):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], "gpt2", dtype="bfloat16", tied=False)
    config = json.loads((source / "config.json").read_text())
    monkeypatch.setattr(functional_check, "extent_of", lambda source: functional_check.Extent(None, "bfloat16"))
    report = transfer(options_for(source, pair[1], tmp_path / "target"))
    assert report.check.dtype == "bfloat16"
    assert report.check.of_layers == config["n_layer"]
    assert report.check.largest_difference <= functional_check.LIMITS["bfloat16"]


def test_source_that_sees_later_tokens_is_refused_before_anything_is_written(tmp_path, english, padded_helper):
    source = make_source(tmp_path / "source", "bert", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"is_decoder": False}))
    with pytest.raises(InputError, match="set is_decoder to true"):
        transfer(options_for(source, padded_helper, tmp_path / "target"))
    assert not [path for path in tmp_path.iterdir() if "target" in path.name]


def test_source_that_cannot_be_run_is_refused_in_one_line(tmp_path, english, padded_helper, texts):
    source = make_source(tmp_path / "source", "roberta", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    line = refused("transfer", "--source", source, "--helper", padded_helper, "--output", tmp_path / "target")
    assert "RobertaForCausalLM" in line
    assert "cannot be run on token ids" in line
    assert "cannot be run on token ids" in refused("evaluate", source, "--text", texts[1])


# Positions that count from the padding id


FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "xmod", "prophetnet")


@pytest.mark.parametrize("model_type", FROM_PADDING)
def test_position_table_moves_with_the_padding_id(tmp_path, english, padded_helper, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=True)
    report = transfer(options_for(source, padded_helper, tmp_path / "target"))
    before, after = (Checkpoint.open(tmp_path / name) for name in ("source", "target"))
    pad, target_pad = before.config["pad_token_id"], after.config["pad_token_id"]
    assert target_pad == Vocabulary.open(padded_helper).roles["pad"]
    name = next(name for name in before.entries if name.endswith("position_embeddings.weight"))
    old, new = (load_file(folder.folder / "model.safetensors")[name] for folder in (before, after))
    assert torch.equal(new[target_pad:], old[pad:])
    assert len(new) == after.config["max_position_embeddings"] == len(old) + target_pad - pad
    assert max_positions(before.config) == max_positions(after.config) < len(old)
    assert any("table of positions was moved" in warning for warning in report.warnings)


@pytest.mark.parametrize("check", ["logits", "files"])
def test_positions_are_right_whatever_is_checked(tmp_path, english, padded_helper, check):
    source = make_source(tmp_path / "source", "roberta", english, tied=True)
    transfer(options_for(source, padded_helper, tmp_path / "target", check=check))
    assert predictions_differ_by(source, tmp_path / "target", padded_helper) < 1e-5


def predictions_differ_by(source, target, helper):
    pair = ModelPair.of(options_for(source, helper, target))
    common, special = pair.overlap.source_ids, pair.overlap.target.special_ids
    padding = pair.source.config["pad_token_id"]  # which the source's class passes over
    ids = [i for i in pair.overlap.ids.tolist() if i not in special and common[i] != padding][:20]
    old, new = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (source, target))
    with torch.inference_mode():
        expected = old(torch.tensor([pair.overlap.source_ids[ids].tolist()])).logits[..., pair.overlap.source_ids[ids]]
        found = new(torch.tensor([ids])).logits[..., ids]
    return float((expected - found).abs().max() / expected.std())


def test_class_that_counts_from_padding_needs_a_padding_token_of_its_own(tmp_path, tokenizers, english):
    source = make_source(tmp_path / "source", "xlm-roberta", english, tied=True)
    german = tokenizers["sentencepiece-bpe", "de"]
    helper = make_model(tmp_path / "none", german)
    with pytest.raises(InputError, match="the helper has none; give its tokenizer one"):
        transfer(options_for(source, helper, tmp_path / "target"))
    tokenizer = make_tokenizer("sentencepiece-bpe", GERMAN)
    tokenizer.pad_token = "</s>"
    helper = make_model(tmp_path / "end", tokenizer)
    with pytest.raises(InputError, match="the helper pads with '</s>'; give its tokenizer one"):
        transfer(options_for(source, helper, tmp_path / "target"))


def test_padding_index_stays_where_no_token_has_it(tokenizers, folders):
    vocabulary = Vocabulary.open(folders["sentencepiece-bpe", "de"])
    config = {"model_type": "roberta", "pad_token_id": vocabulary.n_ids + 3, "max_position_embeddings": 600}
    assert Padding.of(config, None, vocabulary, vocabulary.n_ids + 8) == Padding(vocabulary.n_ids + 3)
    with pytest.raises(InputError, match="the helper has none"):
        Padding.of(config, None, vocabulary, vocabulary.n_ids)
    assert Padding.of({"model_type": "llama"}, None, vocabulary, 9) == Padding(None)
    assert Padding.of({"model_type": "llama"}, 5, vocabulary, 9) == Padding(5)


@pytest.mark.parametrize("pad", [-1, 0, 5])
def test_padding_id_of_the_source_may_be_any(tmp_path, english, padded_helper, pad):
    source = make_source(tmp_path / "source", "roberta", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}))
    transfer(options_for(source, padded_helper, tmp_path / "target", check="files"))
    assert predictions_differ_by(source, tmp_path / "target", padded_helper) < 1e-5


def test_source_whose_positions_cannot_be_kept_is_refused(tmp_path, english, padded_helper):
    source = make_source(tmp_path / "source", "xglm", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"pad_token_id": 100}))
    with pytest.raises(InputError, match="has no vector for position 98"):
        transfer(options_for(source, padded_helper, tmp_path / "target"))
    source = make_source(tmp_path / "bare", "roberta", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    del config["max_position_embeddings"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="names no max_position_embeddings"):
        transfer(options_for(source, padded_helper, tmp_path / "target"))


def test_no_token_stands_for_an_image(tmp_path, english, padded_helper):
    """Gemma 4 has ids of its own for images and sounds where config.json names none, and replaces them in a text."""
    config = {"image_token_id": None, "text_config": {"vocab_size": 9}, "pad_token_id": 3}
    text = {"vocab_size": 9, "video_token_id": 2}
    built = {"image_token_id": 7, "audio_token_index": 100, "cls_token_id": 5, "pad_token_id": 3, "hidden_size": 4}
    found = without_placeholders(config, built | {"forced_eos_token_id": 2, "text_config": text}, 9)
    text = {"vocab_size": 9, "video_token_id": 9}
    assert found == {"image_token_id": 9, "forced_eos_token_id": None, "text_config": text, "pad_token_id": 3}
    source = make_source(tmp_path / "source", "got_ocr2", english, tied=True)
    loaded = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(loaded | {"image_token_id": 70}))
    transfer(options_for(source, padded_helper, tmp_path / "target"))
    target = AutoConfig.from_pretrained(tmp_path / "target")
    assert target.image_token_id >= target.text_config.vocab_size


def test_vocabulary_size_reaches_a_nested_configuration_that_names_none(tmp_path, english, padded_helper):
    source = make_source(tmp_path / "source", "gemma3", english, tied=True)
    config = json.loads((source / "config.json").read_text())
    ids = target_config(config | {"text_config": {}}, 50, SpecialIds(1, 2, None), tied=True)["text_config"]
    assert ids["vocab_size"] == 50
    transfer(options_for(source, padded_helper, tmp_path / "target"))


def test_class_that_fails_on_its_own_cache_generates_without_it(tmp_path, english, padded_helper, texts):
    source = make_source(tmp_path / "source", "prophetnet", english, tied=True)
    report = transfer(options_for(source, padded_helper, tmp_path / "target", eval_text=str(texts[1])))
    assert report.zero_step.sample
    assert not [warning for warning in report.warnings if "sample" in warning]


def test_target_is_kept_where_its_class_cannot_generate(tmp_path, pair, texts, monkeypatch):
    def fail(*args, **more):
        raise InputError("LlamaForCausalLM cannot generate text: it has no cache")

    monkeypatch.setattr("clp_core.evaluation.bits_per_byte.generate", fail)
    report = transfer(options_for(*pair, tmp_path / "target", eval_text=str(texts[1])))
    assert report.zero_step.sample == ""
    assert any("there is no sample: LlamaForCausalLM cannot generate text" in each for each in report.warnings)


def test_xglm_keeps_every_position(tmp_path, english, padded_helper):
    source = make_source(tmp_path / "source", "xglm", english, tied=True)
    report = transfer(options_for(source, padded_helper, tmp_path / "target"))
    config, generation = (
        json.loads((tmp_path / "target" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    pad = Vocabulary.open(padded_helper).roles["pad"]
    assert (config["pad_token_id"], generation["pad_token_id"]) == (None, pad)
    assert any("config.json names no pad_token_id" in warning for warning in report.warnings)


@pytest.mark.parametrize("model_type", ["modernbert-decoder", "gemma4_unified", "emu3"])
def test_class_that_needs_a_padding_id_gets_that_of_a_special_token(tmp_path, tokenizers, english, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=True)
    helper = make_model(tmp_path / "helper", tokenizers["sentencepiece-bpe", "de"])
    report = transfer(options_for(source, helper, tmp_path / "target"))
    assert any("need a pad_token_id and the helper has none" in warning for warning in report.warnings)
    assert report.check.largest_difference < 1e-4


@pytest.mark.parametrize("model_type", FROM_PADDING)
def test_texts_longer_than_the_positions_are_scored_in_windows_that_fit(tmp_path, english, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=True)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 60)
    assert np.isfinite(evaluate(source, [tmp_path / "text.txt"]).loss)


# Further tensors with an entry per token


def test_experts_by_token_id_are_those_of_the_nearest_copied_token(tmp_path, english, padded_helper):
    source = make_source(tmp_path / "source", "deepseek_v4", english, tied=False)
    transfer(options_for(source, padded_helper, tmp_path / "target"))
    (table,) = VocabularyTensors.of(Checkpoint.open(source)).tables
    old, new = (load_file(tmp_path / name / "model.safetensors")[table.name].numpy() for name in ("source", "target"))
    pair = ModelPair.of(options_for(source, padded_helper, "x"))
    overlap, rows = pair.overlap, pair.helper.rows("input").take(np.arange(pair.overlap.target.n_ids)).astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert new.dtype == np.int64
    assert (new[overlap.ids] == old[overlap.source_ids[overlap.ids]]).all()
    for token in overlap.missing_ids:
        cosines = rows[overlap.ids] @ rows[token]
        best = overlap.ids[np.flatnonzero(cosines >= cosines.max() - 1e-6)]
        assert any((new[token] == old[overlap.source_ids[one]]).all() for one in best)


def test_scales_of_logits_are_made_with_the_weights_of_the_output_rows(tmp_path, english, padded_helper):
    """Under ``mean`` every new row is the mean of the copied rows, so a new scale is the mean of the copied scales."""
    source = make_source(tmp_path / "source", "dory", english, tied=False)
    options = TransferOptions(str(source), str(padded_helper), str(tmp_path / "target"), "mean", no_heldout=True)
    transfer(options)
    old, new = (
        load_file(tmp_path / name / "model.safetensors")["lm_head.logit_scale"] for name in ("source", "target")
    )
    overlap = ModelPair.of(options).overlap
    copied = old[overlap.source_ids[overlap.ids]]
    assert torch.equal(new[overlap.ids], copied)
    torch.testing.assert_close(new[overlap.missing_ids], copied.mean().expand(len(overlap.missing_ids)))


@pytest.mark.parametrize("model_type", ["dory", "deepseek_v4", "roberta"])
def test_methods_are_compared_by_what_a_transfer_would_write(tmp_path, english, padded_helper, texts, model_type):
    source = make_source(tmp_path / "source", model_type, english, tied=False)
    options = CompareMethodsOptions(str(source), str(padded_helper), "clp", str(texts[1]))
    (score,) = compare_methods(options).scores
    transfer(options_for(source, padded_helper, tmp_path / "target"))
    assert score.zero_step_bits_per_byte == pytest.approx(evaluate(tmp_path / "target", [texts[1]]).bits_per_byte)


def test_table_of_as_many_positions_as_there_are_tokens_is_none_by_token_id(tmp_path, tokenizers, pair):
    tokenizer = tokenizers["byte-level", "en"]
    config = GPT2Config(n_positions=len(tokenizer), vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    report = transfer(options_for(tmp_path / "source", pair[1], tmp_path / "target"))
    assert report.check.largest_difference < 1e-4
