"""A small model of every type that AutoModelForCausalLM can build: the reference of "all architectures" for the tests.

Every model has two layers or one of each kind, a width of 32, four heads (two for keys and values where the class
groups them) and the wanted vocabulary. All settings go through the constructor, as they would from a config.json.
"""

import copy
import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Settings under all the names that classes have for them; each class gets those that its constructor lists.
SHARED: dict[str, Any] = {
    # width
    "hidden_size": 32, "d_model": 32, "emb_dim": 32, "n_embd": 32,
    # feed-forward width
    "d_inner": 64, "decoder_ffn_dim": 64, "dense_intermediate_size": 64, "dff": 64, "dim_ff": 64, "encoder_ffn_dim": 64,
    "feed_forward_size": 64, "ffn_dim": 64, "ffn_hidden_size": 64, "intermediate_size": 64,
    "intermediate_size_mlp": 64, "n_inner": 64,
    # layers
    "decoder_layers": 2, "encoder_layers": 2, "n_layer": 2, "n_layers": 2, "num_decoder_layers": 2,
    "num_encoder_layers": 2, "num_hidden_layers": 2, "num_layers": 2,
    # heads
    "attention_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_attention_heads": 4, "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 8,
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
    # rotary and latent attention
    "rotary_dim": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 4,
    # positions
    "context_length": 128, "max_position_embeddings": 128, "max_seq_len": 128, "max_target_positions": 128,
    "n_ctx": 128, "n_positions": 128, "original_max_position_embeddings": 128,
    # windows shorter than the sequences of the tests
    "sliding_window": 8, "sliding_window_size": 8, "attention_window_size": 8, "attention_chunk_size": 8,
    # experts
    "moe_num_experts": 4, "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4,
    "moe_k": 2, "moe_topk": 2, "num_experts_per_tok": 2,
    "moe_num_shared_experts": 1, "n_shared_experts": 1, "num_shared_experts": 1,
    "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "num_dense_layers": 1,
    "expert_ffn_hidden_size": 32, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "shared_experts_intermediate_size": 32, "shared_intermediate_size": 32,
    # state spaces and linear attention
    "mamba_chunk_size": 8, "mamba_d_state": 8, "mamba_head_dim": 16, "mamba_n_heads": 4, "mamba_num_heads": 4,
    "ssm_state_size": 8, "state_size": 8, "chunk_size": 8, "n_groups": 1,
    "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
    # encoders used as decoders
    "is_decoder": True,
    # special ids
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
# Settings that are the wanted vocabulary size.
VOCABULARIES = ("unpadded_vocab_size", "vocab_size", "vocab_size_per_layer_input")

# Layers of each kind, for classes whose own pattern shows them all in more than two layers only.
DENSE_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
HYBRID = {"layer_types": ["hybrid_sliding", "hybrid"]}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
TWICE = {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]}  # one block, used twice
# An encoder of images or sounds: not under test, but part of the class.
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
# For classes that count positions or lengths by the padding id, or refuse to go without: no id for an ordinary token.
PADDED = {"pad_token_id": 1}

# What a type, or a part of one, needs besides.
NEEDS: dict[str, dict[str, Any]] = {
    "afmoe": SLIDING,
    "bailing_hybrid": LINEAR,
    "bamba": {"attn_layer_indices": [1]},
    "beam": DENSE_SPARSE,
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "global_config": {"hidden_size": 64},
        "use_cache": False,  # its cache needs a number of layers, which its config does not have
    },
    "blt_local_decoder": {"hidden_size_global": 64},
    "blt_local_encoder": {"hidden_size_global": 64},
    "camembert": PADDED,
    "cohere2": SLIDING,
    "cohere2_moe": SLIDING,
    "cohere_compass_text": SLIDING | {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "cpmant": {"dim_head": 8, "prompt_length": 4, "prompt_types": 4, "segment_types": 4},
    "data2vec-text": PADDED,
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_top_k": 2},
        "tie_word_embeddings": False,  # it refuses True
    },
    "deepseek_v32": DENSE_SPARSE,
    "deepseek_v4": {
        "layer_types": ["compressed_sparse_attention", "heavily_compressed_attention"],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "mlp_layer_types": ["hash_moe", "moe"], "num_key_value_heads": 1, "o_groups": 2, "o_lora_rank": 8,
    },
    "dory": SLIDING | {"n_input_layers": 1, "n_output_layers": 1},
    "dots3_note": {
        "audio_config": ENCODER | {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
        "vision_config": ENCODER | {"adapter_in_dim": 32, "adapter_out_dim": 32, "mlp_layer_types": ["dense"]},
    },
    "dots3_note_text": {  # its constructor takes, but does not list, the settings of the sliding layers
        "layer_types": ["sliding_attention", "indexed_attention"],
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
        "swa_head_dim": 12, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
    },
    "electra": {"embedding_size": 16},
    "emu3": {"text_config": PADDED},
    "exaone4": SLIDING,
    "exaone_moe": SLIDING,
    "falcon_h1": {"mamba_d_ssm": 64},
    "flint": SLIDING,
    "fuyu": {"patch_size": 4},
    "gemma3": {"vision_config": ENCODER | {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14}},
    "gemma3_text": SLIDING,
    "gemma3n_text": SLIDING | {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4},
    "gemma4": {"text_config": PADDED},
    "gemma4_text": SLIDING | {"global_head_dim": 16, "hidden_size_per_layer_input": 8},
    "gemma4_unified": {"text_config": PADDED},
    "gemma4_unified_text": SLIDING | {"global_head_dim": 16},
    "git": {"vision_config": ENCODER | {"image_size": 32}},
    "glm_moe_dsa": DENSE_SPARSE,
    "got_ocr2": {
        "vision_config": {
            "hidden_size": 32, "mlp_dim": 64, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "global_attn_indexes": [0],
        },
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": LINEAR,
    "hy_v4": {"indexer_types": ["full", "shared"]},
    "inkling2_loop_text": HYBRID | {
        "loop_layer_index_start": 1, "loop_layer_index_end": 2, "n_layers_per_attn_res_block": 1, "loop_gate_rank": 8,
    },
    "inkling2_text": HYBRID,
    "inkling_text": HYBRID | {"logits_mup_width_multiplier": 1.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 8},
    "kimi_linear": LINEAR | {"linear_head_dim": 8, "linear_num_heads": 4},
    "kolibri1": SLIDING,
    "lara_mini": {"num_hidden_layers": 3, "layer_types": ["linear_attention", "sliding_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "sliding_attention", "full_attention"], "num_hidden_layers": 3},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"]},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2},
    "mamba2": {"head_dim": 16},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse"],
        "index_block_size": 2, "index_topk_blocks": 2,
    },
    "modernbert-decoder": PADDED,
    "moss_transcribe_diarize": {"audio_config": ENCODER | {"num_mel_bins": 8, "max_source_positions": 16}},
    "olmo3": SLIDING,
    "opt": {"word_embed_proj_dim": 16},
    "phi4_multimodal": {
        "vision_config": ENCODER | {"image_size": 28, "crop_size": 28, "num_hidden_layers": 2},
        "audio_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 2,
            "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8,
        },
    },
    "prophetnet": PADDED,
    "qwen3_5_moe_text": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "hc_lowrank": 8, "heads_per_ngram": 2, "ngram_vocab_size_base": 64, "make_ngram_vocab_size_divisible_by": 8,
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
        "indexer_budget": 4, "indexer_compress_ratio": 2,
        "split_ngram_parts": 1, "ple_layer_ids": [1],
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": PADDED | {
        "attn_layers": ["local", "lsh"], "attention_head_size": 8, "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "hash_seed": 0,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 32},
    "roberta": PADDED,
    "roberta-prelayernorm": PADDED,
    "roc_bert": {
        "pronunciation_embed_dim": 8, "pronunciation_vocab_size": 50, "shape_embed_dim": 8, "shape_vocab_size": 50,
    },
    "xlm": PADDED | {"causal": True},
    "xlm-roberta": PADDED,
    "xlm-roberta-xl": PADDED,
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},  # the class counts in steps of 64
    "xmod": PADDED | {"default_language": "en_XX"},
    "zamba": TWICE,
    "zamba2": TWICE | {"adapter_rank": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
# Types that keep the language model's settings in configs of their own: their fields and types.
NESTED: dict[str, dict[str, str]] = {
    "blt": {
        "decoder_config": "blt_local_decoder", "encoder_config": "blt_local_encoder",
        "global_config": "blt_global_transformer", "patcher_config": "blt_patcher",
    },
    "dots3_note": {"text_config": "dots3_note_text"},
    "emu3": {"text_config": "emu3_text_model"},
    "fuyu": {"text_config": "persimmon"},
    "gemma3": {"text_config": "gemma3_text"},
    "gemma3n": {"text_config": "gemma3n_text"},
    "gemma4": {"text_config": "gemma4_text"},
    "gemma4_unified": {"text_config": "gemma4_unified_text"},
    "got_ocr2": {"text_config": "qwen2"},
    "llama4": {"text_config": "llama4_text"},
    "mllama": {"text_config": "mllama_text_model"},
    "moss_transcribe_diarize": {"text_config": "qwen3"},
    "qwen3_5": {"text_config": "qwen3_5_text"},
    "qwen3_5_moe": {"text_config": "qwen3_5_moe_text"},
    "qwen4_exp": {"text_config": "qwen4_exp_text"},
}  # fmt: skip

# Types that cannot be built small, or whose class is no language model over its own vocabulary.
NOT_SMALL: dict[str, str] = {
    "gemma3n": "needs the package timm, which gemma3n_text does not",
    "gemma4_assistant": "takes another model's hidden states instead of ids",
    "gemma4_unified_assistant": "takes another model's hidden states instead of ids",
    "musicgen": "AutoModelForCausalLM gives the class a config that it cannot use",
    "musicgen_melody": "AutoModelForCausalLM gives the class a config that it cannot use",
}

TYPES: tuple[str, ...] = tuple(sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_SMALL)))

# Families of published models in wide use, for tests that are too slow for all types.
COMMON = (
    "bloom", "codegen", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gpt_oss", "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo2", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip

# Types whose two embeddings are never tied, whatever the config says.
NEVER_TIED = frozenset({
    "bailing_hybrid", "bigbird_pegasus", "cpmant", "dbrx", "inkling2_loop_text", "inkling2_text", "inkling_text",
    "kimi_linear", "mllama", "moshi", "nemotron_h", "reformer", "rembert", "xlstm",
})  # fmt: skip
# Types whose logits depend on later tokens too (reformer's through the buckets of its hashes).
NOT_CAUSAL = frozenset({"cpmant", "reformer", "xlnet"})
# Types that fail in half precision, on CPUs at least (deepseek_v4 in float16 only).
ONLY_FLOAT32 = frozenset({"deepseek_v4", "reformer", "xlnet"})
# Buffers that training changes and loading keeps; all others are computed by the class.
LEARNT_BUFFERS = ("correction_bias", "expert_bias", "layer_scalar", "tid2eid")


def settings_of(
    model_type: str, vocab_size: int, tied: bool, ids: dict[str, int | None], needs: dict[str, Any]
) -> dict[str, Any]:
    """Constructor arguments of the type's config class."""
    names = inspect.signature(CONFIG_MAPPING[model_type].__init__).parameters
    offered = SHARED | dict.fromkeys(VOCABULARIES, vocab_size) | {"tie_word_embeddings": tied}
    if "kv_lora_rank" in names:
        offered["num_key_value_heads"] = offered["num_attention_heads"]  # latent attention does not group heads
    settings = {name: value for name, value in offered.items() if name in names}
    settings |= copy.deepcopy(needs) | {name: value for name, value in ids.items() if name in names}
    for field, part in NESTED.get(model_type, {}).items():
        settings[field] = settings_of(part, vocab_size, tied, ids, NEEDS.get(part, {}) | needs.get(field, {}))
    return settings


def small_config(model_type: str, vocab_size: int, tied: bool, **ids: int | None) -> PretrainedConfig:
    """Config of a small model; ``ids`` are special ids by their names in the config."""
    settings = settings_of(model_type, vocab_size, tied, ids, NEEDS.get(model_type, {}))
    return CONFIG_MAPPING[model_type](**settings)


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Add noise to all that a checkpoint brings, so that nothing is zero, one or constant, as it is in fresh models."""
    generator = torch.Generator().manual_seed(seed)
    learnt = {name: buffer for name, buffer in model.named_buffers() if name.endswith(LEARNT_BUFFERS)}
    with torch.no_grad():
        for name, tensor in (learnt | dict(model.named_parameters())).items():
            if not tensor.is_floating_point():  # experts by token id
                tensor.copy_(torch.randint(int(SHARED["n_routed_experts"]), tensor.shape, generator=generator))
            elif tensor.requires_grad or "embed_positions" not in name:  # else sinusoids, which the class computes anew
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor.float() + noise * (0.2 if tensor.ndim > 1 else 0.1))


def small_model(
    model_type: str, vocab_size: int, tied: bool, dtype: torch.dtype = torch.float32, seed: int = 0, **ids: int | None
) -> PreTrainedModel:
    """Small random model in evaluation mode; in half precision, with the parameters in float32 that its class wants."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(small_config(model_type, vocab_size, tied, **ids), dtype=dtype)
    randomise(model, seed)
    return model.eval()


def save_small_model(model: PreTrainedModel, folder: str | Path, model_type: str, **ids: int | None) -> None:
    """Save so that AutoModelForCausalLM can load it.

    The library saves the config of the text model, whose type AutoModelForCausalLM does not know for every class; such
    models get the config of the whole model, as published checkpoints have it.
    """
    model.save_pretrained(folder)
    config = model.config
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        small_config(model_type, config.vocab_size, config.tie_word_embeddings, **ids).save_pretrained(folder)
