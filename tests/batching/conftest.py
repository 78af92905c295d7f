"""A batching loop over the fake runner, and what came out of it."""

from __future__ import annotations

import itertools
import threading

import pytest

from llmapi_kit.batching.beam_search import BeamSearch
from llmapi_kit.batching.loop import BatchingLoop
from llmapi_kit.batching.request import Request
from llmapi_kit.runners.fake_runner import FakeRunner
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Failed, Finished

DEADLINE_S = 60


def token_bytes(token_id, *, skip_special_tokens=True, begins_text=False):
    """Token 7 is "<7>", and so on."""
    return f"<{token_id}>".encode()


class Bench:
    """A loop, its runner, and the events of each request. The runner is the fake one unless one is given.

    Attributes:
        batches: what each call of `deliver` brought.
    """

    def __init__(self, **options):
        loop_options = {
            k: options.pop(k)
            for k in ("max_queue", "step_tokens", "queue_timeout_s", "max_stall_s", "has_prefix_cache", "draft")
            if k in options
        }
        self.runner = options.pop("runner", None) or FakeRunner(**options)
        self.batches = []
        self._events = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self.loop = BatchingLoop(
            self.runner, self._deliver, eos_ids=frozenset({0}), token_bytes=token_bytes, **loop_options
        )

    def _deliver(self, outbox):
        with self._changed:
            self.batches.append(outbox)
            for request, event in outbox:
                self._events.setdefault(request.id, []).append(event)
            self._changed.notify_all()

    def submit(self, prompt, max_tokens=8, name=None, request_options=None, **params):
        request = Request(
            id=name or f"{next(self._numbers)} {prompt[:4]} {params}",
            prompt_ids=list(prompt),
            params=SamplingParams(**{"temperature": 0, **params}),
            max_new_tokens=max_tokens,
            detokenizer=ByteDetokenizer(token_bytes),
            **(request_options or {}),
        )
        self.loop.submit(request)
        return request

    def submit_beams(self, prompt, num_beams, n=1, **options):
        """A beam search."""
        detokenizers = [ByteDetokenizer(token_bytes) for _ in range(n)]
        more = {"beams": BeamSearch(num_beams, n), "detokenizers": detokenizers}
        return self.submit(prompt, request_options=more, **options)

    def events(self, request):
        with self._changed:
            return list(self._events.get(request.id, []))

    def wait_for(self, condition, what="condition"):
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), f"{what} did not come true"

    def result(self, request):
        """(text, terminal event), waiting for it."""
        self.wait_for(lambda: self._has_ended(request), f"the end of request {request.id}")
        events = self.events(request)
        assert sum(isinstance(e, Finished | Failed) for e in events) == 1
        assert isinstance(events[-1], Finished | Failed)
        return "".join(e.text for e in events if isinstance(e, Delta)), events[-1]

    def _has_ended(self, request):
        return any(isinstance(e, Finished | Failed) for e in self._events.get(request.id, []))


@pytest.fixture
def bench():
    """Makes a `Bench`; all are closed at the end."""
    made = []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        assert each.loop.close()


def text_of(ids):
    """The text of token ids."""
    return "".join(f"<{i}>" for i in ids)
