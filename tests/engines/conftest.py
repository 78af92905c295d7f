"""Engines of every kind, and what it takes to ask them."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

from llmapi_kit.config import Settings
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Accepted, Delta, EngineInfo, Failed, Finished


class WordCodec:
    """A token a word; ids by first use. Enough of a tokenizer for the fake runner."""

    def __init__(self):
        self.added_tokens = {}
        self.boundaries = frozenset()
        self.template_variables = frozenset()
        self.eos_ids = frozenset({0})
        self._ids = {}
        self._words = {}

    def encode(self, text, *, add_special_tokens):
        ids = [1 + self._ids.setdefault(word, len(self._ids)) % 62 for word in text.split()]
        for token_id, word in zip(ids, text.split(), strict=True):
            self._words.setdefault(token_id, word)
        return ids

    def render_chat(self, messages, options):
        return " ".join(m["content"] for m in messages)

    def encode_infill(self, prefix, suffix):
        return self.encode(f"{prefix} {suffix}", add_special_tokens=False)

    def decode(self, token_ids):
        return " ".join(self._words.get(token_id, f"<{token_id}>") for token_id in token_ids)

    def token_bytes(self, token_id, *, skip_special_tokens=True, begins_text=False):
        return f"<{token_id}>".encode()

    def detokenizer(self, *, skip_special_tokens=True, context_ids=()):
        return ByteDetokenizer(self.token_bytes)


def make_local(*, max_queue=128, settings=None, prepare_messages=None, codec=None, read_adapter=None, **runner_options):
    """A local engine over the fake runner."""
    from llmapi_kit.engines.local.engine import LocalEngine  # it needs torch, which the kernel tests beside do without
    from llmapi_kit.runners.fake_runner import FakeRunner

    runner = FakeRunner(**{"max_length": 200, **runner_options})
    info = EngineInfo(id="fake", context_length=runner.max_length, created=1)
    options = {"max_queue": max_queue, "settings": settings or Settings(), "prepare_messages": prepare_messages}
    options["read_adapter"] = read_adapter
    engine = LocalEngine(info, runner, codec or WordCodec(), **options)
    engine.test_runner = runner
    return engine


def make_slow_local():
    """A local engine whose steps take long enough to be interrupted."""
    pause = threading.Event()
    engine = make_local(before_step=lambda items: pause.wait(0.003))
    engine.info = replace(engine.info, capabilities=("chat", "completions", "embeddings"))
    return engine


def ask(text="one two three", **sampling):
    """A request for a chat answer."""
    messages = [{"role": "user", "content": text}]
    return GenerationRequest(messages=messages, sampling=SamplingParams(**{"temperature": 0, **sampling}))


async def collect(events):
    """(text, all events)."""
    seen = [event async for event in events]
    return "".join(event.text for event in seen if isinstance(event, Delta)), seen


def check_order(events):
    """One Accepted first, one terminal event last, and none elsewhere."""
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Finished | Failed)
    assert all(isinstance(event, Delta) for event in events[1:-1])


async def wait_until(condition, timeout_s=60):
    """Wait for something another thread does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)
