"""Greedy answers are token for token those of `model.generate`, alone and in a batch."""

from __future__ import annotations

import asyncio
import copy
import itertools
import random

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.local.engine import LocalEngine
from llmapi_kit.runners.torch_runner import TorchRunner
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, EngineInfo
from tests.runners.conftest import TINY, make_tiny

pytestmark = pytest.mark.slow

NUM_PROMPTS = 64
NUM_TOKENS = 24


class IdCodec:
    """Shows token ids as text, so that answers can be compared token for token."""

    def __init__(self, eos_ids):
        self.eos_ids = frozenset(eos_ids)
        self.boundaries = frozenset()

    def token_bytes(self, token_id, *, skip_special_tokens=True, begins_text=False):
        return f"{token_id} ".encode()

    def detokenizer(self, *, skip_special_tokens=True, context_ids=()):
        return ByteDetokenizer(self.token_bytes)


def generate(model, prompts):
    """Token ids of `model.generate` for prompts of one length, without the end-of-turn token and what follows it."""
    with torch.inference_mode():
        ids = torch.tensor(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0
        )
    eos = model.generation_config.eos_token_id
    ends = set(eos) if isinstance(eos, list) else {eos}
    answers = out[:, ids.shape[1] :].tolist()
    return [list(itertools.takewhile(lambda token: token not in ends, answer)) for answer in answers]


def generate_all(model, prompts):
    """`generate`, of as many together as need no padding."""
    answers = {}
    for length in {len(prompt) for prompt in prompts}:
        numbers = [number for number, prompt in enumerate(prompts) if len(prompt) == length]
        answers |= zip(numbers, generate(model, [prompts[number] for number in numbers]), strict=True)
    return [answers[number] for number in range(len(prompts))]


async def answer(engine, prompt):
    request = GenerationRequest(prompt=prompt, sampling=SamplingParams(temperature=0, max_tokens=NUM_TOKENS))
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
    return [int(token_id) for token_id in text.split()]


@pytest.mark.parametrize("family", ["pocket", *sorted(TINY)])
def test_greedy_equals_generate_for_64_prompts_alone_and_batched(family):
    num_threads = 0
    if family == "pocket":
        num_threads = 2  # which share its longer steps
        model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32).eval()
    else:
        model = make_tiny(family)
    rng = random.Random(7)
    vocab = model.config.vocab_size
    prompts = [[rng.randrange(3, vocab) for _ in range(rng.choice((1, 2, 5, 17, 40, 90)))] for _ in range(NUM_PROMPTS)]
    expected = generate_all(model, prompts)
    assert generate(model, prompts[:1]) == expected[:1]
    eos = model.generation_config.eos_token_id
    runner = TorchRunner(copy.deepcopy(model), num_slots=12, max_length=160, num_threads=num_threads)
    info = EngineInfo(id=family, context_length=160, created=1)
    codec = IdCodec(eos if isinstance(eos, list) else [eos])
    engine = LocalEngine(info, runner, codec, settings=Settings(step_tokens=64))
    try:

        async def main():
            alone = [await answer(engine, prompt) for prompt in prompts]
            batched = await asyncio.gather(*(answer(engine, prompt) for prompt in prompts))
            return alone, batched

        alone, batched = asyncio.run(main())
    finally:
        engine.close()
    assert alone == expected
    assert batched == expected
