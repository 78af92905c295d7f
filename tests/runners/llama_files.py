"""Tiny GGUF files for tests of the runner over llama.cpp: random models of transformers, written as they are."""

from __future__ import annotations

import gguf
import torch
import transformers

from llmapi_kit.runners.llama_cpp_runner import LlamaCppRunner
from llmapi_kit.runners.llama_model import LlamaModel
from llmapi_kit.runners.llama_steps import LlamaSteps
from tests.checkpoints.gguf_files import write_model

from .conftest import SHAPE, VOCAB, make_tiny


def add_words(writer, size=VOCAB):
    """A vocabulary of as many words as a tiny model has, the last two of which end an answer or begin one."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"w{i}" for i in range(size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)


def with_wide_heads(**shape):
    """A model whose heads are as wide as the blocks of quantised numbers."""
    torch.manual_seed(3)
    wide = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    config = transformers.Qwen3Config(**{**SHAPE, **wide, **shape})
    return transformers.Qwen3ForCausalLM(config).eval()


def write_tiny(path, family="llama", tokenizer=add_words, **options):
    """A tiny model of a family, or one that was made, as a GGUF file; returns it with the values that are stored."""
    model = (make_tiny(family) if isinstance(family, str) else family).requires_grad_(False)
    with torch.no_grad():
        write_model(path, model, tokenizer=tokenizer, **options)
    return model


def run(path, *, num_slots=1, max_length=64, options=None):
    """A runner of a file."""
    return LlamaCppRunner(LlamaSteps(LlamaModel(path), num_slots=num_slots, max_length=max_length, options=options))
