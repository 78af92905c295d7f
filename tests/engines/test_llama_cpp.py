"""GGUF files behind an engine: the contract of engines, and the answers that the same weights give in torch."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys

import pytest

from benchmarks.quantize_gguf import quantize_gguf
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing import EngineContract
from llmapi_kit.types import Delta, Finished

pytestmark = pytest.mark.slow

NUM_PROMPTS = 64
QUESTIONS = ["What is the capital of France?", "你好", "Count from 3 to 7.", "Who are you?", "What is 2 plus 3?"]


def gguf_engine(path, *, native=False, **options):
    settings = Settings(max_slots=8, context_length=256, max_queue=128, native=native)
    return make_engine(parse_spec(str(path)), settings, **options)


class TestLlamaCppEngine(EngineContract):
    @pytest.fixture(autouse=True)
    def file(self, pocket_gguf, monkeypatch):
        self._path = pocket_gguf
        # The file is good, and a process for each test takes its time
        monkeypatch.setattr("llmapi_kit.runners.load_trial.try_to_load", lambda path, **options: None)

    def make_engine(self):
        return gguf_engine(self._path)

    def long_request(self, engine):
        return self.request(engine, "a b c " * 10, max_tokens=150, ignore_eos=True)


@pytest.fixture(scope="module", params=[False, True], ids=["llama.cpp", "in C"])
def exact_engine(pocket_gguf, request):
    """One that computes in float32 throughout."""
    options = {"native": True} if request.param else {"kv_cache_dtype": "f32", "flash_attn": False}
    engine = gguf_engine(pocket_gguf, **options)
    assert engine.info.description.endswith("in C" if request.param else "through llama.cpp")
    yield engine
    engine.close()


def answers(engine, requests):
    """Text, token ids and logprobs of each request, all of them at once."""

    async def one(request):
        deltas = [event async for event in engine.generate(request) if isinstance(event, Delta | Finished)]
        texts = [event for event in deltas if isinstance(event, Delta)]
        scores = [score for event in texts for score in event.logprobs or ()]
        return "".join(event.text for event in texts), scores

    async def main():
        return await asyncio.gather(*(one(request) for request in requests))

    return asyncio.run(main())


def test_greedy_answers_are_those_of_torch_for_64_prompts_alone_and_batched(exact_engine, pocket_engine):
    rng = random.Random(7)
    prompts = [[rng.randrange(3, 3000) for _ in range(rng.choice((1, 2, 5, 17, 40, 90)))] for _ in range(NUM_PROMPTS)]
    params = SamplingParams(temperature=0, max_tokens=24)
    requests = [GenerationRequest(prompt=prompt, sampling=params) for prompt in prompts]
    expected = answers(pocket_engine, requests)
    assert answers(exact_engine, requests) == expected
    assert [answers(exact_engine, [request])[0] for request in requests[:8]] == expected[:8]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 30},
        {"max_tokens": 30, "logprobs": 3},
        {"max_tokens": 30, "temperature": 0.8, "seed": 11},
        {"max_tokens": 40, "constraint": Constraint("regex", r"[A-Z][a-z ]{3,20}\.", "guided_regex")},
    ],
    ids=lambda fields: ", ".join(fields),
)
def test_conversations_are_answered_as_in_torch(fields, exact_engine, pocket_engine):
    sampling = SamplingParams(**{"temperature": 0, **fields})
    requests = [
        GenerationRequest(messages=[{"role": "user", "content": question}], sampling=sampling) for question in QUESTIONS
    ]
    for (text, scores), (expected, theirs) in zip(
        answers(exact_engine, requests), answers(pocket_engine, requests), strict=True
    ):
        assert text == expected
        assert [score.logprob for score in scores] == pytest.approx([score.logprob for score in theirs], abs=1e-3)
        if "constraint" in fields:
            assert re.fullmatch(r"[A-Z][a-z ]{3,20}\.", text)


# llama.cpp's own server code, in a process that ends without waiting for its threads
OWN = """
import json, os, sys, xllamacpp
for path, questions in json.loads(sys.stdin.read()):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = path, 512, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    for question in questions:
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 30}
        print(json.dumps(server.handle_chat_completions(body)["choices"][0]["message"]["content"]), flush=True)
os._exit(0)
"""


def test_quantised_files_are_answered_as_by_llama_cpp_itself(pocket_gguf, tmp_path):
    """Also where the format is so coarse that the answers are wrong."""
    kinds = ("Q8_0", "Q4_K_M", "Q2_K")
    paths = [str(quantize_gguf(pocket_gguf, tmp_path / f"{kind}.gguf", kind)) for kind in kinds]
    asked = json.dumps([[path, QUESTIONS] for path in paths])
    done = subprocess.run([sys.executable, "-c", OWN], input=asked, capture_output=True, text=True, check=True)
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    ours, in_c = [], []
    for path, native in ((path, native) for native in (False, True) for path in paths):
        engine = gguf_engine(path, native=native)
        try:
            sampling = SamplingParams(temperature=0, max_tokens=30)
            requests = [
                GenerationRequest(messages=[{"role": "user", "content": question}], sampling=sampling)
                for question in QUESTIONS
            ]
            (in_c if native else ours).extend(text for text, _ in answers(engine, requests))
        finally:
            engine.close()
    assert ours == theirs
    assert in_c == theirs, "Q2_K is llama.cpp's there, too"
    assert len(set(ours)) > len(QUESTIONS), "formats that all answer alike show little"


def test_beams_and_scored_prompts_are_those_of_torch(exact_engine, pocket_engine):
    beams = SamplingParams(temperature=0, max_tokens=20)
    scored = SamplingParams(temperature=0, max_tokens=1, logprobs=1)
    requests = [
        GenerationRequest(prompt=QUESTIONS[0], sampling=beams, n=2, num_beams=4),
        GenerationRequest(prompt="The capital of France is Paris. " * 12, sampling=scored, echo=True),
    ]
    for (text, scores), (expected, theirs) in zip(
        answers(exact_engine, requests), answers(pocket_engine, requests), strict=True
    ):
        assert text == expected
        assert [score.logprob or 0 for score in scores] == pytest.approx([s.logprob or 0 for s in theirs], abs=1e-3)


def test_embeddings_are_those_of_torch(exact_engine, pocket_engine):
    texts = ["one", "The capital of France is Paris.", "two words " * 60]
    ours, theirs = (asyncio.run(engine.embed(texts)) for engine in (exact_engine, pocket_engine))
    for one, other in zip(ours, theirs, strict=True):
        assert one.vector == pytest.approx(other.vector, abs=1e-3)


def test_a_prompt_that_begins_like_an_earlier_one_is_not_computed_again(pocket_gguf):
    engine = gguf_engine(pocket_gguf)
    try:
        prompt = list(range(100, 200))
        params = SamplingParams(temperature=0, max_tokens=4)
        for last in (5, 6, 7):
            answers(engine, [GenerationRequest(prompt=[*prompt, last], sampling=params)] * 2)
        stats = engine.stats()
        assert stats.num_cached_tokens >= 400
        assert stats.num_failed == 0
    finally:
        engine.close()
