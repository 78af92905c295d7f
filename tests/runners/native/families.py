"""Small random models of each family that the step in C computes, with all in which they differ from a Llama."""

from __future__ import annotations

import torch
import transformers

VOCAB = 199
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 9
EXPERTS = {"moe_intermediate_size": 40, "num_experts": 6, "num_experts_per_tok": 2}
TURNED_IN_PART = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
FOR_LONG_TEXTS = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [4.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": 64,
}
# All of a head is turned
ALL_FOR_LONG_TEXTS = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [4.0 + i for i in range(8)],
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with yarn": ("Llama", {"rope_parameters": YARN}),
    "phi3": ("Phi3", {"sliding_window": WINDOW}),
    "phi4 mini": ("Phi3", {"rope_parameters": TURNED_IN_PART}),
    "phi4 mini with factors for long texts": (
        "Phi3",
        {"rope_parameters": FOR_LONG_TEXTS, "original_max_position_embeddings": 64},
    ),
    "llama with factors for long texts": ("Llama", {"rope_parameters": ALL_FOR_LONG_TEXTS}),
    "smollm3": ("SmolLM3", {"use_sliding_window": True, "sliding_window": WINDOW}),
    "ministral": ("Ministral", {"head_dim": 16, "sliding_window": WINDOW}),
    "seed oss": ("SeedOss", {"attention_bias": True, "attention_out_bias": True}),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", {"sliding_window": WINDOW}),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.1,
            "residual_multiplier": 0.3,
            "logits_scaling": 0.7,
        },
    ),
    "gemma": ("Gemma", {"head_dim": 24}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {"head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": WINDOW, "sliding_window_pattern": 3},
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": WINDOW}),
    "olmoe": ("Olmoe", {"num_experts": 6, "num_experts_per_tok": 2}),
    "qwen2 with experts": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1]}),
    "gpt oss": (
        "GptOss",
        {
            "head_dim": 24,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "rope_parameters": YARN,
            "swiglu_limit": 0.3,  # so that it is reached
            "tie_word_embeddings": False,
        },
    ),
    "qwen3 with experts": ("Qwen3Moe", {**EXPERTS, "head_dim": 24, "norm_topk_prob": True, "decoder_sparse_step": 2}),
}


def make_family(name):
    """A random model of a family, the same each time."""
    torch.manual_seed(1)
    family, options = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**SHAPE, **options)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # What is made as zeros or ones would hide where it is left out; sharper logits make greedy choices clear
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "gate.weight" in parameter_name or "router.weight" in parameter_name:
                parameter.normal_()
            elif parameter_name.endswith("_bias"):
                parameter.normal_(std=0.2)
            else:
                parameter.mul_(3)
    return model
