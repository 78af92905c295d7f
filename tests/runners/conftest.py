"""Small random models of several families."""

from __future__ import annotations

import pytest
import torch
import transformers

VOCAB = 199
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{**SHAPE, "hidden_size": 48},
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
        )
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            **SHAPE,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ),
    "qwen2 with a sliding window": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            **SHAPE,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            use_sliding_window=True,
            sliding_window=7,
            max_window_layers=1,
        )
    ),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            **SHAPE,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            tie_word_embeddings=True,
        )
    ),
    "mistral with a sliding window": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(
            **SHAPE,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            sliding_window=9,
        )
    ),
    "llama 3 rotary scaling": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SHAPE,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        )
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=48, n_layer=3, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2
        )
    ),
}


def make_tiny(family):
    """A random model of a family, the same each time."""
    torch.manual_seed(1)
    model = TINY[family]().eval()
    # Random initialisation makes nearly flat logits; sharper ones make greedy choices clear.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)
    return model


@pytest.fixture(params=sorted(TINY))
def tiny_model(request):
    """One model of each family."""
    return make_tiny(request.param)


FORMS = {
    "native": {},
    "lean": {"native": False},
    "bucketed": {"is_compiled": True},
    "modules": {"lean": False},
}


@pytest.fixture(params=sorted(FORMS))
def form(request, monkeypatch):
    """Options of `TorchRunner` that choose how the forward pass runs, where the family allows it.

    Nothing is compiled by torch: that takes a minute and changes no logic.
    """
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    return FORMS[request.param]
