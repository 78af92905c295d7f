"""Models whose computation changes with a sequence's length answer as `generate` does, before and after it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers

import llmapi_kit as kit
from llmapi_kit.checkpoints.architecture import constant_length, context_limit
from llmapi_kit.checkpoints.fit import SlotPlan
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.checkpoints.weights import load_model
from llmapi_kit.config import Settings
from llmapi_kit.loading.runner_choice import make_runner
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
ORIGINAL, LONGEST, NUM_NEW = 64, 512, 24
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": ORIGINAL,
}


# One shorter than the original length, one that crosses it while it is answered, one beyond it
PROMPTS = ("one two", "a text of some words, " * 8, "a longer text, which has some words more than the others, " * 5)


def phi3():
    return transformers.Phi3Config(
        **SIZES,
        max_position_embeddings=LONGEST,
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(LONGROPE),
    )


def llama(kind, **more):
    rope = {"rope_type": kind, "factor": 2.0, **more}
    return transformers.LlamaConfig(max_position_embeddings=200, rope_parameters=rope)


@pytest.mark.parametrize(
    ("config", "limit", "constant"),
    [
        (transformers.LlamaConfig(max_position_embeddings=100), 100, 0),
        (phi3(), LONGEST, ORIGINAL),
        (llama("dynamic", original_max_position_embeddings=100), 200, 100),
        (llama("dynamic"), 200, 200),
        (llama("yarn", original_max_position_embeddings=100), 200, 0),
        (transformers.Llama4TextConfig(attention_chunk_size=32, max_position_embeddings=100), 100, 32),
        (transformers.Gemma3TextConfig(max_position_embeddings=100), 100, 0),
        (transformers.GPT2Config(n_positions=50), 50, 0),
        (transformers.MptConfig(max_seq_len=60), 60, 0),
        (transformers.BloomConfig(), 0, 0),
    ],
    ids=["llama", "longrope", "dynamic", "dynamic, no original", "yarn", "chunks", "two kinds", "gpt2", "mpt", "none"],
)
def test_the_limit_is_the_models_own_and_where_its_computation_changes_is_known(config, limit, constant):
    assert (context_limit(config), constant_length(config)) == (limit, constant)


@pytest.mark.slow
@pytest.mark.parametrize("native", [True, False])
def test_prompts_before_at_and_beyond_the_change_are_answered_together_as_alone(native, tmp_path):
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(phi3()).eval()
    model.save_pretrained(tmp_path)
    for name in TOKENIZER:
        shutil.copy(POCKET_DIR / name, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    lengths = [len(tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert lengths[0] + NUM_NEW < ORIGINAL < lengths[1] + NUM_NEW
    assert lengths[1] < ORIGINAL < lengths[2]
    ours = kit.load(tmp_path, max_slots=4, native=native)
    assert ours.info.context_length == LONGEST
    with kit.launch(ours, port=0) as server, server.client() as client, ThreadPoolExecutor(3) as pool:

        def ask(prompt):
            options = {"max_tokens": NUM_NEW, "temperature": 0, "extra_body": {"ignore_eos": True}}
            return client.completions.create(model=ours.name, prompt=prompt, **options)

        answers = list(pool.map(ask, PROMPTS))
        again = ask(PROMPTS[2])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False)[0, ids.shape[1] :]
        assert answer.choices[0].text == tokenizer.decode(made, skip_special_tokens=True)
    assert again.choices[0].text == answers[2].choices[0].text
    # In turn, nothing is taken over; the step in C knows by which factors it was computed
    assert bool(again.usage.prompt_tokens_details.cached_tokens) == native
    ours.close()


@pytest.mark.parametrize(
    ("native", "kinds"), [(True, ["native", "native"]), (False, ["modules", "sequences"])], ids=["in C", "in torch"]
)
def test_a_model_of_transformers_shares_steps_where_slots_reach_the_change_only_in_c(native, kinds, tmp_path):
    transformers.Phi3ForCausalLM(phi3()).save_pretrained(tmp_path)

    def kind(length):
        loaded = load_model(parse_spec(tmp_path), device="cpu", tokenizer="pocket")
        runner = make_runner(loaded, SlotPlan(2, length, 0), Settings(native=native))
        found = runner.kind
        runner.close()
        return found

    assert [kind(length) for length in (ORIGINAL, ORIGINAL + 1)] == kinds
