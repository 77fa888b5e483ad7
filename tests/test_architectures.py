"""Every architecture of the table in docs/architectures.md goes through a transfer and comes out right.

The proof does not look at tensor names: fed with tokens that both vocabularies have, the target must give the source's
logits for these tokens. ``CLP_WRITE_DOCS=1 pytest tests/test_architectures.py`` writes the table anew.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from clp_core.overlap import Overlap
from clp_core.transfer import transfer
from clp_core.transfer_options import TransferOptions
from clp_core.vocabulary import Vocabulary

TABLE = Path(__file__).parent.parent / "docs" / "architectures.md"

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
GROUPED = SMALL | {"num_key_value_heads": 1}
CONFIGS = {
    "bloom": ("BLOOM", {"hidden_size": 32, "n_layer": 1, "n_head": 2}),
    "codegen": ("CodeGen", {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "rotary_dim": 4}),
    "cohere": ("Command R", GROUPED),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}),
    "gemma": ("Gemma", GROUPED | {"head_dim": 16}),
    "gemma2": ("Gemma 2", GROUPED | {"head_dim": 16}),
    "gemma3_text": ("Gemma 3", GROUPED | {"head_dim": 16}),
    "gpt2": ("GPT-2", {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}),
    "gpt_bigcode": ("StarCoder", {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}),
    "gpt_neo": (
        "GPT-Neo",
        {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]],
         "max_position_embeddings": 64},
    ),
    "gpt_neox": ("GPT-NeoX, Pythia", SMALL),
    "gpt_oss": ("GPT-OSS", GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16}),
    "gptj": ("GPT-J", {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "rotary_dim": 8}),
    "granite": ("Granite", GROUPED),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", GROUPED),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 2}),
    "mpt": ("MPT", {"d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 64}),
    "olmo2": ("OLMo 2", GROUPED),
    "opt": (
        "OPT",
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    ),
    "phi": ("Phi", SMALL),
    "phi3": ("Phi-3", GROUPED),
    "qwen2": ("Qwen 2, 2.5", GROUPED),
    "qwen2_moe": (
        "Qwen 2 MoE",
        GROUPED | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32,
                   "shared_expert_intermediate_size": 32},
    ),
    "qwen3": ("Qwen 3", GROUPED | {"head_dim": 16}),
    "qwen3_moe": (
        "Qwen 3 MoE",
        GROUPED | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "smollm3": ("SmolLM3", GROUPED),
    "stablelm": ("StableLM", GROUPED),
    "starcoder2": ("StarCoder 2", GROUPED),
}  # fmt: skip
FORMS = (("float32", 1, "safetensors"), ("bfloat16", 3, "safetensors"), ("float16", 1, "bin"), ("float32", 3, "bin"))


def save_as(model, folder, shards, kind):
    """Save as one file or as several, as safetensors or as pickles."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if kind == "safetensors":
        model.save_pretrained(folder, max_shard_size=f"{size // (shards + 1) // 1000 + 1}KB" if shards > 1 else "1GB")
        return
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = list(state)
    weight_map = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
        torch.save({name: state[name].clone() for name in names[i::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[i::shards], file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map})
    )


def make_source(folder, model_type, tokenizer, tied, dtype="float32", shards=1, kind="safetensors"):
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), tie_word_embeddings=tied, **CONFIGS[model_type][1], **ids
    )
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)  # biases start as zeros, which proves nothing
    save_as(model.to(getattr(torch, dtype)), folder, shards, kind)
    tokenizer.save_pretrained(folder)


def has_output_bias(model):
    return getattr(model.get_output_embeddings(), "bias", None) is not None


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_target_gives_the_sources_logits_for_tokens_in_common(tmp_path, tokenizers, pair, model_type, tied):
    dtype, shards, kind = FORMS[(sorted(CONFIGS).index(model_type) + 2 * tied) % len(FORMS)]
    source = tmp_path / "source"
    make_source(source, model_type, tokenizers["byte-level", "en"], tied, dtype, shards, kind)
    old = AutoModelForCausalLM.from_pretrained(source, dtype="auto").eval()
    options = TransferOptions(str(source), str(pair[1]), str(tmp_path / "target"), "linear", provenance="light")
    report = transfer(options)
    new, info = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert new.dtype == getattr(torch, dtype)
    assert report["tied"] == tied
    assert (new.get_input_embeddings().weight is new.get_output_embeddings().weight) == tied
    overlap = Overlap.of(Vocabulary.open(source), Vocabulary.open(pair[1]))
    ids = overlap.ids[np.random.default_rng(0).integers(0, overlap.size, 12)]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)(), getattr(new, get)()
        assert torch.equal(after.weight[overlap.ids], before.weight[overlap.source_ids[overlap.ids]])
    if has_output_bias(old):
        layers = old.get_output_embeddings().bias, new.get_output_embeddings().bias
        assert torch.equal(layers[1][overlap.ids], layers[0][overlap.source_ids[overlap.ids]])
        assert layers[1].shape == (overlap.target.n_ids,)
        assert not (layers[1][overlap.missing_ids] == 0).any()
    old, new = old.float(), new.float().eval()  # widening is exact; products in half precision depend on the shape
    with torch.inference_mode():
        expected = old(torch.from_numpy(overlap.source_ids[ids])[None]).logits[..., overlap.source_ids[overlap.ids]]
        found = new(torch.from_numpy(ids)[None]).logits[..., overlap.ids]
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_table_in_the_docs_names_what_is_tested(tokenizers):
    lines = [
        "# Architectures",
        "",
        "A transfer asks the model's own class, built on the meta device, where its embeddings are; there is no list",
        "of names. So any causal language model that transformers can build should go through, and what cannot is",
        "refused before anything is kept. These go through in the tests (`tests/test_architectures.py` writes this",
        "table): tied and untied, in float32, float16 and bfloat16, in one file and in shards, as safetensors and as",
        "pickles, each architecture in two of these forms. Fed with tokens that both vocabularies have, the target",
        "gives the source's logits for these tokens.",
        "",
        "Refused by name: quantised weights, and classes with further tables by token id (Gemma 3n's per-layer",
        "embeddings), whose rows no method makes.",
        "",
        "| architecture | `model_type` | class | output bias |",
        "|---|---|---|---|",
    ]
    for model_type, (name, settings) in sorted(CONFIGS.items(), key=lambda item: item[1][0].lower()):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(model_type, vocab_size=300, pad_token_id=None, **settings)
            )
        bias = "yes" if has_output_bias(model) else "no"
        lines.append(f"| {name} | `{model_type}` | `{type(model).__name__}` | {bias} |")
    content = "\n".join(lines) + "\n"
    if os.environ.get("CLP_WRITE_DOCS"):
        TABLE.write_text(content)
    assert TABLE.read_text() == content
