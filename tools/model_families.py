"""Tiny random models of every family of causal language models that transformers has.

What they compute means nothing; what is computed over slots has to be what they compute by themselves. Weights are such
that every part of a model matters: as transformers initialises them, attention is nearly even and logits nearly flat.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 3072  # of the pocket model's tokenizer, which goes with all of them
MAX_PARAMETERS = 300_000_000
WINDOW, CHUNK, ORIGINAL, LONGEST = 8, 8, 16, 128
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "embed_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_kv_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 48),
    **dict.fromkeys(("dim_ff", "shared_expert_intermediate_size", "shared_intermediate_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), LONGEST),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size", "sliding_window_size"), WINDOW),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "index_head_dim", "head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 4),
    "vocab_size": VOCAB,
    "num_key_value_heads": 2,
    "index_n_heads": 16,  # whose scores are never all 0: among equal ones, which are taken depends on the batch
    "index_topk": 4,
    "attention_chunk_size": CHUNK,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
}
# What a family needs besides, for sizes that agree with each other
_MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2}
_LATENT = ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa")
_LATENT += ("longcat_flash", "minicpm3", "youtu")
_TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
MORE: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in _LATENT},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _HYBRID),
    **{name: {"rotary_dim": 4} for name in ("gptj", "codegen")},
    **{name: {"layer_types": ["conv", "full_attention"]} for name in ("lfm2", "lfm2_moe", "lfm3")},
    "bailing_hybrid": {**_HYBRID, "num_key_value_heads": 4},
    "bamba": {**_MAMBA_2, "attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "blt": {
        part: {"vocab_size": 300, **_TINY}
        for part in ("patcher_config", "encoder_config", "decoder_config", "global_config")
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**_MAMBA_2, "layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {**_HYBRID, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "plbart": {"decoder_attention_heads": 4},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "qwen4_exp_text": {
        **_HYBRID,
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "attn_layers": ["local", "lsh"]},
    "whisper": {"decoder_attention_heads": 4, "max_target_positions": LONGEST},
    "xlm": {"causal": True, "emb_dim": 32},
    "xlstm": {"hidden_size": 128, "num_heads": 2, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
}
PARTS = {"vision": "images", "vq_config": "images", "audio": "sound"}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "factor": 8.0,
    "original_max_position_embeddings": ORIGINAL,
}
# A family under conditions that it comes with, too: name, model type, values
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, longrope": ("llama", {"rope_parameters": LONGROPE}),
    "llama, dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
            "max_position_embeddings": 24,
        },
    ),
    "phi3, longrope": (
        "phi3",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": ORIGINAL, "sliding_window": None},
    ),
    "falcon, ALiBi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True}),
    "mistral, all": ("mistral", {"sliding_window": None}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW}),
    "deepseek_v3, dense": ("deepseek_v3", {"first_k_dense_replace": 2}),
}


def names() -> list[str]:
    """All families, and variants of some."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS})


def make_config(name: str, other: Mapping[str, Any] | None = None) -> Any:
    """A small configuration of a family.

    Args:
        name: of the family.
        other: values in place of the small ones.

    Raises:
        Exception: whatever transformers has against these sizes.
    """
    model_type, values = VARIANTS.get(name, (name, {}))
    cls: Any = CONFIG_MAPPING[model_type]
    fields = set(inspect.signature(cls.__init__).parameters)
    for base in cls.__mro__:
        fields |= set(getattr(base, "__annotations__", {}))
    sizes = {key: value for key, value in SIZES.items() if key in fields}
    return cls(**{**sizes, **MORE.get(model_type, {}), **values, **(other or {})})


def kind_of(name: str) -> str:
    """What a family is for, where that is more than text, or it is a part of another model; empty for a text model."""
    model_type = VARIANTS.get(name, (name, {}))[0]
    cls: Any = CONFIG_MAPPING[model_type]
    parts = " ".join(getattr(cls, "sub_configs", None) or ())
    if "assistant" in model_type:
        return "a part of a Gemma 4, which drafts for it"
    found = [kind for part, kind in PARTS.items() if part in parts]
    if model_type == "fuyu" or (not found and "Conditional" in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]):
        found = ["images"]
    return f"for {' and '.join(sorted(set(found)))}, too" if found else ""


def make_model(config: Any, seed: int = 1, *, is_shaken: bool = True) -> Any:
    """A random model of a configuration, the same each time; with weights as transformers makes them unless shaken."""
    cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in cls(config).parameters())
    if num_parameters > MAX_PARAMETERS:
        raise ValueError(f"{cls.__name__} has {num_parameters:,} parameters with these sizes")
    torch.manual_seed(seed)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters() if is_shaken else ():
            _shake(parameter)
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    return model


def _shake(parameter: torch.Tensor) -> None:
    """Give a weight a spread that matters; what an initialisation chose with care stays about what it is."""
    noise = torch.randn_like(parameter, dtype=torch.float32).to(parameter.dtype)
    spread = parameter.float().std().item() if parameter.numel() > 1 else 1.0
    if parameter.ndim == 1:
        parameter.add_(noise * 0.1)
    elif spread < 0.15:
        parameter.copy_(noise * 0.15)
