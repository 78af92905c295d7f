"""Sessions with a real model: what an old client gets from a server that has nothing set up for it."""

from __future__ import annotations

import json

import pytest

from .conftest import KEY
from .session_client import SessionClient


@pytest.fixture
def server(pocket_server):
    return pocket_server


@pytest.fixture
def api(server):
    client = SessionClient(server)
    yield client
    client.http.close()


def usual(api, messages):
    """What the OpenAI API answers."""
    body = {"messages": messages, "temperature": 0, "max_tokens": 20}
    answer = api.http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"})
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_a_conversation_is_what_the_openai_api_makes_of_the_same_messages(api):
    session = api.start("chatgpt", temperature=0, max_tokens=20, system="You are a helpful assistant.")
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    for question in ("What is the capital of France?", "And of Italy?", "Thank you!"):
        messages.append({"role": "user", "content": question})
        reply = api.ask(session, question)["reply"]
        assert reply == usual(api, messages)
        messages.append({"role": "assistant", "content": reply})
    assert "Paris" in messages[2]["content"]


def test_a_streamed_reply_is_the_whole_one(api):
    settings = {"temperature": 0, "max_tokens": 20}
    whole = api.ask(api.start("chatgpt", **settings), "What is the capital of France?")["reply"]
    *pieces, last, _ = api.stream(api.start("chatgpt", **settings), "What is the capital of France?")
    assert "".join(piece["delta"] for piece in pieces) == last["reply"] == whole
    assert pieces  # how many depends on how busy the machine is: what has piled up is sent as one


def test_a_completion_bot_continues_and_an_embedding_bot_embeds(api):
    assert api.ask(api.start("gpt3", temperature=0, max_tokens=5), "The capital of")["reply"]
    vector = json.loads(api.ask(api.start("gpt-embedding"), "The sun")["reply"])
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_a_long_conversation_goes_on_past_the_context(server, api):
    [engine] = server.engines
    session = api.start("chatgpt", temperature=0, max_tokens=8)
    question = "tell me of the sun and the moon and the stars " * (engine.info.context_length // 100)
    for _ in range(14):
        answer = api.ask(session, question)
        assert answer["code"] == 0, answer
    answer = api.ask(session, "word " * engine.info.context_length)
    assert answer["code"] == -3
    assert f"context is {engine.info.context_length} tokens" in answer["msg"]
    assert api.ask(session, "What is the capital of France?")["code"] == 0
