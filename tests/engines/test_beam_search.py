"""A beam search over slots finds what `model.generate` finds, alone, beside others and whatever ends it."""

from __future__ import annotations

import copy
import random
import threading

import pytest
import torch
import transformers

from llmapi_kit.batching.beam_search import BeamSearch
from llmapi_kit.batching.loop import BatchingLoop
from llmapi_kit.batching.request import Request
from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.runners.torch_runner import TorchRunner
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Failed, Finished
from tests.runners.conftest import TINY, make_tiny

NUM_TOKENS = 16
DEADLINE_S = 120


def id_bytes(token_id, *, skip_special_tokens=True, begins_text=False):
    return f"{token_id} ".encode()


def generate(model, prompt, num_beams, n, length_penalty=1.0):
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            num_beams=num_beams,
            num_return_sequences=n,
            early_stopping=False,
            length_penalty=length_penalty,
            pad_token_id=0,
        )
    eos = model.generation_config.eos_token_id
    ends = set(eos) if isinstance(eos, list) else {eos}
    answers = []
    for row in out.tolist():
        answer = row[len(prompt) :]
        cut = next((i for i, token_id in enumerate(answer) if token_id in ends), len(answer))
        answers.append(answer[:cut])
    return answers


class Collector:
    """Takes the loop's events and waits for the last one of each request."""

    def __init__(self):
        self.events = {}
        self.changed = threading.Condition()

    def deliver(self, outbox):
        with self.changed:
            for request, event in outbox:
                self.events.setdefault(request, []).append(event)
            self.changed.notify_all()

    def answers(self, request):
        def is_over():
            ends = [e for e in self.events.get(request, []) if isinstance(e, Finished | Failed)]
            return any(isinstance(e, Failed) or e.index == request.last_index for e in ends)

        with self.changed:
            assert self.changed.wait_for(is_over, DEADLINE_S)
            events = self.events[request]
        assert not [e for e in events if isinstance(e, Failed)]
        return [[int(i) for i in e.text.split()] for e in events if isinstance(e, Delta)]


def make_request(prompt, num_beams, n, length_penalty=1.0):
    beams = BeamSearch(num_beams, n, length_penalty=length_penalty) if num_beams > 1 else None
    return Request(
        id=f"{num_beams} beams",
        prompt_ids=prompt,
        params=SamplingParams(temperature=0, max_tokens=NUM_TOKENS),
        max_new_tokens=NUM_TOKENS,
        detokenizer=ByteDetokenizer(id_bytes),
        beams=beams,
        detokenizers=[ByteDetokenizer(id_bytes) for _ in range(n)] if beams else (),
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pocket", *sorted(TINY)])
def test_beams_equal_generate_with_greedy_requests_beside_them(family):
    if family == "pocket":
        model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32).eval()
    else:
        model = make_tiny(family)
    rng = random.Random(3)
    vocab = model.config.vocab_size
    jobs = []
    for i in range(6):
        prompt = [rng.randrange(3, vocab) for _ in range(rng.choice((1, 4, 40, 90)))]
        jobs.append((prompt, (2, 4, 5)[i % 3], (1, 2)[i % 2], (1.0, 1.0, -2.0, 3.0)[i % 4]))
    jobs.append((jobs[3][0], *jobs[3][1:]))  # again, with its prompt in the cache
    expected = [generate(model, *job) for job in jobs]
    eos = model.generation_config.eos_token_id
    collector = Collector()
    loop = BatchingLoop(
        TorchRunner(copy.deepcopy(model), num_slots=7, max_length=160),
        collector.deliver,
        eos_ids=frozenset(eos if isinstance(eos, list) else [eos]),
        token_bytes=id_bytes,
        step_tokens=32,
    )
    try:
        requests = [make_request(*job) for job in jobs]
        for request, (prompt, *_) in zip(requests, jobs, strict=True):
            loop.submit(request, make_request(prompt[::-1], 1, 1))
        found = [collector.answers(request) for request in requests]
    finally:
        assert loop.close()
    assert found == expected
