"""Models whose computation changes with a sequence's length are served as far as it does not."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers

import llmapi_kit as kit
from llmapi_kit.checkpoints.architecture import context_limit
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.errors import ContextLengthError
from tests.checkpoints.odd_folders import TOKENIZER

SIZES = {
    "vocab_size": 3072,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
ORIGINAL, LONGEST = 64, 512
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": ORIGINAL,
}


PROMPTS = ("one two", "a longer text, which has some words more than the other one has, and then some")


def phi3():
    return transformers.Phi3Config(
        **SIZES,
        max_position_embeddings=LONGEST,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(LONGROPE),
    )


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (transformers.LlamaConfig(max_position_embeddings=100), 100),
        (phi3(), ORIGINAL),
        (
            transformers.LlamaConfig(
                max_position_embeddings=200,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 100},
            ),
            100,
        ),
        (
            transformers.LlamaConfig(
                max_position_embeddings=200,
                rope_parameters={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100},
            ),
            200,
        ),
        (transformers.Llama4TextConfig(attention_chunk_size=32, max_position_embeddings=100), 32),
        (transformers.Gemma3TextConfig(max_position_embeddings=100), 100),
        (transformers.GPT2Config(n_positions=50), 50),
        (transformers.BloomConfig(), 0),
    ],
    ids=["llama", "longrope", "dynamic", "yarn", "chunks", "two kinds of layers", "gpt2", "none"],
)
def test_the_limit_is_the_models_own_or_where_its_computation_changes(config, limit):
    assert context_limit(config) == limit


def test_prompts_of_several_lengths_at_once_are_answered_as_alone_up_to_the_limit(tmp_path):
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(phi3()).eval()
    model.save_pretrained(tmp_path)
    for name in TOKENIZER:
        shutil.copy(POCKET_DIR / name, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = kit.load(tmp_path, max_slots=4)
    assert ours.info.context_length == ORIGINAL
    with kit.launch(ours, port=0) as server, server.client() as client, ThreadPoolExecutor(2) as pool:

        def ask(prompt):
            options = {"max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
            return client.completions.create(model=ours.name, prompt=prompt, **options).choices[0].text

        answers = list(pool.map(ask, PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert answer == tokenizer.decode(made, skip_special_tokens=True)
    with pytest.raises(ContextLengthError, match=str(ORIGINAL)):
        ours.ask("word " * 100)
    ours.close()
