import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES, make_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from clp_core.errors import InputError
from clp_core.overlap import Overlap
from clp_core.provenance import Explainer
from clp_core.transfer import TransferOptions, transfer
from clp_core.vocabulary import Vocabulary


def run(source, helper, output, **options):
    return transfer(TransferOptions(str(source), str(helper), str(output), **options))


def digest_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_target_opens_as_it_is_with_the_rows_it_should_have(tmp_path, tokenizers, pair, shape, tied, dtype):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], shape, tied, dtype)
    helper, before = pair[1], digest_of(tmp_path / "source")
    report = run(source, helper, tmp_path / "target", method="clp")
    assert digest_of(source) == before
    old = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    new, info = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert new.dtype == getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "target")
    assert tokenizer.get_vocab() == tokenizers["byte-level", "de"].get_vocab()
    assert new.config.vocab_size == len(tokenizer)
    generation = GenerationConfig.from_pretrained(tmp_path / "target")
    for config in (new.config, generation):
        assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    is_tied = new.get_input_embeddings().weight is new.get_output_embeddings().weight
    assert is_tied == tied
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(helper))
    assert (report["overlap"], report["missing"]) == (overlap.size, len(overlap.missing_ids))
    h = AutoModelForCausalLM.from_pretrained(helper).get_input_embeddings().weight.detach().double().numpy()
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        e_old, e_new = (getattr(m, get)().weight.detach() for m in (old, new))
        for i in overlap.ids:
            assert torch.equal(e_new[i], e_old[overlap.source_ids[i]])
        anchors = e_old[overlap.source_ids[overlap.ids]].double().numpy()
        cosines = unit[overlap.missing_ids] @ unit[overlap.ids].T
        weights = cosines / cosines.sum(axis=1, keepdims=True)
        bound = np.abs(weights) @ np.linalg.norm(anchors, axis=1)
        error = np.linalg.norm(e_new[overlap.missing_ids].double().numpy() - weights @ anchors, axis=1)
        rounding = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
        norms = np.linalg.norm(weights @ anchors, axis=1)
        assert (error <= 1e-5 * bound + 1.01 * rounding * norms + 1e-6).all()
    body_old, body_new = old.state_dict(), new.state_dict()
    for name, tensor in body_old.items():
        if tensor.shape[0] != old.config.vocab_size:
            assert torch.equal(tensor, body_new[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tokenizer_family_can_be_the_helpers(tmp_path, tokenizers, pair, family):
    helper = make_model(tmp_path / "helper", tokenizers[family, "de"], "gpt2", width=16)
    report = run(pair[0], helper, tmp_path / "target", method="linear", match="canonical")
    text = "Der Fuchs läuft."
    expected = tokenizers[family, "de"](text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "target")(text)["input_ids"] == expected
    assert report["warnings"] == []


def test_sharded_source_stays_sharded_and_right(tmp_path, tokenizers, pair):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], "llama", tied=False)
    model = AutoModelForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    run(source, pair[1], tmp_path / "target", method="mean")
    index = json.loads((tmp_path / "target" / "model.safetensors.index.json").read_text())
    total = 0
    for name in set(index["weight_map"].values()):
        total += sum(t.numel() * t.element_size() for t in load_file(tmp_path / "target" / name).values())
    assert index["metadata"]["total_size"] == total
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "target").config.vocab_size == len(
        tokenizers["byte-level", "de"]
    )


def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path, pair):
    for name, hash_seed in (("a", "1"), ("b", "2")):
        command = [sys.executable, "-m", "clp_core", "transfer", "--method", "random"]
        command += ["--source", str(pair[0]), "--helper", str(pair[1]), "--output", str(tmp_path / name)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True)
    for file in ("model.safetensors", "clp_provenance.parquet", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_padded_source_and_gap_in_the_helpers_ids_are_handled_and_told(tmp_path, tokenizers, pair):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], rows=700)
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, rows=800)
    path = helper / "tokenizer.json"
    content = json.loads(path.read_text())
    last = max(content["model"]["vocab"].values())
    content["added_tokens"].append(
        {
            "id": last + 5,
            "content": "<extra>",
            "special": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    )
    path.write_text(json.dumps(content))
    report = run(source, helper, tmp_path / "target", method="mean")
    assert any("padded rows" in w for w in report["warnings"])
    assert Vocabulary.open(helper).n_ids in (last + 2, last + 6)  # the library may close the gap itself
    table = pd.read_parquet(tmp_path / "target" / "clp_provenance.parquet")
    assert len(table) == Vocabulary.open(tmp_path / "target").n_ids


def test_helper_with_fewer_rows_than_tokens_is_refused(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, rows=100)
    with pytest.raises(InputError, match="100 embedding rows but its tokenizer has ids up to"):
        run(pair[0], helper, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_no_token_in_common_is_refused(tmp_path, tokenizers, pair):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"@@1": 0, "@@2": 1}, unk_token="@@1")), eos_token="@@2"
    )
    helper = make_model(tmp_path / "helper", other, "gpt2", width=16)
    with pytest.raises(InputError, match="no token in common; try --match canonical"):
        run(pair[0], helper, tmp_path / "target")


def test_existing_output_is_kept_unless_overwrite_is_given(tmp_path, pair):
    output = tmp_path / "target"
    run(*pair, output, method="mean")
    before = digest_of(output)
    with pytest.raises(InputError, match="exists and is kept"):
        run(*pair, output, method="random")
    assert digest_of(output) == before
    run(*pair, output, method="random", overwrite=True)
    assert digest_of(output)["model.safetensors"] != before["model.safetensors"]
    assert [p.name for p in tmp_path.iterdir() if "target" in p.name] == ["target"]


def test_writing_over_an_input_is_refused_with_any_flag(tmp_path, pair):
    root = tmp_path / "models"
    source = shutil.copytree(pair[0], root / "source")
    for output in (source, root):
        with pytest.raises(InputError):
            run(source, pair[1], output, overwrite=True)
    assert (source / "model.safetensors").is_file()


def test_output_that_appears_meanwhile_is_kept(tmp_path, pair, monkeypatch):
    from clp_core import transfer as module

    output = tmp_path / "target"
    check = module.verify

    def appear(*arguments):
        output.mkdir()
        (output / "config.json").write_text("{}")
        return check(*arguments)

    monkeypatch.setattr(module, "verify", appear)
    with pytest.raises(InputError, match="came to be in the meantime"):
        run(*pair, output, method="mean")
    assert [path.name for path in output.iterdir()] == ["config.json"]
    assert not list(tmp_path.glob(".target*"))


def test_folder_that_is_no_model_is_never_replaced(tmp_path, pair):
    output = tmp_path / "papers"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds files but no model"):
        run(*pair, output, overwrite=True)
    assert (output / "thesis.txt").read_text() == "years of work"


def test_truncated_and_missing_weights_are_refused(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cut short"):
        run(source, pair[1], tmp_path / "target")
    weights.unlink()
    with pytest.raises(InputError, match="holds no weights"):
        run(source, pair[1], tmp_path / "target")
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="pickles"):
        run(source, pair[1], tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_source_with_nan_rows_leaves_nothing_behind(tmp_path, tokenizers, pair):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    model = AutoModelForCausalLM.from_pretrained(source)
    model.get_input_embeddings().weight.data[5] = float("nan")
    model.save_pretrained(source)
    with pytest.raises(InputError, match="not finite"):
        run(source, pair[1], tmp_path / "target", method="mean")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_transfer_leaves_nothing_behind(tmp_path, pair, signal_number):
    command = [sys.executable, "-m", "clp_core", "transfer", "--source", str(pair[0]), "--helper", str(pair[1])]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "out" / "target")], stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list((tmp_path / "out").glob(".target.partial-*")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal_number)
    process.wait(60)
    assert process.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk_is_told_before_the_first_byte(tmp_path, pair, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs .* GB, 0\.0 GB free"):
        run(*pair, tmp_path / "target")


def test_chat_template_of_the_source_is_dropped_and_told(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    report = run(source, pair[1], tmp_path / "target", method="mean")
    assert any("chat template" in warning for warning in report["warnings"])
    assert not (tmp_path / "target" / "chat_template.jinja").exists()
    assert "chat template" in (tmp_path / "target" / "README.md").read_text()


def test_tokenizer_that_transformers_replaces_is_told_with_the_cure(tmp_path, tokenizers, pair):
    """transformers 5 gives some model types their own tokenizer class, whatever the files say."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizers["byte-level", "en"]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "source")
    tokenizers["byte-level", "en"].save_pretrained(tmp_path / "source")
    helper = make_model(tmp_path / "helper", tokenizers["wordpiece", "de"], "gpt2", width=16)
    report = run(tmp_path / "source", helper, tmp_path / "target", method="mean", match="canonical")
    text = "Der Fuchs läuft über den Fluss."
    same = (
        AutoTokenizer.from_pretrained(tmp_path / "target")(text)["input_ids"]
        == tokenizers["wordpiece", "de"](text)["input_ids"]
    )
    told = any("load it with PreTrainedTokenizerFast" in warning for warning in report["warnings"])
    assert told != same  # nothing is tokenised otherwise in silence
    from transformers import PreTrainedTokenizerFast

    cured = PreTrainedTokenizerFast.from_pretrained(tmp_path / "target")
    assert cured(text)["input_ids"] == tokenizers["wordpiece", "de"](text)["input_ids"]


def test_generation_config_drops_ids_of_the_sources_tokens(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    content = json.loads((source / "generation_config.json").read_text())
    (source / "generation_config.json").write_text(
        json.dumps(content | {"suppress_tokens": [7, 8], "temperature": 0.7})
    )
    report = run(source, pair[1], tmp_path / "target", method="mean")
    written = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert "suppress_tokens" not in written
    assert written["temperature"] == 0.7
    assert any("suppress_tokens" in warning for warning in report["warnings"])


def test_unsound_rows_are_told_with_the_better_method(tmp_path, tokenizers):
    """The helper's rows hold the source's (so linear finds them) and one strong common direction (so clp collapses)."""
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], width=32, seed=1)
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=48, seed=2)
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(helper))
    rows = AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight.detach()
    model = AutoModelForCausalLM.from_pretrained(helper)
    h = model.get_input_embeddings().weight.data
    h[overlap.ids, :32] = rows[overlap.source_ids[overlap.ids]]
    h[:, 40] = 5.0
    model.save_pretrained(helper)
    report = run(source, helper, tmp_path / "target", method="clp")
    assert report["health"]["rows_at_risk"] == report["missing"]
    (warning,) = report["warnings"]
    assert "collapse to the mean" in warning
    assert "use --method linear" in warning
    assert run(source, helper, tmp_path / "better", method="linear")["health"]["rows_at_risk"] == 0


def test_explanation_equals_the_written_row(tmp_path, pair):
    run(*pair, tmp_path / "target", method="linear")
    explainer = Explainer.open(tmp_path / "target")
    source = load_file(pair[0] / "model.safetensors")["model.embed_tokens.weight"].double().numpy()
    target = load_file(tmp_path / "target" / "model.safetensors")["model.embed_tokens.weight"].double().numpy()
    token_id = int(explainer.table.index[explainer.table["status"] == "initialised"][3])
    found = explainer.explain(token_id, k=10_000)
    assert len(found.anchors) == found.n_anchors
    row = sum(anchor.weight * source[anchor.source_id] for anchor in found.anchors)
    np.testing.assert_allclose(row, target[token_id], atol=1e-6)
    weights = np.array([anchor.weight for anchor in found.anchors])
    np.testing.assert_allclose(found.n_eff, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(found.cancellation, 1 - abs(weights.sum()) / np.abs(weights).sum(), rtol=1e-6)
    copied = explainer.explain(int(explainer.anchor_ids[0]))
    assert (copied.status, copied.anchors, copied.n_eff) == ("copied", (), None)
