"""Every causal language model type of transformers goes through a transfer: it comes out right, or is refused by name.

The proof does not look at tensor names: fed with tokens that both vocabularies have, the target must give the source's
logits for these tokens, up to the longest input that the product would give it.
``CLP_WRITE_DOCS=1 pytest tests/transfer/test_architectures.py`` writes the table in the docs anew.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_models import NOT_SMALL, TYPES, small_config
from support.sources import form_of, make_source, tied_by_turns
from support.tiny_models import GERMAN, make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.architectures import REFUSED
from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.model_config import max_positions
from clp_core.errors import InputError
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer

TABLE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
PER_LAYER = "has a table by token id for every layer, whose rows no method makes"
NOT_CARRIED_OVER = REFUSED | {
    "gemma3n_text": PER_LAYER,
    "gemma4": PER_LAYER,
    "gemma4_text": PER_LAYER,
    "xlnet": "attends to later tokens",
}
MESSAGES = {PER_LAYER: "has a further table by token id", "attends to later tokens": "attends to tokens after"}
RIGHT = [kind for kind in TYPES if kind not in NOT_CARRIED_OVER]
BOTH_WAYS = ("bert", "codegen", "deepseek_v4", "dory", "gpt2", "gpt_neox", "gptj", "llama", "phi", "roberta", "xglm")
"""Types tested both tied and untied: they differ in biases, further tensors, or how files name the output matrix."""
FEWEST_RIGHT = 150
N_TOKENS = 12


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    """A helper whose padding token is its last, so that it has another id than in any source."""
    tokenizer = make_tokenizer("sentencepiece-bpe", GERMAN)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return make_model(tmp_path_factory.mktemp("helper") / "helper", tokenizer, "gpt2", width=16, seed=2)


@pytest.fixture(scope="module")
def overlap(folders, helper):
    return Overlap.of(Vocabulary.open(folders["sentencepiece-bpe", "en"]), Vocabulary.open(helper))


def options_for(source, helper, target):
    return TransferOptions(str(source), str(helper), str(target), "clp", provenance="light", no_heldout=True)


def cases():
    for kind in RIGHT:
        ways = (True, False) if kind in BOTH_WAYS else (tied_by_turns(kind),)
        yield from (pytest.param(kind, tied, id=f"{kind}-{'tied' if tied else 'untied'}") for tied in ways)


@pytest.mark.parametrize(("model_type", "tied"), cases())
def test_target_predicts_common_tokens_as_the_source_does(tmp_path, tokenizers, helper, overlap, model_type, tied):
    source, target = tmp_path / "source", tmp_path / "target"
    dtype, shards, kind = form_of(model_type, tied=tied)
    make_source(source, model_type, tokenizers["sentencepiece-bpe", "en"], tied, dtype, shards, kind)
    report = transfer(options_for(source, helper, target))
    assert report.check.kind == "logits"
    assert report.check.layers == report.check.of_layers
    assert report.tied == tied
    old = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    new, info = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)().weight, getattr(new, get)().weight
        assert after.shape[0] == overlap.target.n_ids
        assert torch.equal(after[overlap.ids], before[overlap.source_ids[overlap.ids]])
    assert_equal_predictions(old, new.eval(), overlap)
    positions = max_positions(Checkpoint.open(target).config)
    assert positions == max_positions(Checkpoint.open(source).config)
    if positions:  # the last of them too
        ids = np.resize(ordinary(overlap), positions)
        assert_equal_predictions(old, new, overlap, ids)


def ordinary(overlap):
    """Common tokens that are special in neither vocabulary."""
    special, source_special = overlap.target.special_ids, overlap.source.special_ids
    return [i for i in overlap.ids.tolist() if i not in special and overlap.source_ids[i] not in source_special]


def assert_equal_predictions(old, new, overlap, ids=None):
    ids = np.random.default_rng(1).choice(ordinary(overlap), N_TOKENS) if ids is None else np.asarray(ids)
    with torch.inference_mode():
        expected = old(torch.from_numpy(overlap.source_ids[ids])[None], use_cache=False).logits
        found = new(torch.from_numpy(ids)[None], use_cache=False).logits
    expected, found = expected[..., overlap.source_ids[overlap.ids]], found[..., overlap.ids]
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(set(NOT_CARRIED_OVER) - set(NOT_SMALL)))
def test_refused_types_are_named_before_anything_is_written(tmp_path, tokenizers, helper, model_type):
    source = make_source(tmp_path / "source", model_type, tokenizers["sentencepiece-bpe", "en"], tied=False)
    reason = NOT_CARRIED_OVER[model_type]
    with pytest.raises(InputError, match=re.escape(MESSAGES.get(reason, reason))):
        transfer(options_for(source, helper, tmp_path / "target"))
    assert not [path for path in tmp_path.iterdir() if "target" in path.name]


def test_nearly_all_types_are_carried_over():
    assert len(RIGHT) >= FEWEST_RIGHT
    assert set(NOT_CARRIED_OVER) <= {*TYPES, *NOT_SMALL}


def class_and_bias(model_type):
    """Name of the class, and whether its output layer has a bias."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config(model_type, 300, tied=False))
    has_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
    return f"`{type(model).__name__}`", "yes" if has_bias else "no"


def test_the_table_in_the_docs_names_what_is_tested():
    n_types, n_refused = len(TYPES) + len(NOT_SMALL), len(set(NOT_CARRIED_OVER) - set(NOT_SMALL))
    lines = [
        "# Architectures",
        "",
        "A transfer lets transformers itself say where a model's embeddings are, so there is no list of names, and any",
        "causal language model that transformers can build is tried. Before writing, common tokens go through the",
        "source; after writing, through the target, and a target that predicts otherwise is not kept: see",
        "[the functional check](weights.md#the-functional-check).",
        "",
        f"Of the {n_types} types of transformers' causal language models {len(RIGHT)} come out right in the tests,",
        f"{n_refused} are refused by name before anything is written, and {len(NOT_SMALL)} are not tried.",
        "`tests/transfer/test_architectures.py` writes this table. It takes a small model of each type through a",
        "transfer, tied or untied, in float32, float16 or bfloat16, in one file or in shards, as safetensors or as",
        "pickles, and compares source and target once more, up to the longest input.",
        "",
        "Refused as well: quantised weights, and models whose code is not part of transformers.",
        "",
        "| `model_type` | class | output bias | transfer |",
        "|---|---|---|---|",
    ]
    for kind in sorted({*TYPES, *NOT_SMALL}):
        name, bias = class_and_bias(kind) if kind in TYPES else ("", "")
        refused = f"refused: {NOT_CARRIED_OVER[kind]}" if kind in NOT_CARRIED_OVER else "right"
        result = f"not tried: {NOT_SMALL[kind]}" if kind in NOT_SMALL else refused
        lines.append(f"| `{kind}` | {name} | {bias} | {result} |")
    content = "\n".join(lines) + "\n"
    if os.environ.get("CLP_WRITE_DOCS"):
        TABLE.write_text(content)
    assert TABLE.read_text() == content
