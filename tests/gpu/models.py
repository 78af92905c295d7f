"""A model on disk that is large enough for its memory to be seen."""

from __future__ import annotations

import json
import shutil

import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR

from .devices import DTYPE, IS_CUDA

WIDTH, NUM_LAYERS = (2048, 8) if IS_CUDA else (256, 2)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_model(folder):
    """A Llama with random weights and the pocket model's tokenizer; returns the size of the weights in bytes."""
    torch.manual_seed(0)
    vocab = json.loads((POCKET_DIR / "config.json").read_text())["vocab_size"]
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 128,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(DTYPE)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(POCKET_DIR / name, folder)
    return sum(parameter.nbytes for parameter in model.parameters())
