"""The weights of a folder are those that transformers loads, whatever lies beside them; other folders are named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.awkward_models import LAYOUTS, model_in_layout
from support.commands import refused, result_of
from support.tiny_models import make_model
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.errors import InputError
from clp_core.files.model_files import chosen_weights
from clp_core.hub.download import weight_names
from clp_core.publishing.push import reason_left_out, refuse_no_model
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.workspace import ModelEntry

IDS = torch.arange(40)[None]
INDEX = "model.safetensors.index.json"


def logits_of(folder):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits


@pytest.fixture(scope="module")
def english(tokenizers):
    return tokenizers["byte-level", "en"]


@pytest.fixture(scope="module")
def same_tokens(tmp_path_factory, english):
    """A helper with the sources' tokenizer, so that a target is the source itself."""
    return make_model(tmp_path_factory.mktemp("same") / "helper", english, "gpt2", width=16)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_target_is_the_model_that_transformers_loads_from_the_source(tmp_path, english, same_tokens, layout, tied):
    source = model_in_layout(tmp_path / "source", english, layout, tied=tied)
    expected = logits_of(make_model(tmp_path / "plain", english, tied=tied))
    assert torch.equal(logits_of(source), expected)
    target = tmp_path / "target"
    transfer(TransferOptions(str(source), str(same_tokens), str(target), "mean", no_heldout=True))
    assert torch.equal(logits_of(target), expected)
    names = {path.name for path in target.glob("*.safetensors*")} - {INDEX}
    is_sharded = (target / INDEX).is_file()
    held = set(json.loads((target / INDEX).read_text())["weight_map"].values()) if is_sharded else {"model.safetensors"}
    assert names == held
    assert "transformers_weights" not in json.loads((target / "config.json").read_text())
    assert Checkpoint.open(target).warnings == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unused_weights_are_named(tmp_path, english, layout):
    source = model_in_layout(tmp_path / "source", english, layout)
    unused = {
        "single beside stale shards": ["model-00001-of-00002.safetensors", INDEX],
        "single beside a pickle": ["pytorch_model.bin"],
        "shards beside a pickle": ["pytorch_model.bin"],
        "pickle beside pickled shards": ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
        "named file": ["model.safetensors"],
        "named index": ["model.safetensors"],
        "makers' own format": ["consolidated.safetensors", "original/consolidated.00.pth"],
        "adapter beside": ["adapter_config.json"],
        "tensor in two shards": ["model.norm.weight"],
    }.get(layout, [])
    told = " ".join(Checkpoint.open(source).warnings)
    assert all(name in told for name in unused)
    assert bool(told) == bool(unused)


def test_report_of_a_transfer_names_unused_weights_of_both_models(tmp_path, english):
    source = model_in_layout(tmp_path / "source", english, "single beside stale shards")
    helper = model_in_layout(tmp_path / "helper", english, "shards beside a pickle")
    report = transfer(TransferOptions(str(source), str(helper), str(tmp_path / "target"), "mean", no_heldout=True))
    (of_source,), (of_helper,) = (Checkpoint.open(folder).warnings for folder in (source, helper))
    assert {of_source, of_helper} <= set(report.warnings)


@pytest.mark.parametrize("layout", ["single beside stale shards", "shards beside a pickle", "pickle"])
def test_size_of_a_model_is_that_of_the_weights_it_is_loaded_from(tmp_path, english, layout):
    source = model_in_layout(tmp_path / "source", english, layout)
    used = chosen_weights(source).files
    assert ModelEntry("source", source, "model", {}).n_bytes == sum(path.stat().st_size for path in used)
    for path in used:
        path.unlink()
    if layout == "shards beside a pickle":  # the index still names them
        assert ModelEntry("source", source, "model", {}).n_bytes == 0


def test_copy_into_a_folder_with_an_index_leaves_no_stale_one(tmp_path, english):
    (tmp_path / "target").mkdir()
    for layout in ("shards", "single"):
        source = model_in_layout(tmp_path / layout, english, layout, tied=False, seed=len(layout))
        checkpoint = Checkpoint.open(source)
        checkpoint.write(tmp_path / "target", {}, checkpoint.config)
        assert torch.equal(logits_of(tmp_path / "target"), logits_of(source))
        assert (tmp_path / "target" / INDEX).exists() == (layout == "shards")


def test_index_of_a_copy_names_what_the_files_hold(tmp_path, english):
    source = model_in_layout(tmp_path / "source", english, "tensor in two shards", tied=False)
    checkpoint = Checkpoint.open(source)
    (tmp_path / "target").mkdir()
    checkpoint.write(tmp_path / "target", {}, checkpoint.config)
    index = json.loads((tmp_path / "target" / INDEX).read_text())
    held = {}
    for path in sorted((tmp_path / "target").glob("*.safetensors")):
        for name, values in load_file(path).items():
            assert name not in held
            held[name] = (path.name, values.numel() * values.element_size())
    assert index["weight_map"] == {name: file for name, (file, _) in held.items()}
    assert index["metadata"]["total_size"] == sum(size for _, size in held.values())


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/../../x.safetensors"])
def test_files_outside_of_the_folder_are_refused(tmp_path, english, name):
    source = make_model(tmp_path / "source", english)
    shutil.copyfile(source / "model.safetensors", tmp_path / "model.safetensors")
    (source / "model.safetensors").rename(source / "kept")
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(InputError, match="does not lie in its folder"):
        Checkpoint.open(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises(InputError, match="does not lie in its folder"):
        Checkpoint.open(source)


@pytest.mark.parametrize(("name", "match"), [("pytorch_model.bin", "neither"), ("gone.safetensors", "lacks gone")])
def test_named_weights_that_transformers_would_refuse_are_refused(tmp_path, english, name, match):
    source = make_model(tmp_path / "source", english)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(source)
    with pytest.raises(InputError, match=match):
        Checkpoint.open(source)


def test_generation_uses_the_same_weights_as_a_transfer(tmp_path, english):
    source = model_in_layout(tmp_path / "source", english, "single beside stale shards")
    plain = make_model(tmp_path / "plain", english)
    found, other = (
        result_of("generate", folder, "--prompt", "The fox", "--temperature", 0, "--max-tokens", 5)["answers"][0]
        for folder in (source, plain)
    )
    assert (found["text"], found["mean_log_p"]) == (other["text"], other["mean_log_p"])


def adapter(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("with_config", [True, False])
def test_adapter_is_named_with_its_base_model_and_the_cure(tmp_path, pair, english, with_config):
    folder = adapter(tmp_path / "adapter", base_model_name_or_path="org/base")
    if with_config:
        shutil.copyfile(pair[0] / "config.json", folder / "config.json")
    english.save_pretrained(folder)
    line = refused("transfer", "--source", folder, "--helper", pair[1], "--output", tmp_path / "out")
    for part in ("LoRA adapter of org/base", "merge_and_unload()", "save_pretrained", str(folder)):
        assert part in line
    for command in (("neighbors", folder, "#5"), ("generate", folder, "--prompt", "a")):
        assert "LoRA adapter of org/base" in refused(*command)
    assert "IA3 adapter of BASE_MODEL" in error_of(adapter(tmp_path / "other", peft_type="IA3"))


def error_of(folder):
    with pytest.raises(InputError) as caught:
        Checkpoint.open(folder)
    return str(caught.value)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["model-Q4_K_M.gguf"], ["GGUF", "gguf_file='model-Q4_K_M.gguf'"]),
        (["flax_model.msgpack"], ["Flax", "from_flax=True"]),
        (["tf_model.h5"], ["TensorFlow", "from_tf=True"]),
        (["onnx/model.onnx", "onnx/model.onnx_data"], ["ONNX"]),
        (["model.fp16.safetensors"], ["variant='fp16'"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], ["without their index"]),
        (["pytorch_model-00001-of-00002.bin"], ["without their index"]),
        (["consolidated.safetensors", "params.json"], ["makers' own format"]),
        (["original/consolidated.00.pth"], ["makers' own format"]),
        (["model.pt"], ["format of their own"]),
    ],
)
def test_other_formats_are_named(tmp_path, pair, files, parts, with_config):
    folder = tmp_path / "model"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    if with_config:
        shutil.copyfile(pair[0] / "config.json", folder / "config.json")
    told = error_of(folder)
    assert all(part in told for part in [*parts, files[0]])


def test_folder_of_no_known_format_lacks_configuration_or_weights(tmp_path, pair):
    (tmp_path / "model").mkdir()
    assert "holds no config.json" in error_of(tmp_path / "model")
    shutil.copyfile(pair[0] / "config.json", tmp_path / "model" / "config.json")
    assert "holds no weights" in error_of(tmp_path / "model")
    (tmp_path / "model" / "training_args.bin").write_bytes(b"x")
    assert "holds no weights" in error_of(tmp_path / "model")


def test_distributed_checkpoint_is_refused_as_transformers_would_load_it_first(tmp_path, english):
    source = make_model(tmp_path / "source", english)
    save_file({"a": torch.zeros(2)}, source / "shard-00001-model-00001-of-00001.safetensors")
    assert "distributed checkpoint" in error_of(source)


def test_quantised_matrix_is_named_as_such(tmp_path, english):
    source = make_model(tmp_path / "source", english)
    tensors = load_file(source / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = torch.zeros(tensors[name].shape, dtype=torch.uint8)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"not a matrix of plain floats$"):
        Checkpoint.open(source).entry("input")
    config = json.loads((source / "config.json").read_text())
    checkpoint = Checkpoint(source, config | {"quantization_config": {"quant_method": "gptq"}}, source)
    with pytest.raises(InputError, match=r"quantised \(gptq\); use the model before"):
        checkpoint.entry("input")


def test_pointer_of_git_lfs_is_named(tmp_path, english):
    source = make_model(tmp_path / "source", english)
    (source / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match="pointer of Git LFS"):
        _ = Checkpoint.open(source).entries


def test_stale_index_is_not_pushed_and_does_not_stop_a_push(tmp_path, english):
    source = model_in_layout(tmp_path / "source", english, "single beside stale shards")
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    (source / INDEX).write_text(json.dumps(index))
    refuse_no_model(source)
    names = sorted(path.name for path in source.iterdir() if not reason_left_out(path, source))
    assert [name for name in names if "model" in name] == ["model.safetensors"]
    sharded = model_in_layout(tmp_path / "shards", english, "shards")
    assert not reason_left_out(sharded / INDEX, sharded)


def test_files_of_the_hub_are_chosen_like_those_of_a_folder(tmp_path, english):
    for layout in ("single beside stale shards", "single beside a pickle"):
        source = model_in_layout(tmp_path / layout, english, layout)
        names = [path.name for path in source.iterdir()]
        assert weight_names("org/name", "main", names) == [path.name for path in chosen_weights(source).files]
