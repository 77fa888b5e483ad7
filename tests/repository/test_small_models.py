"""The small models are models: other tests may rely on every one of them."""

import pytest
import torch
from support.small_models import (
    NEEDS,
    NESTED,
    NEVER_TIED,
    NOT_CAUSAL,
    NOT_SMALL,
    TYPES,
    save_small_model,
    small_config,
    small_model,
)
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB_SIZE = 307
# One type for each way of keeping parameters: nested configs, layers that differ, buffers, shared blocks, other names.
SAVED = ("bert", "deepseek_v4", "dory", "emu3", "gemma3", "gemma4_text", "gpt2", "marian", "mllama", "qwen3_5", "zamba")


def logits_of(model, ids):
    with torch.inference_mode():
        return model(ids).logits


def is_tied(model):
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("model_type", TYPES)
def test_logits_cover_the_vocabulary_and_depend_on_earlier_tokens_alone(model_type):
    model = small_model(model_type, VOCAB_SIZE, tied=False)
    assert not is_tied(model)
    ids = torch.arange(2, 14)[None]
    logits = logits_of(model, ids)
    assert logits.shape == (1, 12, VOCAB_SIZE)
    assert logits.isfinite().all()
    assert logits.std(dim=-1).min() > 0.05
    change = (logits_of(model, torch.where(ids == 8, 99, ids)) - logits).abs().amax(dim=(0, 2))
    assert change[7:].max() > 0.01
    assert (change[:6].max() < 1e-5) == (model_type not in NOT_CAUSAL)


@pytest.mark.parametrize("model_type", TYPES)
def test_vocabulary_ids_and_ties_reach_the_language_model(model_type):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_config(model_type, 500, tied=True, pad_token_id=7))
    assert is_tied(model) == (model_type not in NEVER_TIED)
    assert model.get_output_embeddings().weight.shape[0] == 500
    assert sum(parameter.numel() for parameter in model.parameters()) < 300_000
    assert getattr(model.config.get_text_config(decoder=True), "pad_token_id", 7) == 7


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", SAVED)
def test_loaded_model_is_the_saved_one(tmp_path, model_type, tied):
    model = small_model(model_type, VOCAB_SIZE, tied)
    save_small_model(model, tmp_path, model_type)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert is_tied(loaded) == is_tied(model)
    expected, found = model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    ids = torch.arange(2, 14)[None]
    torch.testing.assert_close(logits_of(loaded.eval(), ids), logits_of(model, ids), rtol=1e-5, atol=1e-5)


def test_seeds_make_models_that_differ_and_that_can_be_made_again():
    models = [small_model("llama", VOCAB_SIZE, tied=False, seed=seed).state_dict() for seed in (1, 1, 2)]
    for name, tensor in models[0].items():
        assert torch.equal(models[1][name], tensor)
        assert not torch.equal(models[2][name], tensor)


def test_tables_name_every_type_once_and_in_order():
    assert set(TYPES) | set(NOT_SMALL) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    parts = {part for fields in NESTED.values() for part in fields.values()}
    for table in (NEEDS, NESTED, NOT_SMALL):
        assert list(table) == sorted(table)
        assert set(table) <= set(TYPES) | set(NOT_SMALL) | parts
    assert all(field in CONFIG_MAPPING[model_type].sub_configs for model_type in NESTED for field in NESTED[model_type])
    assert set(TYPES) >= NEVER_TIED | NOT_CAUSAL
