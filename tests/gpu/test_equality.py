"""On a GPU the kit computes what the model computes by itself, in every form in which a step can run."""

from __future__ import annotations

import asyncio
import copy
import random

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.config import Settings
from llmapi_kit.engines.local.engine import LocalEngine
from llmapi_kit.runners.base import StepItem
from llmapi_kit.runners.torch_runner import TorchRunner
from llmapi_kit.sampling.masks import Masks
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.sampling.sampler import SamplerRow, sample
from llmapi_kit.types import EngineInfo
from tests.engines.test_greedy_equality import IdCodec, answer
from tests.runners.conftest import TINY, make_tiny

from .devices import DEVICE, DEVICES, DTYPE, FORMS, IS_CUDA

pytestmark = pytest.mark.gpu

FAMILIES = ["pocket", *sorted(set(TINY) - {"gpt2"})]
NUM_SLOTS, MAX_LENGTH, NUM_TOKENS = 5, 200, 24


def make_model(family, dtype, device=DEVICE):
    if family == "pocket":
        model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=dtype).eval()
    else:
        model = make_tiny(family)
    return model.to(device, dtype)


def prompts_of(model, lengths):
    rng = random.Random(7)
    return [[rng.randrange(3, model.config.vocab_size) for _ in range(length)] for length in lengths]


@torch.inference_mode()
def logits_of(model, ids):
    return model(torch.tensor([ids], device=model.device)).logits[0].float()


@torch.inference_mode()
def greedy(model, prompt):
    ids = torch.tensor([prompt], device=model.device)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, max_new_tokens=NUM_TOKENS, **options)[0, len(prompt) :].tolist()


def rounding_of(model, sequences):
    """The model's logits in float32, and by how much its own in its type differ at most."""
    exact = [logits_of(copy.deepcopy(model).float(), ids) for ids in sequences]
    own = [logits_of(model, ids) for ids in sequences]
    return exact, max((a - b).abs().max().item() for a, b in zip(own, exact, strict=True))


def engine_of(runner, name="model"):
    info = EngineInfo(id=name, context_length=runner.max_length, created=1)
    return LocalEngine(info, runner, IdCodec([]), settings=Settings(step_tokens=64))


async def answers_of(engine, prompts):
    alone = [await answer(engine, prompt) for prompt in prompts[:2]]
    return alone, await asyncio.gather(*(answer(engine, prompt) for prompt in prompts))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_as_exact_as_the_models_own(family, form, make_runner, record_property):
    """Prompts in two chunks beside decodes, then decodes of fewer and fewer slots; compared with float32."""
    model = make_model(family, DTYPE)
    slots, lengths, prompt_lengths = (3, 0, 2), (110, 47, 83), (70, 9, 61)
    sequences = prompts_of(model, lengths)
    exact, own_error = rounding_of(model, sequences)
    runner = make_runner(model, form, num_slots=NUM_SLOTS, max_length=MAX_LENGTH)
    error = 0.0
    done = [0, 0, 0]
    while any(n < length for n, length in zip(done, lengths, strict=True)):
        items, rows = [], []
        for i, slot in enumerate(slots):
            if done[i] < lengths[i]:
                prompt = prompt_lengths[i]
                size = 1 if done[i] >= prompt else min(40, prompt - done[i])
                items.append(StepItem(slot, done[i], sequences[i][done[i] : done[i] + size], True))
                done[i] += size
                rows.append(exact[i][done[i] - 1])
        for got, expected in zip(runner.step(items).float(), rows, strict=True):
            error = max(error, (got - expected).abs().max().item())
    record_property("error", f"{error:.3g}, the model's own {own_error:.3g}")
    assert error <= 2 * own_error
    assert bool(IS_CUDA and form in ("sdpa", "varlen")) == bool(runner._bucketed and runner._bucketed._recorded)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_in_float32_are_those_of_generate(family):
    model = make_model(family, torch.float32)
    prompts = prompts_of(model, (1, 5, 40, 90, 17, 3, 64))
    expected = [greedy(model, prompt) for prompt in prompts]
    engine = engine_of(
        TorchRunner(model, num_slots=NUM_SLOTS, max_length=MAX_LENGTH, native=False, is_compiled=not IS_CUDA)
    )
    try:
        alone, batched = asyncio.run(answers_of(engine, prompts))
    finally:
        engine.close()
    assert alone == expected[:2]
    assert batched == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_generate_but_where_rounding_decides(family, form, make_runner, record_property):
    """Each token is the model's choice, or so close to it that the model's own rounding might have taken it."""
    model = make_model(family, DTYPE)
    prompts = prompts_of(model, (5, 40, 90, 17))
    own = [greedy(model, prompt) for prompt in prompts]
    reference = copy.deepcopy(model)
    engine = engine_of(make_runner(model, form, num_slots=NUM_SLOTS, max_length=MAX_LENGTH))
    try:
        alone, batched = asyncio.run(answers_of(engine, prompts))
    finally:
        engine.close()
    same = sum(a == b for answers in zip(batched, own, strict=True) for a, b in zip(*answers, strict=True))
    record_property("same as generate", f"{same} of {len(prompts) * NUM_TOKENS}")
    given = [(prompt, made) for prompt, made in zip([*prompts, *prompts[:2]], [*batched, *alone], strict=True)]
    exact, own_error = rounding_of(reference, [prompt + made for prompt, made in given])
    for (prompt, made), logits in zip(given, exact, strict=True):
        assert len(made) == NUM_TOKENS
        for at, token in enumerate(made, start=len(prompt) - 1):
            assert logits[at].max() - logits[at, token] <= 2 * own_error


@pytest.mark.parametrize("device", DEVICES)
def test_models_side_by_side_record_and_answer_on_their_threads(device):
    """Two at once on the first card, and on a second one where there is one; each thread's own device is the first."""
    first, second = (make_model("llama", torch.float32, place) for place in (DEVICES[0], device))
    prompts = prompts_of(first, (5, 40, 17, 64))
    expected = [greedy(first, prompt) for prompt in prompts]
    options = {"num_slots": NUM_SLOTS, "max_length": MAX_LENGTH, "native": False, "is_compiled": not IS_CUDA}
    engines = [engine_of(TorchRunner(model, **options), str(n)) for n, model in enumerate((first, second))]
    try:

        async def main():
            return await asyncio.gather(*(answers_of(engine, prompts) for engine in engines))

        for alone, batched in asyncio.run(main()):
            assert alone == expected[:2]
            assert batched == expected
    finally:
        for engine in engines:
            engine.close()


def test_what_is_drawn_on_the_device_is_what_is_drawn_on_a_cpu():
    params = [
        SamplingParams(temperature=0, logprobs=3),
        SamplingParams(seed=1),
        SamplingParams(seed=2, top_k=20, min_p=0.01),
        SamplingParams(seed=3, top_p=0.8, repetition_penalty=1.2),
        SamplingParams(seed=4, frequency_penalty=0.5, presence_penalty=0.5, logit_bias={5: 3.0}),
    ]
    logits = 4 * torch.randn(len(params), 300, generator=torch.Generator().manual_seed(0))
    blocked = torch.zeros(2, 300, dtype=torch.bool)
    blocked[:, ::2] = True
    masks = Masks([1, 4], blocked, {})
    drawn = []
    for device in ("cpu", DEVICE):
        rows = [SamplerRow(each, [7, 8, 9]) for each in params]
        drawn.append([sample(logits.to(device), rows, masks) for _ in range(20)])
    for here, there in zip(*drawn, strict=True):
        assert [each.token_id for each in here] == [each.token_id for each in there]
        assert here[0].logprob == pytest.approx(there[0].logprob, abs=1e-4)
    assert all(step[row].token_id % 2 for step in drawn[1] for row in (1, 4))
