"""Memory that is not there ends a command in one line, and scores are those of float32 wherever they are computed."""

import math

import numpy as np
import psutil
import pytest
import torch
from support.commands import refused, result_of
from support.jobs import train_here, train_options
from support.tiny_models import make_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.loading import weights_type
from clp_core.checkpoints.memory_estimate import Shape
from clp_core.data.text_sources import Texts
from clp_core.embeddings.matmul_backend import TorchBackend
from clp_core.environment import memory_errors
from clp_core.environment.memory_errors import OutOfMemoryError, check_memory, memory_explained
from clp_core.evaluation import bits_per_byte
from clp_core.evaluation.bits_per_byte import EvaluationText, evaluate, load_model, load_to_generate, score
from clp_core.evaluation.cloze import Question
from clp_core.jobs.failure_reason import reason_of, reason_of_exit
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.tokenization.vocabulary import Vocabulary

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more lines"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    MemoryError(),
]
SHORT_IDS = ["of torch", "of its allocator", "of cublas", "of the host"]


def raising(error):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


@pytest.fixture(autouse=True)
def one_question(monkeypatch):
    """The short text gives no question of its own."""
    question = Question("Der ", " läuft.", ("Fuchs", "Hund", "Wald", "Tag"), 0)
    monkeypatch.setattr("clp_core.evaluation.cloze.make_questions", lambda *args: [question] * 2)


def commands(pair, texts, tmp_path):
    text = texts[1]
    both = ("--source", pair[0], "--helper", pair[1])
    return {
        "evaluate": ("evaluate", pair[0], "--text", text),
        "transfer": ("transfer", *both, "--output", tmp_path / "new", "--eval-text", text, "--check", "files"),
        "compare-methods": ("compare-methods", *both, "--text", text, "--methods", "mean"),
        "downstream": ("downstream", pair[0], "--text", texts[0], "--questions", 2),
    }


@pytest.mark.parametrize("error", SHORT, ids=SHORT_IDS)
@pytest.mark.parametrize("name", ["evaluate", "transfer", "compare-methods", "downstream"])
def test_command_without_memory_for_the_forward_pass_ends_in_one_line(pair, texts, tmp_path, monkeypatch, name, error):
    monkeypatch.setattr(LlamaForCausalLM, "forward", raising(error))
    line = refused(*commands(pair, texts, tmp_path)[name], code=1)
    assert line.startswith("clp: out of memory while ")
    assert "GB free" in line
    assert line.endswith("use a smaller model")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", SHORT, ids=SHORT_IDS)
@pytest.mark.parametrize("place", ["from_pretrained", "to"])
def test_command_without_memory_for_the_weights_ends_in_one_line(pair, texts, tmp_path, monkeypatch, place, error):
    owner = AutoModelForCausalLM if place == "from_pretrained" else LlamaForCausalLM
    monkeypatch.setattr(owner, place, raising(error))
    made = commands(pair, texts, tmp_path)
    if place == "from_pretrained":
        del made["transfer"]  # which opens the model without its weights first
    for command in made.values():
        line = refused(*command, code=1)
        assert line.startswith("clp: out of memory while loading ")
        assert "GB free" in line


@pytest.mark.parametrize("error", SHORT, ids=SHORT_IDS)
def test_text_is_not_generated_without_memory_and_one_line_says_so(pair, monkeypatch, error):
    with monkeypatch.context() as patched:
        patched.setattr(LlamaForCausalLM, "to", raising(error))
        line = refused("generate", pair[0], "--prompt", "The", code=1)
    assert line.startswith("clp: out of memory while loading source")
    assert "--device" not in line  # the command has no such option
    monkeypatch.setattr(LlamaForCausalLM, "forward", raising(error))
    assert "out of memory" in refused("generate", pair[0], "--prompt", "The", code=1)


def test_sample_without_memory_ends_in_one_line(pair, texts, monkeypatch):
    monkeypatch.setattr("clp_core.evaluation.decoding.decode", raising(SHORT[0]))
    line = refused("evaluate", pair[0], "--text", texts[1], "--sample", code=1)
    assert line.startswith("clp: out of memory while generating with source")


def test_error_of_memory_from_anywhere_ends_a_command_in_one_line(pair, monkeypatch):
    monkeypatch.setattr(
        "clp_core.tokenization.overlap_matrix.overlap_pairs", raising(MemoryError("3 GiB could not be had"))
    )
    line = refused("overlap", *pair, code=1)
    assert line.startswith("clp: out of memory: 3 GiB could not be had; this machine has ")


def test_other_errors_pass_as_they_are():
    for error in (RuntimeError("shapes do not fit"), OSError(2, "no such file"), OutOfMemoryError("mine")):
        with pytest.raises(type(error)) as caught, memory_explained("trying", "cpu"):
            raise error
        assert caught.value is error


def test_model_that_cannot_fit_is_refused_before_it_is_loaded(pair, texts, monkeypatch):
    monkeypatch.setattr(memory_errors, "free_and_total", lambda device: (10**6, 24 * 10**9))
    monkeypatch.setattr(bits_per_byte, "load_causal_model", raising(AssertionError("it was loaded")))
    line = refused("evaluate", pair[0], "--text", texts[1], code=1)
    assert "scoring with source in float32 takes " in line
    assert "this machine has 0.0 GB of 24.0 GB free" in line
    with pytest.raises(OutOfMemoryError, match=r"the GPU has 0\.0 GB of 24\.0 GB free; use --device cpu"):
        check_memory(10**9, "scoring", "cuda")
    check_memory(10**6, "scoring", "cpu")


def test_memory_of_scoring_is_at_least_that_of_its_weights_and_logits(pair):
    shape = Shape.of_checkpoint(Checkpoint.open(pair[0]), 0)
    model = AutoModelForCausalLM.from_pretrained(pair[0])
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    logits = 64 * model.config.vocab_size * 4
    assert shape.scoring_bytes(64, 0) >= weights + logits
    assert shape.scoring_bytes(64, 1 << 28) >= weights + (1 << 28)


def test_free_memory_is_that_of_the_machine_or_of_the_gpu_with_what_torch_has_set_aside(monkeypatch):
    monkeypatch.setattr(memory_errors, "free_memory", lambda: 7)
    assert memory_errors.free_and_total("cpu") == (7, psutil.virtual_memory().total)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 40)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 30)
    assert memory_errors.free_and_total("cuda") == (15, 100)


def test_rows_that_do_not_fit_on_a_gpu_name_the_cpu(monkeypatch):
    device = TorchBackend("cpu")
    device.name = "cuda"
    monkeypatch.setattr(torch, "from_numpy", raising(SHORT[0]))
    with pytest.raises(OutOfMemoryError, match="use --device cpu"):
        device.product(np.ones((2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize("error", SHORT, ids=SHORT_IDS)
def test_reason_of_a_run_without_memory_says_what_takes_less(error):
    reason = reason_of(error, memory_cure="fewer --micro-blocks")
    assert reason.code is ReasonCode.OUT_OF_MEMORY
    assert reason.text.endswith("fewer --micro-blocks")
    assert reason_of(OutOfMemoryError("out of memory while loading x")).code is ReasonCode.OUT_OF_MEMORY
    log = "clp: out of memory while loading x: 1.0 GB free\n"
    assert reason_of_exit(1, log, oom_killed=False).code is ReasonCode.OUT_OF_MEMORY


# One data type of all scores


@pytest.fixture
def half_pair(tmp_path, tokenizers):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], dtype="bfloat16", seed=1)
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", dtype="bfloat16", seed=2)
    return source, helper


def plain_bits(folder, text_file, dtype):
    """Bits per byte of one window by plain torch."""
    text = EvaluationText.read(Texts.open([text_file]), Vocabulary.open(folder), None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.from_numpy(text.ids)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(ids[None, :-1]).logits[0].float(), ids[1:], reduction="none")
    return float(losses.double().sum()) / math.log(2) / len(text_file.read_bytes())


def test_bfloat16_checkpoint_has_one_score_in_evaluate_transfer_comparison_and_run(
    workspace, half_pair, texts, tmp_path
):
    valid = tmp_path / "valid.txt"
    valid.write_text(texts[1].read_text(encoding="utf-8").partition("\n")[0] + "\n", encoding="utf-8")
    both = ("--source", half_pair[0], "--helper", half_pair[1])
    output = tmp_path / "target"
    report = result_of("transfer", *both, "--output", output, "--method", "mean", "--eval-text", valid)
    compared = result_of("compare-methods", *both, "--text", valid, "--methods", "mean")
    options = train_options((output, None), (texts[0], valid), max_steps=1, eval_every=1, precision="bf16")
    job = train_here(workspace, options)
    (first,) = [line for line in job.metrics() if line["step"] == 0 and "bits_per_byte" in line]
    found = result_of("evaluate", output, "--text", valid)
    assert found["dtype"] == report["zero_step"]["dtype"] == "float32"
    assert (job.path / "scoring.json").read_text().count('"dtype": "float32"') == 1
    assert report["zero_step"]["bits_per_byte"] == found["bits_per_byte"] == first["bits_per_byte"]
    assert compared["methods"][0]["zero_step_bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-7)
    assert found["bits_per_byte"] == pytest.approx(plain_bits(output, valid, torch.float32), rel=1e-6)
    assert found["bits_per_byte"] != pytest.approx(plain_bits(output, valid, torch.bfloat16), rel=1e-6)


def test_models_are_scored_in_float32_on_a_gpu_too(half_pair, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(bits_per_byte, "check_memory", lambda *args: None)
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda self, device: (moved.append(device), self)[1])
    assert load_model(half_pair[0]).dtype == torch.float32
    assert load_to_generate(half_pair[0]).dtype == torch.bfloat16  # text is generated in the checkpoint's type
    assert moved == ["cuda", "cuda"]
    assert load_model(half_pair[0], "cpu").dtype == torch.float32
    assert moved[2:] == ["cpu"]
    assert weights_type("cuda") == "auto"


def test_scores_are_not_those_of_an_autocast_around_them(pair, texts):
    text = EvaluationText.read(Texts.open([texts[1]]), Vocabulary.open(pair[0]), 64)
    model = load_model(pair[0])
    expected = score(model, text).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(model, text).loss == expected


def test_device_of_a_score_is_an_option(pair, texts):
    assert evaluate(pair[0], [texts[1]], device="cpu").loss == evaluate(pair[0], [texts[1]]).loss
    assert "there is no GPU that torch can use" in refused("evaluate", pair[0], "--text", texts[1], "--device", "cuda")
    refused("downstream", pair[0], "--text", texts[0], "--device", "cuda")
