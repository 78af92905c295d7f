"""Log-probabilities, echo, best_of, n and embeddings against plain torch on the same weights."""

from __future__ import annotations

import asyncio

import pytest
import torch
import transformers

from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Finished

from .conftest import collect

PROMPTS = ("The sun", "What is the capital of France? It is", "你好我是", "x")
ATOL = 1e-4


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine():
    made = make_engine(parse_spec("pocket"), load_settings(step_tokens=24), dtype="float32")
    yield made
    made.close()


def log_probs(model, ids):
    """(len(ids), vocab): row i is about token i + 1."""
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def request_of(prompt, **options):
    sampling = {"temperature": 0, "max_tokens": 12, **options.pop("sampling", {})}
    return GenerationRequest(prompt=prompt, sampling=SamplingParams(**sampling), **options)


def ask(engine, *requests):
    async def main():
        return await asyncio.gather(*(collect(engine.generate(request)) for request in requests))

    return [events for _, events in asyncio.run(main())]


def tokens_of(events, index=0):
    return [t for e in events if isinstance(e, Delta) and e.index == index for t in e.logprobs]


def check_tokens(tokens, expected, start):
    """Each token's log-probability and its likeliest others are those of the plain forward pass."""
    for i, token in enumerate(tokens):
        row = expected[start + i]
        assert token.logprob == pytest.approx(row[token.token_id].item(), abs=ATOL)
        values, _ = row.topk(len(token.top))
        assert [other.logprob for other in token.top] == pytest.approx(values.tolist(), abs=ATOL)
        for other in token.top:
            assert other.logprob == pytest.approx(row[other.token_id].item(), abs=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0, 1.3])
def test_logprobs_are_those_of_log_softmax_whatever_the_temperature(model, engine, temperature):
    sampling = {"logprobs": 5, "temperature": temperature, "seed": 1, "presence_penalty": 1.0, "ignore_eos": True}
    results = ask(engine, *(request_of(prompt, sampling=sampling) for prompt in PROMPTS))
    for prompt, events in zip(PROMPTS, results, strict=True):
        ids = asyncio.run(engine.tokenize(prompt, add_special_tokens=True))
        tokens = tokens_of(events)
        assert len(tokens) == 12
        check_tokens(tokens, log_probs(model, [*ids, *(token.token_id for token in tokens)]), len(ids) - 1)


def test_an_echo_scores_every_token_of_the_prompt(model, engine):
    long = " ".join(PROMPTS) * 8  # many chunks
    requests = [request_of(prompt, echo=True, sampling={"logprobs": 3, "max_tokens": 0}) for prompt in (*PROMPTS, long)]
    for request, events in zip(requests, ask(engine, *requests), strict=True):
        ids = asyncio.run(engine.tokenize(request.prompt, add_special_tokens=True))
        tokens = tokens_of(events)
        assert "".join(e.text for e in events if isinstance(e, Delta)) == request.prompt
        assert [token.token_id for token in tokens] == ids
        assert tokens[0].logprob is None
        check_tokens(tokens[1:], log_probs(model, ids), 0)
        assert events[-1].num_completion_tokens == 0


def test_best_of_gives_the_candidates_with_the_highest_mean_log_probability(model, engine):
    sampling = {"temperature": 1.2, "seed": 5, "ignore_eos": True, "logprobs": 0}
    (candidates,) = ask(engine, request_of(PROMPTS[0], n=6, sampling=sampling))
    ids = asyncio.run(engine.tokenize(PROMPTS[0], add_special_tokens=True))
    scores = {}
    for index in range(6):
        made = [token.token_id for token in tokens_of(candidates, index)]
        rows = log_probs(model, [*ids, *made])[len(ids) - 1 : -1]
        scores[index] = rows[range(len(made)), made].mean().item()
    best = sorted(scores, key=scores.get, reverse=True)[:2]
    (chosen,) = ask(engine, request_of(PROMPTS[0], n=2, best_of=6, sampling=sampling))
    for rank, index in enumerate(best):
        assert [t.token_id for t in tokens_of(chosen, rank)] == [t.token_id for t in tokens_of(candidates, index)]
    ends = [e for e in chosen if isinstance(e, Finished)]
    assert sum(e.num_completion_tokens + e.num_discarded_tokens for e in ends) == 6 * 12


def test_each_of_n_answers_is_what_its_own_numbers_draw_and_the_prompt_is_computed_once(engine):
    sampling = {"temperature": 1.0, "seed": 9, "ignore_eos": True, "logprobs": 0}
    prompt = "A prompt of its own, long enough to be shared: one two three four five six seven eight nine ten. " * 2
    before = engine.stats()
    (events,) = ask(engine, request_of(prompt, n=4, sampling=sampling))
    after = engine.stats()
    texts = [[t.token_id for t in tokens_of(events, index)] for index in range(4)]
    assert len({tuple(each) for each in texts}) == 4
    num_prompt = len(asyncio.run(engine.tokenize(prompt, add_special_tokens=True)))
    cached = after.num_cached_tokens - before.num_cached_tokens
    assert cached >= 3 * (num_prompt - 1)
    (alone,) = ask(engine, request_of(prompt, n=1, sampling=sampling))
    assert [t.token_id for t in tokens_of(alone)] == texts[0]


def test_embeddings_are_the_mean_of_the_last_hidden_states_of_length_one(model, engine):
    inputs = [*PROMPTS, " ".join(PROMPTS) * 8, [5, 6, 7]]

    async def main():
        story = asyncio.create_task(collect(engine.generate(request_of("The sun", sampling={"max_tokens": 60}))))
        return await engine.embed(inputs), await story

    embedded, _ = asyncio.run(main())
    assert [each.index for each in embedded] == list(range(len(inputs)))
    for each, given in zip(embedded, inputs, strict=True):
        ids = given if isinstance(given, list) else asyncio.run(engine.tokenize(given, add_special_tokens=True))
        with torch.inference_mode():
            mean = model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(torch.tensor(each.vector), mean / mean.norm(), atol=1e-4, rtol=1e-3)
        assert each.num_prompt_tokens == len(ids)
