"""The load generator against a live server without a model."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

import llmapi_kit as kit
from benchmarks.load import Load, bodies, run
from llmapi_kit.engines.mock import MockEngine


@pytest.fixture
def server():
    server = kit.launch(MockEngine("word", num_tokens=20), port=0)
    yield server
    server.stop(0)


def ask(server, **options):
    load = Load(f"{server.url}/v1/chat/completions", "mock", **options)
    return asyncio.run(run(load, server.api_key))


def test_every_token_is_counted_once(server):
    result = ask(server, streams=4, max_tokens=20, min_rounds=3)
    assert result.errors == []
    assert (result.num_requests, result.num_tokens, result.num_pieces) == (12, 240, 240)
    assert result.tokens_per_s == pytest.approx(240 / result.wall_s)
    assert 0 < result.ttft_p50_s <= result.ttft_p99_s


def test_another_number_of_tokens_is_an_error(server):
    assert ask(server, max_tokens=21).errors == ["An answer has 20 tokens in place of 21."]


def test_a_refused_request_is_an_error(server):
    assert "no_such_field" in ask(server, max_tokens=20, fields={"no_such_field": 1}).errors[0]


def test_a_server_that_is_not_there_is_an_error():
    result = asyncio.run(run(Load("http://127.0.0.1:9/v1/chat/completions", "mock"), None))
    assert "ConnectionRefusedError" in result.errors[0]


def test_prompts_differ_but_for_what_they_share():
    load = Load("", "mock", prompt_words=30, shared_words=5, seed=1)
    first, second = (json.loads(body)["messages"] for body in itertools.islice(bodies(load), 2))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert json.loads(next(bodies(load)))["messages"] == first
