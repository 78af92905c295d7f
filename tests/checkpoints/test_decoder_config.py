"""What is read without transformers is what transformers reads; whatever else stands in the file is left to it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.decoder_config import DecoderConfig, read_decoder_config
from llmapi_kit.checkpoints.model_decoder import config_of, rotations_of
from llmapi_kit.checkpoints.rotation import rotation_of

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
}
OTHERS = {"rope_scaling": None, "attention_dropout": 0.0, "initializer_range": 0.02}
WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
LLAMA_3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_type": "llama3",
}


FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [4.0, 5.0, 6.0, 7.5]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
GEMMA = {
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "cache_implementation": "hybrid",
    "query_pre_attn_scalar": 20,
    "sliding_window": 9,
    "final_logit_softcapping": 30.0,
    "attention_bias": False,
}


def of(family, architecture, **values):
    return {**LLAMA, "model_type": family, "architectures": [architecture], **values}


UNDERSTOOD = {
    "llama": LLAMA,
    "as many key-value heads as heads": {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"},
    "the same by null": {**LLAMA, "num_key_value_heads": None, "head_dim": None},
    "llama with all that changes nothing": {**LLAMA, **OTHERS, "pretraining_tp": 1, "mlp_bias": False},
    "a head of its own width": {**LLAMA, "head_dim": 24, "tie_word_embeddings": True},
    "several end tokens": {**LLAMA, "eos_token_id": [2, 5], "rope_theta": 500000},
    "llama 3.1": {**LLAMA, "rope_scaling": LLAMA_3, "rope_theta": 500000.0},
    "linear scaling by its old name": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4}},
    "what transformers 5 writes": {
        **{key: value for key, value in LLAMA.items() if key not in ("rope_theta", "torch_dtype")},
        "dtype": "float32",
        "rope_parameters": {**LLAMA_3, "rope_theta": 500000.0},
    },
    "qwen2": of("qwen2", "Qwen2ForCausalLM", use_sliding_window=False, sliding_window=None, max_window_layers=2),
    "qwen2 with a window": of("qwen2", "Qwen2ForCausalLM", **WINDOW),
    "qwen3": of("qwen3", "Qwen3ForCausalLM", head_dim=16, attention_bias=False, sliding_window=4096),
    "qwen3 with a window by layers": of(
        *("qwen3", "Qwen3ForCausalLM"),
        head_dim=16,
        **{**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "mistral": of("mistral", "MistralForCausalLM", sliding_window=None, head_dim=8),
    "mistral with a window": of("mistral", "MistralForCausalLM", sliding_window=9),
    "biases everywhere": {**LLAMA, "attention_bias": True, "mlp_bias": True},
    "yarn": {**LLAMA, "rope_scaling": YARN},
    "yarn with numbers of its own": {
        **LLAMA,
        "rope_scaling": {**YARN, "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.3, "truncate": False},
    },
    "gemma as it was published": of("gemma", "GemmaForCausalLM", head_dim=16, hidden_act="gelu_pytorch_tanh"),
    "gemma2 as it was published": of("gemma2", "Gemma2ForCausalLM", **GEMMA, attn_logit_softcapping=50.0),
    "gemma3 as it was published": of(
        *("gemma3_text", "Gemma3ForCausalLM"),
        **GEMMA,
        rope_local_base_freq=10000,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=2,
        attn_logit_softcapping=None,
    ),
    "phi3 as it was published": of(
        *("phi3", "Phi3ForCausalLM"),
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        sliding_window=9,
        pad_token_id=3,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        original_max_position_embeddings=512,
        attention_bias=False,
        rope_scaling=None,
    ),
    "phi3 that turns part of a head": of(
        "phi3", "Phi3ForCausalLM", sliding_window=None, partial_rotary_factor=0.5, pad_token_id=3
    ),
    "phi4 mini as it was published": of(
        *("phi3", "Phi3ForCausalLM"),
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        sliding_window=9,
        pad_token_id=3,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        partial_rotary_factor=0.5,
        original_max_position_embeddings=128,
        full_attn_mod=1,
        interpolate_factor=1,
        lm_head_bias=False,
        rope_scaling={"type": "longrope", "short_factor": [1, 1.5], "long_factor": [2, 5.5]},
    ),
    "llama by factors for long texts": {
        **LLAMA,
        "rope_scaling": {**FACTORS, "rope_type": "longrope", "factor": 3.0, "original_max_position_embeddings": 128},
    },
    "llama by factors whose original context is all": {**LLAMA, "rope_scaling": {**FACTORS, "rope_type": "longrope"}},
    "qwen2 with experts as it was published": of(
        *("qwen2_moe", "Qwen2MoeForCausalLM"),
        moe_intermediate_size=24,
        shared_expert_intermediate_size=48,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        output_router_logits=False,
        router_aux_loss_coef=0.001,
        use_sliding_window=False,
        sliding_window=32768,
        max_window_layers=21,
    ),
    "gpt oss as it was published": of(
        *("gpt_oss", "GptOssForCausalLM"),
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_per_token=2,
        attention_bias=True,
        initial_context_length=128,
        swiglu_limit=7.0,
        sliding_window=9,
        output_router_logits=False,
        router_aux_loss_coef=0.9,
        rope_scaling={**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    ),
}
LEFT_TO_TRANSFORMERS = {
    "another family": of("opt", "OPTForCausalLM"),
    "another head": of("llama", "LlamaForSequenceClassification"),
    "no head named": {key: value for key, value in LLAMA.items() if key != "architectures"},
    "a field of a family to come": {**LLAMA, "attention_sinks": 4},
    "a field of another family": {**LLAMA, "sliding_window": 9},
    "weights in 8 bits": {**LLAMA, "quantization_config": {"load_in_8bit": True}},
    "code of its own": {**LLAMA, "auto_map": {"AutoModelForCausalLM": "modeling.Own"}},
    "part of a head turned": {**LLAMA, "partial_rotary_factor": 0.5},
    "another rotary scaling": {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "rotary scaling with a field to come": {**LLAMA, "rope_scaling": {**YARN, "mscale": 1.0}},
    "yarn that lacks its context": {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    "rotary scaling that lacks a number": {**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
    "two rotary scalings": {**LLAMA, "rope_scaling": LLAMA_3, "rope_parameters": {"rope_type": "default"}},
    "two thetas": {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1.0}},
    "a share of the head that is no number": of(
        "phi3", "Phi3ForCausalLM", sliding_window=None, pad_token_id=3, partial_rotary_factor=[]
    ),
    "mistral with key-value heads of null": of(
        "mistral", "MistralForCausalLM", sliding_window=None, num_key_value_heads=None
    ),
    "a window in words that nobody looks at": of("qwen3", "Qwen3ForCausalLM", head_dim=16, sliding_window="x"),
    "no theta": {key: value for key, value in LLAMA.items() if key != "rope_theta"},
    "another activation": {**LLAMA, "hidden_act": "gelu"},
    "a bias in words": {**LLAMA, "attention_bias": "yes"},
    "a bias that a family does not have": of("mistral", "MistralForCausalLM", sliding_window=None, attention_bias=True),
    "phi3 by factors that does not say its original context": of(
        *("phi3", "Phi3ForCausalLM"), sliding_window=None, pad_token_id=3, rope_scaling={"type": "longrope", **FACTORS}
    ),
    "phi3 by factors under their first name": of(
        *("phi3", "Phi3ForCausalLM"),
        sliding_window=None,
        pad_token_id=3,
        original_max_position_embeddings=128,
        rope_scaling={"type": "su", **FACTORS},
    ),
    "factors of another number": {**LLAMA, "rope_scaling": {**FACTORS, "type": "longrope", "long_factor": [4.0]}},
    "factors that are none": {**LLAMA, "rope_scaling": {**FACTORS, "type": "longrope", "short_factor": [1, 2, 3, 0]}},
    "factors for long texts alone": {**LLAMA, "rope_scaling": {"type": "longrope", "long_factor": [4.0] * 4}},
    "gemma that looks both ways": of("gemma2", "Gemma2ForCausalLM", **GEMMA, use_bidirectional_attention=True),
    "gemma2 without its cap": of("gemma2", "Gemma2ForCausalLM", **GEMMA),
    "gemma3 without its local frequencies": of("gemma3_text", "Gemma3ForCausalLM", **GEMMA),
    "more experts a token than there are": of(
        "mixtral", "MixtralForCausalLM", sliding_window=None, num_local_experts=2, num_experts_per_tok=3
    ),
    "experts with queries that are cut off": of(
        *("olmoe", "OlmoeForCausalLM"),
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        clip_qkv=8.0,
    ),
    "heads that are not divided": {**LLAMA, "num_key_value_heads": 3},
    "no end token, of which families have their own": {k: v for k, v in LLAMA.items() if k != "eos_token_id"},
    "no layers": {**LLAMA, "num_hidden_layers": 0},
    "layers in words": {**LLAMA, "num_hidden_layers": "3"},
    "a whole number where a fraction stands": {**LLAMA, "rms_norm_eps": 1},
    "tied in words": {**LLAMA, "tie_word_embeddings": "yes"},
    "an end token without a row": {**LLAMA, "eos_token_id": 96},
    "two types": {**LLAMA, "dtype": "float32"},
    "qwen3 without a head's width": of("qwen3", "Qwen3ForCausalLM"),
    "qwen2 without key-value heads": {
        key: value for key, value in of("qwen2", "Qwen2ForCausalLM").items() if key != "num_key_value_heads"
    },
    "mistral with the default window": of("mistral", "MistralForCausalLM"),
    "a width that the step in C does not take": {**LLAMA, "intermediate_size": 47},
}


def read(folder, values):
    (folder / "config.json").write_text(json.dumps(values))
    return read_decoder_config(folder)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_transformers_understands_the_same(name, tmp_path):
    mine = read(tmp_path, UNDERSTOOD[name])
    assert isinstance(mine, DecoderConfig)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    for field in (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "eos_token_id"),
    ):
        assert getattr(mine, field) == getattr(theirs, field), field
    assert mine.dtype == str(theirs.dtype).removeprefix("torch.")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    assert replace(config_of(model), dtype=mine.dtype) == replace(mine, ropes=())
    rotary = type(model.model.rotary_emb)(theirs)  # off the meta device
    model.model.rotary_emb = rotary
    for own, rotation in zip(mine.ropes, rotations_of(model), strict=True):
        made = rotation_of(own, mine.head_dim)
        assert torch.equal(made.inv_freq, rotation.inv_freq)
        assert (made.scale, made.original_length) == (rotation.scale, rotation.original_length)
        assert made.long_inv_freq is None or torch.equal(made.long_inv_freq, rotation.long_inv_freq)


@pytest.mark.parametrize("name", LEFT_TO_TRANSFORMERS)
def test_what_is_not_understood_is_left_to_transformers(name, tmp_path):
    assert read(tmp_path, LLAMA) is not None
    assert read(tmp_path, LEFT_TO_TRANSFORMERS[name]) is None


def test_a_damaged_file_is_left_to_transformers(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert read_decoder_config(tmp_path) is None
    assert read_decoder_config(tmp_path / "nowhere") is None
