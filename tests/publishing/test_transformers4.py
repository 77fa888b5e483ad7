"""Folders written here, opened with transformers 4.57: the same ids, texts and logits as with transformers 5.

These tests make an environment of their own by pip, so they belong to the nightly tier: ``make test-nightly``.
"""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from support.jobs import end_of, train_here, train_options
from support.small_models import small_config
from support.tiny_models import ENGLISH, FAMILIES, GERMAN, make_model
from support.transformers4 import make_environment, read_with

from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.helper.tokenizer_training import train_tokenizer
from clp_core.publishing.export import export
from clp_core.publishing.export_options import ExportOptions
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.workspace import Workspace

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

LINES = [
    *GERMAN[:3],
    *ENGLISH[:2],
    "größer, 東京 und Ελλάδα – 🙂 naïve Mühle.",
    "  zwei  Leerzeichen \t und\nneue Zeile",
    "<|end|> als Text",
    "1999",
]
ARCHITECTURES = ("gemma2", "gpt_neox", "llama", "mistral", "phi3", "qwen3")
"""Architectures that both versions know, of different configurations."""


@pytest.fixture(scope="module")
def python4(tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("transformers4") / "environment")


@pytest.fixture
def compared(python4, tmp_path):
    """Read folders with both versions; return what each found."""

    def compare(folders, *, model=True):
        asked = {name: {"folder": folder, "lines": LINES, "model": model} for name, folder in folders.items()}
        found = read_with(sys.executable, "5.", tmp_path / "with 5", asked)
        return read_with(python4, "4.57.", tmp_path / "with 4", asked), found

    return compare


def check_alike(both, folders):
    for name, five in both[1].items():
        four = both[0][name]
        for what in ("ids", "plain", "decoded", "skipped", "special", "length", "tied"):
            assert four.get(what) == five.get(what), (name, what)
        check_ids(four, folders[name])
        if "logits" in five:
            np.testing.assert_allclose(four["logits"], five["logits"], rtol=1e-4, atol=2e-5, err_msg=name)


def check_ids(found, folder):
    """Hold ids to those that are used here."""
    vocabulary = Vocabulary.open(folder)
    assert found["plain"] == [vocabulary.encode(line) for line in LINES]
    assert found["length"] == vocabulary.size


@pytest.mark.parametrize("family", FAMILIES)
def test_target_of_every_tokenizer_family(tmp_path, tokenizers, compared, family):
    folders = {}
    for shape, tied, dtype in (("llama", True, "float32"), ("llama", False, "bfloat16"), ("gpt2", True, "float32")):
        name = f"{shape}-{tied}"
        source = make_model(tmp_path / f"{name}-source", tokenizers[family, "en"], shape, tied=tied, dtype=dtype)
        helper = make_model(tmp_path / f"{name}-helper", tokenizers[family, "de"], "gpt2", width=16)
        transfer(TransferOptions(str(source), str(helper), str(tmp_path / name), "linear"))
        folders[name] = tmp_path / name
    check_alike(compared(folders), folders)


def test_target_of_several_architectures(tmp_path, tokenizers, compared):
    tokenizer, folders = tokenizers["byte-level", "en"], {}
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16)
    for model_type in ARCHITECTURES:
        source = architecture(tmp_path / f"{model_type}-source", tokenizer, model_type)
        report = transfer(TransferOptions(str(source), str(helper), str(tmp_path / model_type), "linear"))
        folders[model_type] = tmp_path / model_type
        assert not [one for one in report.warnings if "AutoTokenizer reads the target" in one]
    check_alike(compared(folders), folders)


def test_target_that_transformers_5_reads_with_a_tokenizer_of_its_own(tmp_path, tokenizers, compared):
    """The report warns of it; 4.57 reads the tokenizer as it was written."""
    source = architecture(tmp_path / "source", tokenizers["byte-level", "en"], "qwen2")
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16)
    report = transfer(TransferOptions(str(source), str(helper), str(tmp_path / "target"), "linear"))
    four, five = compared({"target": tmp_path / "target"})
    assert "AutoTokenizer reads the target as a Qwen2Tokenizer" in " ".join(report.warnings)
    assert five["target"]["class"] == "Qwen2Tokenizer"
    check_ids(four["target"], tmp_path / "target")
    np.testing.assert_allclose(four["target"]["logits"], five["target"]["logits"], rtol=1e-4, atol=2e-5)


def architecture(folder, tokenizer, model_type):
    """Write a model of an architecture as transformers 5 does."""
    torch.manual_seed(0)
    config = small_config(model_type, len(tokenizer), tied=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("style", ["byte-level", "sentencepiece"])
def test_tokenizer_that_was_trained_here(tmp_path, texts, compared, style):
    options = TokenizerOptions(text=(str(texts[0]),), output=str(tmp_path / "made"), vocab_size=400, style=style)
    train_tokenizer(options)
    folders = {"made": tmp_path / "made"}
    check_alike(compared(folders, model=False), folders)


def test_checkpoint_of_a_run_and_its_export(tmp_path, workspace, pair, texts, compared):
    transfer(TransferOptions(*map(str, pair), str(tmp_path / "target"), "linear"))
    job = train_here(workspace, train_options((tmp_path / "target", None), texts, max_steps=4, save_every=4))
    assert end_of(job, 300).state == "finished", job.log_tail(30_000)
    output = workspace.models / "exported"
    export(ExportOptions(job.id, str(output)), Workspace.current())
    folders = {"checkpoint": job.checkpoints()[-1], "exported": output}
    check_alike(compared(folders), folders)


def rope_source(folder, tokenizer):
    """Write a Llama with a rope base of 500,000, as Llama 3 has it."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0, rope_parameters={"rope_type": "default",
                                                                                    "rope_theta": 500_000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# What transformers 5 writes as rope_parameters is unknown to 4.57, which then uses a base of 10,000.
@pytest.mark.parametrize("written_by", ["4", "both", pytest.param("5", marks=pytest.mark.xfail(strict=True))])
def test_base_of_rotary_positions(tmp_path, tokenizers, compared, written_by):
    source = rope_source(tmp_path / "source", tokenizers["byte-level", "en"])
    config = json.loads((source / "config.json").read_text())
    assert "rope_theta" not in config
    if written_by == "4":
        config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "torch_dtype": config.pop("dtype")}
    elif written_by == "both":  # the way out that docs/weights.md names
        config |= {"rope_theta": 500_000.0}
    (source / "config.json").write_text(json.dumps(config))
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16)
    transfer(TransferOptions(str(source), str(helper), str(tmp_path / "target"), "linear"))
    folders = {"target": tmp_path / "target"}
    check_alike(compared(folders), folders)
