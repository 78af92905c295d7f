"""Upstream engines in front of servers that misbehave, and of our own."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .faulty import CANARY, FaultyUpstream

# Long enough for a busy machine; what waits for one of them to pass takes another.
LIMITS = {"upstream_retries": 0}
SHORT_S = 0.3


@pytest.fixture
def upstream():
    """Makes misbehaving upstreams and the engines that ask them; all are closed at the end."""
    made = []

    def make(*script, api_key=CANARY, name="openai+{url}#m", **settings):
        server = FaultyUpstream(list(script)).__enter__()
        spec = parse_spec(name.format(url=server.url))
        engine = make_engine(spec, load_settings(**{**LIMITS, **settings}), api_key=api_key)
        made.append((server, engine))
        return server, engine

    yield make
    for server, engine in made:
        engine.close()
        server.__exit__()


def ask(text="Hello", *, affinity="", n=1, **sampling):
    messages = [{"role": "user", "content": text}]
    return GenerationRequest(messages=messages, n=n, affinity=affinity, sampling=SamplingParams(**sampling))


async def collect(events):
    """(text, all events)."""
    seen = [event async for event in events]
    return "".join(event.text for event in seen if isinstance(event, Delta)), seen


def run(engine, request=None):
    """(text, all events) of a request, on an event loop of its own; ends whatever happens."""

    async def main():
        return await asyncio.wait_for(collect(engine.generate(request or ask())), 20)

    return asyncio.run(main())


def check_events(events):
    """Accepted, pieces, one end for each answer or one for all."""
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Finished | Failed)
    assert not any(isinstance(event, Accepted | Failed) for event in events[1:-1])
