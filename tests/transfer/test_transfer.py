import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import FAMILIES, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from clp_core.errors import InputError
from clp_core.initializers import INITIALIZERS, MODULES, MethodRegistry
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer


def run(source, helper, output, **options):
    return transfer(TransferOptions(str(source), str(helper), str(output), **options))


def digest_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_methods_are_loaded_when_they_are_looked_up_and_named_as_they_name_themselves():
    assert {name: method.name for name, method in INITIALIZERS.items()} == {name: name for name in MODULES}
    registry = MethodRegistry({"mean": "mean:Mean", "gone": "no_such_file:Gone"})
    assert (list(registry), len(registry), "gone" in registry, "x" in registry) == (["mean", "gone"], 2, True, False)
    assert type(registry["mean"]) is type(INITIALIZERS["mean"])
    assert registry["mean"] is registry["mean"]
    with pytest.raises(ModuleNotFoundError):
        registry["gone"]


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
    assert (report.overlap, report.missing) == (overlap.size, len(overlap.missing_ids))
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
    report = run(pair[0], helper, tmp_path / "target", method="linear", match="canonical", guard="none")
    text = "Der Fuchs läuft."
    expected = tokenizers[family, "de"](text)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "target")(text)["input_ids"] == expected
    assert report.warnings == ()


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


@pytest.mark.process
def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path, pair):
    methods = ("random", "two-view")
    for method in methods:
        run(*pair, tmp_path / "here" / method, method=method)
    given = ["transfer", "--source", str(pair[0]), "--helper", str(pair[1])]
    commands = [[*given, "--method", method, "--output", str(tmp_path / "there" / method)] for method in methods]
    code = f"from clp_core.cli import main; assert [main(command) for command in {commands}] == [0, 0]"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    for file in ("model.safetensors", "clp_provenance.parquet", "config.json"):
        for method in methods:
            here, there = ((tmp_path / where / method / file).read_bytes() for where in ("here", "there"))
            assert here == there, (method, file)


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
    assert any("padded rows" in w for w in report.warnings)
    assert Vocabulary.open(helper).n_ids in (last + 2, last + 6)  # the library may close the gap itself
    table = pd.read_parquet(tmp_path / "target" / "clp_provenance.parquet")
    assert len(table) == Vocabulary.open(tmp_path / "target").n_ids


def test_helper_with_fewer_rows_than_tokens_is_refused(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, rows=100)
    with pytest.raises(InputError, match="100 embedding rows"):
        run(pair[0], helper, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_no_token_in_common_is_refused(tmp_path, tokenizers, pair):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"@@1": 0, "@@2": 1}, unk_token="@@1")), eos_token="@@2"
    )
    helper = make_model(tmp_path / "helper", other, "gpt2", width=16)
    with pytest.raises(InputError, match="--match canonical"):
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
    from clp_core.transfer import target_writer as module

    output = tmp_path / "target"
    check = module.verify

    def appear(*arguments):
        output.mkdir()
        (output / "config.json").write_text("{}")
        return check(*arguments)

    monkeypatch.setattr(module, "verify", appear)
    with pytest.raises(InputError, match="meantime"):
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


def test_chat_template_of_the_source_is_dropped_and_told(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    report = run(source, pair[1], tmp_path / "target", method="mean")
    assert any("chat template" in warning for warning in report.warnings)
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
    told = any("load it with PreTrainedTokenizerFast" in warning for warning in report.warnings)
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
    assert any("suppress_tokens" in warning for warning in report.warnings)


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
    assert report.health.rows_at_risk == report.missing
    (warning,) = report.warnings
    assert "collapse to the mean" in warning
    assert "--method auto" in warning
    assert run(source, helper, tmp_path / "better", method="linear").health.rows_at_risk == 0


def rows_of(folder, name="model.embed_tokens.weight"):
    return load_file(folder / "model.safetensors")[name].double().numpy()


def test_report_names_the_hash_of_every_source_file(tmp_path, pair):
    report = run(*pair, tmp_path / "target", method="mean")
    assert report.source_files == {"model.safetensors": digest_of(pair[0])["model.safetensors"]}
    assert report.source_files["model.safetensors"] in (tmp_path / "target" / "README.md").read_text()


def test_rows_fill_up_to_a_multiple(tmp_path, pair, tokenizers):
    report = run(*pair, tmp_path / "target", method="mean", pad_to_multiple_of=64)
    n_ids = len(tokenizers["byte-level", "de"])
    assert report.rows == -(-n_ids // 64) * 64 > n_ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == report.rows
    table = pd.read_parquet(tmp_path / "target" / "clp_provenance.parquet")
    assert (table["status"][n_ids:] == "padding").all()
    assert report.statuses["padding"] == report.rows - n_ids
    rows, copied = rows_of(tmp_path / "target"), table["status"] == "copied"
    np.testing.assert_allclose(rows[n_ids:], np.tile(rows[copied].mean(axis=0), (report.rows - n_ids, 1)), atol=1e-6)


def test_source_tokens_beyond_the_sources_rows_count_as_missing(tmp_path, tokenizers, pair):
    tokenizer = tokenizers["byte-level", "en"]
    source = make_model(tmp_path / "source", tokenizer, rows=len(tokenizer) - 40)
    full = run(*pair, tmp_path / "full", method="mean")
    report = run(source, pair[1], tmp_path / "target", method="mean")
    assert 0 < report.overlap < full.overlap
    gone = full.overlap - report.overlap
    assert any(w.startswith(f"{gone} tokens in common lie beyond the source's") for w in report.warnings)


def test_special_tokens_are_copied_by_role_when_asked(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["unigram", "de"], "gpt2", width=16)
    found = {}
    for rule in ("string", "role"):
        run(pair[0], helper, tmp_path / rule, method="mean", special_tokens=rule)
        found[rule] = pd.read_parquet(tmp_path / rule / "clp_provenance.parquet").set_index("token")
    assert found["string"].loc["</s>", "status"] == "initialised"
    record = found["role"].loc["</s>"]
    source = Vocabulary.open(pair[0])
    assert (record["status"], record["source_id"]) == ("special", source.roles["eos"])
    assert np.array_equal(rows_of(tmp_path / "role")[record["id"]], rows_of(pair[0])[source.roles["eos"]])


def test_same_string_with_another_role_is_told(tmp_path, tokenizers, pair):
    helper = shutil.copytree(pair[1], tmp_path / "helper")
    english = tokenizers["byte-level", "en"].get_vocab()
    token = next(t for t in tokenizers["byte-level", "de"].get_vocab() if t in english)
    config = json.loads((helper / "tokenizer_config.json").read_text())
    (helper / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": token}))
    report = run(pair[0], helper, tmp_path / "target", method="mean")
    assert any("have another special role in the source" in warning for warning in report.warnings)


def test_overrides_are_the_mean_of_the_named_rows(tmp_path, pair):
    source, target = Vocabulary.open(pair[0]), Vocabulary.open(pair[1])
    overlap = Overlap.of(source, target)
    missing, copied = int(overlap.missing_ids[7]), int(overlap.ids[40])
    named = [t for t in source.tokens if t and t.startswith("Ġ")][:3]
    (tmp_path / "more.tsv").write_text(f"#{copied}\tquick fox\n")
    override = (f"#{missing}={' '.join(named)}",)
    report = run(
        *pair, tmp_path / "target", method="linear", override=override, override_file=str(tmp_path / "more.tsv")
    )
    assert report.overlap == overlap.size - 1
    assert report.statuses["override"] == 2
    rows, before = rows_of(tmp_path / "target"), rows_of(pair[0])
    np.testing.assert_allclose(rows[missing], before[[source.ids[t] for t in named]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(rows[copied], before[source.encode("quick fox")].mean(axis=0), atol=1e-6)
    found = Explainer.open(tmp_path / "target").explain(missing)
    assert (found.status, [anchor.token for anchor in found.anchors]) == ("override", named)
    assert "tokens overridden by hand | 2" in (tmp_path / "target" / "README.md").read_text()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("nothing", "is not TOKEN=TEXT"),
        ("#3=", "is not TOKEN=TEXT"),
        ("no such token at all=fox", "no such token at all"),
    ],
)
def test_bad_overrides_are_refused(tmp_path, pair, override, told):
    with pytest.raises(InputError, match=told):
        run(*pair, tmp_path / "target", override=(override,))
    assert not (tmp_path / "target").exists()


def test_token_overridden_twice_is_refused(tmp_path, pair):
    with pytest.raises(InputError, match="overridden twice"):
        run(*pair, tmp_path / "target", override=("#300=fox", "#300=dog"))


def anisotropic(tmp_path, tokenizers, source):
    """A helper that holds the source's rows, so linear finds them, and one strong direction, so the rule collapses."""
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=48, seed=2)
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(helper))
    model, rows = AutoModelForCausalLM.from_pretrained(helper), torch.from_numpy(rows_of(source)).float()
    h = model.get_input_embeddings().weight.data
    h[overlap.ids, :32] = rows[overlap.source_ids[overlap.ids]]
    h[:, 40] = 5.0
    model.save_pretrained(helper)
    return helper


def test_guard_is_silent_tells_or_takes_over(tmp_path, tokenizers, pair):
    helper = anisotropic(tmp_path, tokenizers, pair[0])
    reports = {g: run(pair[0], helper, tmp_path / g, method="clp", guard=g) for g in ("none", "warn", "fallback")}
    linear = run(pair[0], helper, tmp_path / "linear", method="linear")
    assert reports["none"].warnings == ()
    assert "collapse to the mean" in reports["warn"].warnings[0]
    files = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in ("none", "warn", "fallback")}
    assert files["none"] == files["warn"]  # the published result is untouched
    taken = reports["fallback"].guard.taken_over
    assert taken["linear"] + taken["mean"] == reports["warn"].health.rows_at_risk
    table = pd.read_parquet(tmp_path / "fallback" / "clp_provenance.parquet")
    by_linear = table["id"][table["method"] == "linear"].to_numpy()
    assert len(by_linear) == taken["linear"] > 0
    rows, expected = rows_of(tmp_path / "fallback")[by_linear], rows_of(tmp_path / "linear")[by_linear]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert linear.health.rows_at_risk == taken["mean"]
    assert Explainer.open(tmp_path / "fallback").explain(int(by_linear[0])).method == "linear"


def test_matched_norms_make_every_new_row_as_long_as_copied_ones(tmp_path, pair):
    plain = run(*pair, tmp_path / "plain", method="linear")
    run(*pair, tmp_path / "matched", method="linear", match_norms=True)
    table = pd.read_parquet(tmp_path / "matched" / "clp_provenance.parquet")
    made = (table["status"] == "initialised").to_numpy()
    np.testing.assert_allclose(table["norm_ratio"][made], 1, rtol=1e-5)
    before, after = rows_of(tmp_path / "plain")[made], rows_of(tmp_path / "matched")[made]
    np.testing.assert_allclose(after, before * table["scale"][made].to_numpy()[:, None], atol=1e-6)
    assert plain.health.norm_ratio_max != 1


def test_scratch_keeps_nothing_of_the_source_but_its_shape(tmp_path, pair):
    report = run(*pair, tmp_path / "target", method="scratch")
    again = run(*pair, tmp_path / "again", method="scratch")
    other = run(*pair, tmp_path / "other", method="scratch", seed=7)
    old, new = (AutoModelForCausalLM.from_pretrained(folder) for folder in (pair[0], tmp_path / "target"))
    shared = [n for n, p in old.named_parameters() if p.dim() == 2 and "embed" not in n]
    assert shared
    assert not any(torch.equal(old.get_parameter(n), new.get_parameter(n)) for n in shared)
    assert (report.overlap, report.statuses["copied"]) == (0, 0)
    assert report.missing == again.missing == other.missing > 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("target", "again", "other")]
    assert files[0] == files[1] != files[2]
    assert "drawn at random" in (tmp_path / "target" / "README.md").read_text()


def test_auto_takes_the_plain_method_unless_the_other_is_clearly_better(tmp_path, pair, monkeypatch):
    from clp_core.transfer import method_selection

    report = run(*pair, tmp_path / "plain", method="auto")
    assert report.method == "linear"
    assert report.settings["linear"]["neighbours"] == 16
    assert set(report.auto.scores) == {"linear", "two-view"}
    assert report.auto.reason in (tmp_path / "plain" / "README.md").read_text()
    monkeypatch.setattr(method_selection, "MARGIN", -2.0)
    assert run(*pair, tmp_path / "richer", method="auto").method == "two-view"


def test_settings_of_the_method_are_used_and_reported(tmp_path, pair):
    report = run(*pair, tmp_path / "target", method="clp-topk", setting=("k=3", "temperature=0.5"))
    assert report.settings["clp-topk"] == {"k": 3, "temperature": 0.5, "centred": 1}
    table = pd.read_parquet(tmp_path / "target" / "clp_provenance.parquet")
    assert (table["anchor_ids"][table["status"] == "initialised"].map(len) == 3).all()
    with pytest.raises(InputError, match=r"clp-topk .*'kk'"):
        run(*pair, tmp_path / "other", method="clp-topk", setting=("kk=3",))


def write_vec(path, words, vectors):
    lines = [f"{len(words)} {vectors.shape[1]}"]
    lines += [f"{word} {' '.join(f'{x:.5f}' for x in vector)}" for word, vector in zip(words, vectors, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_static_vectors_of_words_make_rows_by_either_rule(tmp_path, pair):
    r = np.random.default_rng(0)
    german = ["Fuchs", "Hund", "Wald", "Haus", "Fluss", "und", *[f"Wort{i}" for i in range(60)]]
    english = ["fox", "dog", "forest", "house", "river", "and", *[f"word{i}" for i in range(60)]]
    turn = np.linalg.qr(r.standard_normal((6, 6)))[0]
    meaning = r.standard_normal((len(english), 6))
    write_vec(tmp_path / "de.vec", german, meaning @ turn)
    write_vec(tmp_path / "en.vec", english, meaning)
    pairs = [f"{a}\t{b}" for a, b in zip(german, english, strict=True)]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    focus = run(*pair, tmp_path / "focus", method="static-vectors", target_vectors=str(tmp_path / "de.vec"))
    wechsel = run(
        *pair, tmp_path / "wechsel", method="static-vectors", target_vectors=str(tmp_path / "de.vec"),
        source_vectors=str(tmp_path / "en.vec"), dictionary=str(tmp_path / "pairs.tsv"),
    )  # fmt: skip
    assert focus.missing == wechsel.missing
    source, target = Vocabulary.open(pair[0]), Vocabulary.open(pair[1])
    fox = target.find(" Fuchs")
    found = Explainer.open(tmp_path / "wechsel").explain(fox)
    assert found.anchors[0].token in [source.tokens[i] for i in source.encode(" fox") + source.encode("fox")]
    with pytest.raises(InputError, match="--source-vectors and --dictionary"):
        run(*pair, tmp_path / "x", method="static-vectors", target_vectors="de.vec", source_vectors="en.vec")
    with pytest.raises(InputError, match=r"static-vectors .* --target-vectors"):
        run(*pair, tmp_path / "x", method="static-vectors")


@pytest.mark.parametrize("match", ["raw", "canonical"])
@pytest.mark.parametrize("family", FAMILIES)
def test_published_formula_holds_for_every_family(tmp_path, tokenizers, family, match):
    source = make_model(tmp_path / "source", tokenizers[family, "en"], "llama", tied=False, seed=3)
    helper = make_model(tmp_path / "helper", tokenizers[family, "de"], "gpt2", width=16, seed=4)
    run(source, helper, tmp_path / "target", method="clp", match=match)
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(helper), match)
    h = load_file(helper / "model.safetensors")["transformer.wte.weight"].double().numpy()
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    cosines = h[overlap.missing_ids] @ h[overlap.ids].T
    weights = cosines / cosines.sum(axis=1, keepdims=True)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        anchors = rows_of(source, name)[overlap.source_ids[overlap.ids]]
        bound = np.abs(weights) @ np.linalg.norm(anchors, axis=1)
        found = rows_of(tmp_path / "target", name)[overlap.missing_ids]
        assert (np.linalg.norm(found - weights @ anchors, axis=1) <= 1e-5 * bound).all()


def gptj(folder, tokenizer, tied):
    """A model whose output layer has a bias far from zero."""
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(0)
    config = GPTJConfig(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, rotary_dim=8,
        tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPTJForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias, mean=-5.0, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_output_bias_is_made_like_its_row_and_never_scaled_or_judged(tmp_path, tokenizers, pair, tied):
    source = gptj(tmp_path / "source", tokenizers["byte-level", "en"], tied)
    for name, options in (("plain", {}), ("matched", {"match_norms": True}), ("guarded", {"guard": "fallback"})):
        run(source, pair[1], tmp_path / name, method="clp-topk", **options)
    models = {n: AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("plain", "matched", "guarded")}
    biases = {name: model.lm_head.bias.detach() for name, model in models.items()}
    assert torch.equal(biases["plain"], biases["matched"])
    assert torch.equal(biases["plain"], biases["guarded"])
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(pair[1]))
    assert (biases["plain"][overlap.missing_ids] < -4).all()
    copied, made = (
        models["matched"].lm_head.weight[ids].detach().norm(dim=1) for ids in (overlap.ids, overlap.missing_ids)
    )
    torch.testing.assert_close(made, copied.mean().expand_as(made), rtol=1e-4, atol=0)


def test_output_matrix_with_values_of_its_own_is_kept_though_the_config_says_tied(tmp_path, tokenizers, pair):
    from safetensors.torch import save_file

    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], "llama", tied=True)
    safetensors_reader = load_file(source / "model.safetensors")
    safetensors_reader["lm_head.weight"] = torch.randn_like(safetensors_reader["model.embed_tokens.weight"])
    save_file(safetensors_reader, source / "model.safetensors", metadata={"format": "pt"})
    report = run(source, pair[1], tmp_path / "target", method="mean")
    assert report.tied is False
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(pair[1]))
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    expected = safetensors_reader["lm_head.weight"][overlap.source_ids[overlap.ids]]
    assert torch.equal(new.get_output_embeddings().weight[overlap.ids], expected)
    assert new.config.tie_word_embeddings is False
    safetensors_reader["lm_head.weight"] = safetensors_reader[
        "model.embed_tokens.weight"
    ].clone()  # a second copy is a copy
    save_file(safetensors_reader, source / "model.safetensors", metadata={"format": "pt"})
    assert run(source, pair[1], tmp_path / "again", method="mean").tied is True
    assert "lm_head.weight" not in load_file(tmp_path / "again" / "model.safetensors")


def test_source_with_a_further_table_by_token_is_refused(tmp_path, tokenizers, pair):
    from transformers import AutoConfig

    tokenizer = tokenizers["byte-level", "en"]
    config = AutoConfig.for_model(
        "gemma3n_text", vocab_size=len(tokenizer), vocab_size_per_layer_input=len(tokenizer), hidden_size=32,
        intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=4, layer_types=["full_attention"],
        activation_sparsity_pattern=[0.0],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    with pytest.raises(InputError, match=r"per_layer"):
        run(tmp_path / "source", pair[1], tmp_path / "target")


def test_quantised_source_is_refused_before_anything_is_written(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (source / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(InputError, match=r"is quantised \(bitsandbytes\)|is no causal language model"):
        run(source, pair[1], tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_helpers_own_tokenizer_code_is_left_behind(tmp_path, pair):
    helper = shutil.copytree(pair[1], tmp_path / "helper")
    config = json.loads((helper / "tokenizer_config.json").read_text())
    custom = config | {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["my.MyTokenizer", None]}}
    (helper / "tokenizer_config.json").write_text(json.dumps(custom))
    run(pair[0], helper, tmp_path / "target", method="mean")
    written = json.loads((tmp_path / "target" / "tokenizer_config.json").read_text())
    assert "auto_map" not in written
    text = "Der alte Fuchs"
    expected = Vocabulary.open(pair[1]).encode(text)
    assert AutoTokenizer.from_pretrained(tmp_path / "target")(text)["input_ids"] == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "scratch", "override": ("#300=fox",)}, "--override"),
        ({"method": "linear", "target_vectors": "de.vec"}, "linear .*word vectors"),
        ({"method": "clp-topk", "setting": ("k=inf",)}, "is not NAME=NUMBER"),
        ({"method": "auto", "setting": ("k=3",)}, "name the method"),
        ({"seed": 2**64}, "--seed: 18446744073709551616 is too large"),
        ({"guard": "maybe"}, "--guard: 'maybe'"),
        ({"device": "tpu"}, "--device: 'tpu'"),
    ],
)
def test_options_without_effect_or_sense_are_refused(tmp_path, pair, options, told):
    with pytest.raises(InputError, match=told):
        run(*pair, tmp_path / "target", **options)
    assert not (tmp_path / "target").exists()


def test_health_of_untied_output_rows_is_reported_too(tmp_path, tokenizers, pair):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], tied=False)
    report = run(source, pair[1], tmp_path / "target", method="clp")
    table = pd.read_parquet(tmp_path / "target" / "clp_provenance.parquet")
    assert report.health.output.rows_at_risk == table["output_at_risk"].sum()
    rows = rows_of(tmp_path / "target", "lm_head.weight")
    lengths = np.linalg.norm(rows, axis=1)
    usual = lengths[table["status"] == "copied"].mean()
    np.testing.assert_allclose(table["output_norm_ratio"], lengths / usual, rtol=1e-5)
    assert any("new output rows are at risk" in w for w in report.warnings)


def test_large_matrices_are_read_in_several_reads(tmp_path, pair, monkeypatch):
    from clp_core.checkpoints import safetensors_reader

    run(*pair, tmp_path / "once", method="linear")
    monkeypatch.setattr(safetensors_reader, "READ_BYTES", 1000)
    run(*pair, tmp_path / "often", method="linear")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "often")]
    assert files[0] == files[1]
