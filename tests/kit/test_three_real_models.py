"""Three real models where there is room for two: every answer is right, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import threading
import weakref

import httpx
import pytest
import torch
import transformers

import llmapi_kit as kit
from llmapi_kit import kit as kit_module
from llmapi_kit.checkpoints.spec import POCKET_DIR

pytestmark = pytest.mark.slow

NUM_REQUESTS, NUM_CLIENTS, NUM_TOKENS = 200, 16, 8
QUESTIONS = ["Hello!", "What is the capital of France?", "Count to five.", "Who are you?"]
NAMES = ("pocket", "tiny-one", "tiny-two")


def random_model(folder, seed):
    """A random Llama that speaks through the pocket model's tokenizer."""
    tokenizer_files = [path for path in POCKET_DIR.iterdir() if path.name not in ("model.safetensors", "config.json")]
    folder.mkdir()
    for path in tokenizer_files:
        if path.is_file():
            shutil.copy(path, folder)
    theirs = transformers.AutoConfig.from_pretrained(POCKET_DIR)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=theirs.vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=theirs.bos_token_id,
        eos_token_id=theirs.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def body(model, question):
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True}


def text_of(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


@pytest.fixture
def room_for_two(monkeypatch):
    """What the loaded models take is taken from a memory that is one byte too small for three."""
    model_memory = kit_module._own.models.model_memory
    limit = []

    def free_bytes(device):
        return limit[0] - sum(each.need.wanted_bytes for each in list(model_memory._models)) if limit else 2**40

    monkeypatch.setattr(model_memory, "_free_bytes", free_bytes)
    return limit


def test_200_requests_over_three_models_with_room_for_two(monkeypatch, tmp_path, room_for_two):
    monkeypatch.setenv("LLMAPI_KIT_NATIVE", "false")  # which is compiled and checked at each load
    monkeypatch.setenv("LLMAPI_KIT_MAX_SLOTS", "4")
    models = ["pocket", *(random_model(tmp_path / name, seed) for seed, name in enumerate(NAMES[1:]))]
    threads_before = set(threading.enumerate())
    server = kit.launch(models, port=0)
    lazy = dict(zip(NAMES, server.engines, strict=True))
    headers = {"Authorization": f"Bearer {server.api_key}"}
    seen_engines = []
    chance = random.Random(7)

    async def main():
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=120, trust_env=False) as client:
            expected = {}
            for name in NAMES:
                for question in QUESTIONS:
                    response = await client.post("/v1/chat/completions", json=body(name, question))
                    expected[name, question] = text_of(response)
                seen_engines.append(weakref.ref(lazy[name]._model._engine))
            assert len(set(expected.values())) > len(QUESTIONS)
            room_for_two.append(sum(each._model.need.wanted_bytes for each in lazy.values()) - 1)
            left = [(chance.choice(NAMES), chance.choice(QUESTIONS)) for _ in range(NUM_REQUESTS)]

            async def ask():
                while left:
                    name, question = left.pop()
                    response = await client.post("/v1/chat/completions", json=body(name, question))
                    assert text_of(response) == expected[name, question]
                    if chance.random() < 0.03:
                        await asyncio.to_thread(lazy[chance.choice(NAMES)].unload)

            await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(NUM_CLIENTS))), 150)
            return (await client.get("/metrics")).text

    metrics = asyncio.run(main())
    stats = server.stats()
    num_loads = sum(stats[name]["num_loads"] for name in NAMES)
    num_unloads = sum(stats[name]["num_unloads"] for name in NAMES)
    assert num_unloads >= 1
    assert num_loads - num_unloads <= 2
    assert sum(stats[name]["num_finished"] for name in NAMES) == NUM_REQUESTS + len(NAMES) * len(QUESTIONS)
    assert f'llmapi_kit_model_loads_total{{model="pocket"}} {stats["pocket"]["num_loads"]:.1f}' in metrics
    inner = [weakref.ref(each._model._engine) for each in lazy.values() if each._model._engine is not None]
    kit.stop_all()
    lazy.clear()
    gc.collect()
    assert [each() for each in (*seen_engines, *inner)] == [None] * len((*seen_engines, *inner))
    stayed = [thread for thread in set(threading.enumerate()) - threads_before if thread.is_alive()]
    assert [thread.name for thread in stayed if thread.name.startswith("llmapi_kit")] == []
