"""The same conversation through chat completions, responses and messages: one question, one answer, one usage."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import hypothesis
import pytest
from hypothesis import strategies as st

from .conftest import Recorder, serving

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DESCRIPTION = "Get the weather in a city"
words = st.lists(st.sampled_from(["What", "is", "the", "capital", "of", "Paris", "Hello!", "1", "à"]), min_size=1).map(
    " ".join
)
CHAT_REASONS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
RESPONSE_REASONS = {"completed": "stop", "incomplete": "length"}
MESSAGE_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


@dataclass(frozen=True)
class Turn:
    """What a user said and an assistant answered, with or without the call of a tool between."""

    question: str
    answer: str
    result: str | None


@dataclass(frozen=True)
class Talk:
    """A conversation that waits for its next answer."""

    system: str | None
    turns: list[Turn]
    question: str
    has_tools: bool
    max_tokens: int


talks = st.builds(
    Talk,
    st.none() | words,
    st.lists(st.builds(Turn, words, words, st.none() | words), max_size=2),
    words,
    st.booleans(),
    st.integers(1, 12),
)


def call_of(turn, index):
    return f"call_{index}", json.dumps({"city": turn.question}, ensure_ascii=False)


def as_chat(talk):
    messages = [{"role": "system", "content": talk.system}] if talk.system else []
    for index, turn in enumerate(talk.turns):
        messages.append({"role": "user", "content": turn.question})
        if turn.result is not None:
            call_id, arguments = call_of(turn, index)
            call = {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": call_id, "content": turn.result})
        messages.append({"role": "assistant", "content": turn.answer})
    body = {"messages": [*messages, {"role": "user", "content": talk.question}], "max_tokens": talk.max_tokens}
    if talk.has_tools:
        function = {"name": "get_weather", "description": DESCRIPTION, "parameters": SCHEMA}
        body["tools"] = [{"type": "function", "function": function}]
    return "/v1/chat/completions", body


def as_response(talk):
    items = []
    for index, turn in enumerate(talk.turns):
        items.append({"role": "user", "content": turn.question})
        if turn.result is not None:
            call_id, arguments = call_of(turn, index)
            items.append({"type": "function_call", "call_id": call_id, "name": "get_weather", "arguments": arguments})
            items.append({"type": "function_call_output", "call_id": call_id, "output": turn.result})
        items.append({"role": "assistant", "content": [{"type": "output_text", "text": turn.answer}]})
    items.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": talk.question}]})
    body = {"input": items, "instructions": talk.system, "max_output_tokens": talk.max_tokens, "store": False}
    if talk.has_tools:
        body["tools"] = [{"type": "function", "name": "get_weather", "description": DESCRIPTION, "parameters": SCHEMA}]
    return "/v1/responses", body


def as_messages(talk):
    messages = []
    for index, turn in enumerate(talk.turns):
        messages.append({"role": "user", "content": turn.question})
        if turn.result is not None:
            call_id, arguments = call_of(turn, index)
            use = {"type": "tool_use", "id": call_id, "name": "get_weather", "input": json.loads(arguments)}
            messages.append({"role": "assistant", "content": [use]})
            result = {"type": "tool_result", "tool_use_id": call_id, "content": turn.result}
            messages.append({"role": "user", "content": [result]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    messages.append({"role": "user", "content": talk.question})
    body = {"messages": messages, "max_tokens": talk.max_tokens}
    if talk.system:
        body["system"] = talk.system
    if talk.has_tools:
        body["tools"] = [{"name": "get_weather", "description": DESCRIPTION, "input_schema": SCHEMA}]
    return "/v1/messages", body


def read_chat(answer):
    message, usage = answer["choices"][0]["message"], answer["usage"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    used = (usage["prompt_tokens"], usage["completion_tokens"])
    return message["content"] or "", calls, used, answer["choices"][0]["finish_reason"]


def read_response(answer):
    texts = [part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"]]
    calls = [(item["name"], item["arguments"]) for item in answer["output"] if item["type"] == "function_call"]
    usage = answer["usage"]
    reason = RESPONSE_REASONS[answer["status"]]
    reason = "tool_calls" if calls and reason == "stop" else reason
    return "".join(texts), calls, (usage["input_tokens"], usage["output_tokens"]), reason


def read_message(answer):
    texts = [block["text"] for block in answer["content"] if block["type"] == "text"]
    calls = [(block["name"], json.dumps(block["input"])) for block in answer["content"] if block["type"] == "tool_use"]
    usage = answer["usage"]
    used = (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"])
    return "".join(texts), calls, used, MESSAGE_REASONS[answer["stop_reason"]]


APIS = ((as_chat, read_chat), (as_response, read_response), (as_messages, read_message))


def answers(client, talk):
    """What each API says to a conversation."""
    found = []
    for write, read in APIS:
        path, body = write(talk)
        response = client.post(path, json={**body, "temperature": 0})
        assert response.status_code == 200, response.text
        found.append(read(response.json()))
    return found


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    engine = Recorder()
    with serving(tmp_path_factory.mktemp("home"), engine) as server:
        yield engine, server


@pytest.fixture
def slow_client(pocket_server, http):
    return http(pocket_server)


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(talk=talks)
def test_the_engine_is_asked_the_same(recorder, http, talk):
    engine, server = recorder
    engine.requests.clear()
    chat, response, message = answers(http(server), talk)
    assert chat == response == message
    asked = [replace(request, id="", ends_at_context=False) for request in engine.requests]
    assert asked[0] == asked[1] == asked[2]


@hypothesis.settings(max_examples=12, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(talk=talks)
def test_the_model_answers_the_same(slow_client, talk):
    chat, response, message = answers(slow_client, talk)
    is_cut_call = chat[3] == "length" and chat[1]
    assert chat == response
    assert chat == message or is_cut_call, "a call that is cut off is no JSON object"


@pytest.mark.parametrize("question", ["What is the capital of France?", "What is the weather in Paris?"])
def test_a_question_that_the_model_knows_is_answered_the_same(slow_client, question):
    chat, response, message = answers(slow_client, Talk(None, [], question, True, 100))
    assert chat == response == message
    assert chat[0] or chat[1]
