"""The tensors that are taken as embeddings are those whose values transformers loads into them, or both find none."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.small_models import small_config, small_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GPT2Model, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from clp_core.checkpoints.checkpoint import Checkpoint, embedding_names
from clp_core.checkpoints.tensor_names import TracedTensor
from clp_core.errors import InputError

INDEX = "model.safetensors.index.json"
ROWS = 301
SMALL_ENCODER = {
    "hidden_size": 32, "intermediate_size": 64, "depth": 1, "num_hidden_layers": 1, "num_heads": 2,
    "num_attention_heads": 2, "out_hidden_size": 32, "vision_output_dim": 32, "projector_input_dim": 32,
    "projector_output_dim": 32, "num_position_embeddings": 16,
}  # fmt: skip
CONTRACT = (
    "transformers or torch have changed what clp_core/checkpoints/tensor_names.py relies on: "
    "from_pretrained(None, config=..., state_dict=..., device_map='meta') loads the tensors it is given, renames and "
    "converts them as it does files, and keeps their subclass; rewrite TracedTensor or Loading.load"
)
KNOWN = (
    "bloom", "codegen", "falcon", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj",
    "llama", "mixtral", "mpt", "opt", "phi", "qwen2_moe",
)  # fmt: skip
"""Types whose files spell the names in different ways; all types are tried as saved by test_architectures.py."""
OTHER_CLASS = ("exaone", "internlm3", "iquestcoder", "sarvam_moe", "sarvam_mla", "gpt-sw3")
"""Types that are served by another type's class."""
COMPOSITE = ("gemma3", "qwen3_5", "got_ocr2", "llama4")
"""Types that nest the language model."""
OTHER_NAMES = ("deepseek_v4", "bailing_hybrid", "dory", "inkling2_text", "bert", "data2vec-text", "bart", "xlnet")
"""Types whose files name the embeddings otherwise than the class, or whose bias has several names."""
TYPES = (*KNOWN, *OTHER_CLASS, *COMPOSITE, *OTHER_NAMES)


def saved(folder, model_type, *, tied=False, **ids):
    """Save a small model, and return its tensors as they are named in the file."""
    model = small_model(model_type, ROWS, tied, **ids)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors"), model.base_model_prefix


def write(folder, *shards):
    """Replace the weights of a folder; what several shards hold is listed as the last one's."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}
    for name, shard in names.items():
        save_file(shard, folder / name, metadata={"format": "pt"})
    weight_map = {tensor: name for name, shard in names.items() for tensor in shard}
    weight_map[next(iter(shards[0]))] = next(iter(names))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def is_in(state, wanted):
    return any(value.shape == wanted.shape and torch.equal(value, wanted) for value in state.values())


def check_against_transformers(folder, state):
    """Compare the matrices and the bias with what ``from_pretrained`` gives; what it does not load must be refused."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.names.tied == (layers["input"].weight is layers["output"].weight)
    bias = getattr(layers["output"], "bias", None)
    found = {side: lambda side=side: checkpoint.rows(side) for side in layers} | {"bias": checkpoint.output_bias}
    wanted = {side: layer.weight for side, layer in layers.items()} | {"bias": bias}
    for name, rows_of in found.items():
        if wanted[name] is None:
            assert rows_of() is None
        elif is_in(state, wanted[name]):
            rows = rows_of()
            values = rows.take(np.arange(rows.shape[0])).reshape(wanted[name].shape)
            assert np.array_equal(values, wanted[name].detach().numpy()), name
        else:
            with pytest.raises(InputError, match="holds no tensor that transformers would load"):
                rows_of()


@pytest.fixture(autouse=True)
def no_reports():
    """Reports on missing weights are what these tests are about, and long."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(verbosity)


@pytest.mark.parametrize("model_type", TYPES)
def test_embeddings_are_the_tensors_that_transformers_loads(tmp_path, model_type):
    """Whether files are as saved, without the base model's prefix, with it before every name, or twice in shards."""
    state, prefix = saved(tmp_path, model_type)
    check_against_transformers(tmp_path, state)
    stripped = {name.removeprefix(f"{prefix}."): value for name, value in state.items()}
    added = {f"{prefix}.{name}": value for name, value in state.items()}
    for renamed in (stripped, added) if prefix else ():
        write(tmp_path, renamed)
        check_against_transformers(tmp_path, renamed)
    newer = {name: value + 1 for name, value in state.items() if value.is_floating_point()}
    write(tmp_path, newer, state)
    check_against_transformers(tmp_path, newer | state)


@pytest.mark.parametrize("model_type", TYPES)
def test_tied_embeddings_are_one_tensor_where_transformers_ties_them(tmp_path, model_type):
    state, _ = saved(tmp_path, model_type, tied=True)
    check_against_transformers(tmp_path, state)


@pytest.mark.parametrize("model_type", ["qwen3_5", "llama4"])
def test_language_model_within_a_larger_checkpoint_is_found(tmp_path, model_type):
    """AutoModelForCausalLM gives the class of the language model alone for files that hold an image encoder too."""
    config = small_config(model_type, ROWS, False)
    for name, value in SMALL_ENCODER.items():
        if hasattr(config.vision_config, name):
            setattr(config.vision_config, name, value)
    whole = AutoModelForImageTextToText.from_config(config)
    whole.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    check_against_transformers(tmp_path, state)
    checkpoint = Checkpoint.open(tmp_path)
    rows = checkpoint.rows("input")
    assert np.array_equal(rows.take(np.arange(ROWS)), whole.get_input_embeddings().weight.detach().numpy())
    assert "language_model" in rows.entry.name
    assert "language_model" not in checkpoint.names.input


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "bloom", "gpt_neox", "deepseek_v4", "bert"])
def test_names_with_a_foreign_prefix_are_missing_as_for_transformers(tmp_path, model_type):
    state, _ = saved(tmp_path, model_type)
    write(tmp_path, {f"module.{name}": value for name, value in state.items()})
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    checkpoint = Checkpoint.open(tmp_path)
    for parameter in (checkpoint.names.input, checkpoint.names.output):
        assert parameter in info["missing_keys"]
    for side in ("input", "output"):
        with pytest.raises(InputError, match=r"prefix such as module\."):
            checkpoint.rows(side)


@pytest.mark.parametrize("bare_first", [True, False])
def test_of_two_names_of_one_matrix_transformers_choice_is_taken_and_the_other_left_out(tmp_path, bare_first):
    """Files that hold a matrix with the prefix of the base model and without it."""
    source, target = tmp_path / "source", tmp_path / "target"
    state, _ = saved(source, "gpt2")
    name = "transformer.wte.weight"
    both = {"wte.weight": state[name] + 1}
    both = both | state if bare_first else state | both
    write(source, both)
    check_against_transformers(source, both)
    checkpoint = Checkpoint.open(source)
    target.mkdir()
    checkpoint.write(target, {}, checkpoint.config)
    kept = checkpoint.entry("input").name
    assert {name, "wte.weight"} - set(load_file(target / "model.safetensors")) == {name, "wte.weight"} - {kept}
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(target).get_input_embeddings().weight,
        AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight,
    )


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize(("model_type", "output"), [("gpt2", "lm_head.weight"), ("gpt_neox", "embed_out.weight")])
def test_a_second_copy_of_a_tied_matrix_is_left_out_and_another_one_kept(tmp_path, model_type, output, equal):
    state, _ = saved(tmp_path, model_type, tied=True)
    (embedding,) = (name for name, value in state.items() if len(value) == ROWS)
    both = state | {output: state[embedding] + (0 if equal else 1)}
    write(tmp_path, both)
    check_against_transformers(tmp_path, both)
    names = Checkpoint.open(tmp_path).names
    assert names.tied == equal
    assert names.spare == ({output} if equal else set())


def test_tied_matrix_may_have_the_output_layers_name(tmp_path):
    state, _ = saved(tmp_path, "llama", tied=True)
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    write(tmp_path, state)
    check_against_transformers(tmp_path, state)
    assert Checkpoint.open(tmp_path).entry("input").name == "lm_head.weight"


def test_second_bias_of_a_tied_output_layer_is_left_out(tmp_path):
    """BERT ties the bias of its output layer to one beside the layer; old files hold both."""
    state, _ = saved(tmp_path, "bert", tied=True)
    both = state | {"cls.predictions.decoder.bias": state["cls.predictions.bias"].clone()}
    write(tmp_path, both)
    check_against_transformers(tmp_path, both)
    names = Checkpoint.open(tmp_path).names
    assert len(names.spare & {"cls.predictions.decoder.bias", "cls.predictions.bias"}) == 1


def test_legacy_names_of_norms_count_as_loaded(tmp_path):
    """``gamma`` and ``beta``, as transformers renames them: their values have to be finite too."""
    state, _ = saved(tmp_path, "bert", tied=True)
    turned = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {}
    for name, value in state.items():
        ending = next((ending for ending in turned if name.endswith(ending)), None)
        old[name if ending is None else name.removesuffix(ending) + turned[ending]] = value
    assert len(old) == len(state)
    assert old.keys() != state.keys()
    write(tmp_path, old)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = {name for name, value in old.items() if is_in(model.state_dict(), value)}
    assert loaded == set(old) == Checkpoint.open(tmp_path).names.loaded


def test_converted_tensors_count_as_loaded(tmp_path):
    """Experts that transformers stacks."""
    state, _ = saved(tmp_path, "mixtral")
    names = Checkpoint.open(tmp_path).names
    assert names.loaded == set(state)
    stacked = next(source for name, source in names.sources.items() if name.endswith("gate_up_proj"))
    assert len(stacked.tensors) == 8
    assert not stacked.is_plain


def test_base_model_has_no_output_layer_but_serves_as_helper(tmp_path):
    torch.manual_seed(0)
    GPT2Model(small_config("gpt2", ROWS, False)).save_pretrained(tmp_path)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    checkpoint = Checkpoint.open(tmp_path)
    rows = checkpoint.rows("input")
    own = AutoModel.from_pretrained(tmp_path).get_input_embeddings().weight
    assert np.array_equal(rows.take(np.arange(ROWS)), own.detach().numpy())
    with pytest.raises(InputError, match=r"lm_head\.weight: it may be a base model without its head"):
        checkpoint.rows("output")


@pytest.mark.parametrize("named", ["GPT2Model", "GPT2ForSequenceClassification", "NoSuchModel"])
def test_class_is_the_one_that_automodel_takes_whatever_the_configuration_names(tmp_path, named):
    state, _ = saved(tmp_path, "gpt2")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [named]}))
    check_against_transformers(tmp_path, state)


def test_code_of_a_model_folder_is_never_run(tmp_path):
    """A known type is read with transformers' own class, another one is refused."""
    state, _ = saved(tmp_path, "llama")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    }
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    path.write_text(json.dumps(config))
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False), LlamaForCausalLM)
    check_against_transformers(tmp_path, state)
    path.write_text(json.dumps(config | {"model_type": "evil"}))
    with pytest.raises(InputError, match="not a causal language model that transformers can build"):
        _ = Checkpoint.open(tmp_path).names
    assert not (tmp_path / "ran").exists()


def test_rows_that_differ_from_the_configuration_are_refused_as_by_transformers(tmp_path):
    saved(tmp_path, "llama")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": ROWS + 3}))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"as \(301, 32\), but its config.json makes it \(304, 32\)"):
        Checkpoint.open(tmp_path).rows("input")


def test_embeddings_of_a_quantised_model_are_found(tmp_path):
    """They are plain matrices in most; whether a command takes such a model is not decided by names."""
    state, _ = saved(tmp_path, "llama")
    path = tmp_path / "config.json"
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    name = "model.layers.0.self_attn.q_proj"
    packed = state | {f"{name}.qweight": torch.zeros(4, 32, dtype=torch.int32)}
    del packed[f"{name}.weight"]
    write(tmp_path, packed)
    rows = Checkpoint.open(tmp_path).rows("input")
    assert np.array_equal(rows.take(np.arange(ROWS)), state["model.embed_tokens.weight"].numpy())


def test_matrix_that_transformers_computes_is_refused_by_name_and_the_cure_works(tmp_path):
    """Inkling 2 cuts the output matrix of a file after its own vocabulary."""
    padded, plain = tmp_path / "padded", tmp_path / "plain"
    config = small_config("inkling2_text", ROWS, False)
    config.unpadded_vocab_size = ROWS - 5
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(padded)
    assert {len(load_file(padded / "model.safetensors")[name]) for name in output_names(padded)} == {ROWS}
    with pytest.raises(InputError, match=r"transformers computes lm_head.weight .*__getitem__.*save_original_format"):
        Checkpoint.open(padded).rows("output")
    AutoModelForCausalLM.from_pretrained(padded).save_pretrained(plain, save_original_format=False)
    rows = Checkpoint.open(plain).rows("output")
    assert np.array_equal(rows.take(np.arange(ROWS - 5)), model.lm_head.weight.detach().numpy())


def output_names(folder):
    """Names of the tensors that the output layer comes from."""
    names = Checkpoint.open(folder).names
    return names.sources[names.output].tensors


def test_changed_files_are_read_anew(tmp_path):
    """Names are remembered by configuration and shapes; values decide whether two matrices are copies."""
    state, _ = saved(tmp_path, "llama", tied=True)
    twice = state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
    write(tmp_path, twice)
    assert Checkpoint.open(tmp_path).names.tied
    write(tmp_path, twice | {"lm_head.weight": twice["lm_head.weight"] + 1})
    assert not Checkpoint.open(tmp_path).names.tied
    path = tmp_path / "config.json"
    write(tmp_path, twice)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    assert not Checkpoint.open(tmp_path).names.tied


def test_class_alone_names_its_embeddings_without_weights(tmp_path):
    small_config("gptj", ROWS, False).save_pretrained(tmp_path)
    names = embedding_names(tmp_path)
    assert {names.shapes[name][0] for name in (names.input, names.output, names.output_bias)} == {ROWS}


def test_what_is_needed_of_transformers_and_torch_is_there():
    """The contract behind the names: no private name is used, but traces must reach the model as files would."""
    config = small_config("mixtral", ROWS, False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    width = config.hidden_size
    shapes = {
        "embed_tokens.weight": (ROWS, width),  # without the prefix
        "lm_head.weight": (ROWS + 1, width),  # of a wrong shape
    }
    experts = [f"model.layers.0.block_sparse_moe.experts.{i}.w2.weight" for i in range(config.num_local_experts)]
    shapes |= dict.fromkeys(experts, (width, config.intermediate_size))  # to be stacked
    try:
        loaded, info = type(model).from_pretrained(
            None,
            config=config,
            state_dict={name: TracedTensor.of(name, shape) for name, shape in shapes.items()},
            device_map="meta",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        parameters = dict(loaded.named_parameters(remove_duplicate=False))
        down = next(value for name, value in parameters.items() if "layers.0." in name and name.endswith("down_proj"))
    except Exception as error:
        pytest.fail(f"{CONTRACT} ({type(error).__name__}: {error})")
    embedding = loaded.get_input_embeddings().weight
    assert isinstance(embedding, TracedTensor), CONTRACT
    assert (embedding.tensors, embedding.operations) == (("embed_tokens.weight",), ()), CONTRACT
    refused = [(name, tuple(there), tuple(own)) for name, there, own in info["mismatched_keys"]]
    assert refused == [("lm_head.weight", (ROWS + 1, width), (ROWS, width))], CONTRACT
    assert not isinstance(loaded.get_output_embeddings().weight, TracedTensor), CONTRACT
    assert isinstance(down, TracedTensor), CONTRACT
    assert down.operations, CONTRACT
    assert set(down.tensors) == set(experts), CONTRACT


@pytest.mark.parametrize(
    ("change", "is_plain"),
    [
        (lambda one, _: one.to("cpu", torch.float16), True),
        (lambda one, _: torch.nn.Parameter(one[...].contiguous()), True),
        (lambda one, _: torch.cat([one]), True),
        (lambda one, _: one[: len(one)], True),
        (lambda one, _: one[:2], False),
        (lambda one, _: one.t().contiguous(), False),
        (lambda one, _: torch.chunk(one, 2)[1], False),
        (lambda one, other: torch.cat([one, other]), False),
        (lambda one, other: torch.stack([one, other]), False),
        (lambda one, _: one * 2, False),
    ],
)
def test_a_trace_tells_moves_from_conversions(change, is_plain):
    """Also of square matrices, whose shape a transposition keeps."""
    one, other = TracedTensor.of("one", (4, 4)), TracedTensor.of("other", (4, 4))
    made = change(one, other)
    assert "one" in made.tensors
    assert (made.tensors == ("one",) and made.operations == ()) == is_plain
