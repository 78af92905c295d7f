"""What each provider is sent: every field as it takes it, or refused by name."""

from __future__ import annotations

import json

import pytest

from llmapi_kit.checkpoints.providers import PROVIDERS
from llmapi_kit.checkpoints.spec import PROVIDERS as NAMES
from llmapi_kit.engines.base import GenerationRequest, ToolUse
from llmapi_kit.engines.upstream.request_body import body_of
from llmapi_kit.engines.upstream.welm import as_continuation
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from llmapi_kit.sampling.parameters import SamplingParams

from .conftest import ask

LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
# By the name of our own field: a request with it, and with which providers it goes through in a conversation.
OPENAI_LIKE = {"openai", "azure", "compatible", "kit", "vllm"}
CHAT = {
    "seed": (ask(seed=3), OPENAI_LIKE | {"mistral", "groq", "openrouter", "together", "ollama"}),
    "n": (ask(n=2), OPENAI_LIKE | {"gemini", "mistral", "together"}),
    "logprobs": (ask(logprobs=2), OPENAI_LIKE | {"deepseek", "openrouter", "ollama"}),
    "logit_bias": (ask(logit_bias={5: 1.0}), OPENAI_LIKE | {"openrouter", "together"}),
    "top_k": (ask(top_k=4), {"vllm", "kit", "openrouter", "together"}),
    "min_p": (ask(min_p=0.1), {"vllm", "kit", "openrouter", "together"}),
    "repetition_penalty": (ask(repetition_penalty=1.1), {"vllm", "kit", "openrouter", "together"}),
    "stop_token_ids": (ask(stop_token_ids=(5,)), {"vllm", "kit"}),
    "ignore_eos": (ask(ignore_eos=True), {"vllm", "kit"}),
    "presence_penalty": (
        ask(presence_penalty=1),
        OPENAI_LIKE | {"mistral", "openrouter", "together", "ollama"},
    ),
    "num_beams": (
        GenerationRequest(
            messages=[{"role": "user", "content": "x"}], num_beams=2, sampling=SamplingParams(temperature=0)
        ),
        {"kit"},
    ),
    "chat_template_kwargs": (
        GenerationRequest(messages=[{"role": "user", "content": "x"}], template_options={"a": 1}),
        {"vllm", "kit"},
    ),
    "continue_final_message": (
        GenerationRequest(messages=[{"role": "assistant", "content": "x"}], is_continuing=True),
        {"vllm", "kit"},
    ),
    "reasoning_effort": (
        GenerationRequest(messages=[{"role": "user", "content": "x"}], reasoning_effort="low"),
        OPENAI_LIKE | {"gemini", "deepseek", "groq", "ollama"},
    ),
    "tools": (
        GenerationRequest(messages=[{"role": "user", "content": "x"}], tools=ToolUse([LOOK_UP])),
        set(NAMES) - {"welm"},
    ),
    "tool_choice": (
        GenerationRequest(messages=[{"role": "user", "content": "x"}], tools=ToolUse([LOOK_UP], is_required=True)),
        set(NAMES) - {"welm", "ollama"},
    ),
    "response_format": (
        ask(constraint=Constraint("json_schema", json.dumps(SCHEMA), "response_format")),
        OPENAI_LIKE | {"gemini", "mistral", "groq", "openrouter", "together", "ollama"},
    ),
    "guided_regex": (ask(constraint=Constraint("regex", "a+", "guided_regex")), {"vllm", "kit"}),
    "messages": (
        GenerationRequest(messages=[{"role": "assistant", "content": "x", "reasoning_content": "y"}]),
        {"vllm", "kit", "deepseek"},
    ),
}


def send(request, name):
    return body_of(request, PROVIDERS[name], "m")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"welm"}))
@pytest.mark.parametrize("field", CHAT)
def test_a_field_goes_through_or_is_refused_by_name(name, field):
    request, takers = CHAT[field]
    if name in takers:
        path, body = send(request, name)
        assert path == "/chat/completions"
        assert body["messages"] == [dict(message) for message in request.messages]
    else:
        with pytest.raises(UnsupportedFieldError) as refused:
            send(request, name)
        assert refused.value.param == field
        assert name in refused.value.message


def test_names_of_providers_are_those_of_the_table():
    assert set(NAMES) == set(PROVIDERS)


def test_a_plain_question_has_nothing_but_itself():
    _, body = send(ask("Hi"), "openai")
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_where_a_default_is_not_known_neutral_values_are_said():
    _, body = send(ask("Hi"), "vllm")
    said = {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert said == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    _, body = send(ask("Hi"), "compatible")
    assert (body["temperature"], body["top_p"], "top_k" in body) == (1.0, 1.0, False)


def test_fields_have_the_providers_own_names():
    assert send(ask(max_tokens=5), "openai")[1]["max_completion_tokens"] == 5
    assert send(ask(max_tokens=5), "anthropic")[1]["max_tokens"] == 5
    assert send(ask(seed=5), "mistral")[1]["random_seed"] == 5
    assert "stream_options" not in send(ask(), "mistral")[1]
    assert send(ask(), "openrouter")[1]["provider"] == {"require_parameters": True}
    _, body = send(ask(logprobs=3, stop=("a", "b"), logit_bias={7: 2.0}), "openai")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert (body["stop"], body["logit_bias"]) == (["a", "b"], {"7": 2.0})


def test_a_temperature_that_would_be_cut_is_refused():
    assert send(ask(temperature=0.9), "anthropic")[1]["temperature"] == 0.9
    with pytest.raises(InvalidRequestError) as refused:
        send(ask(temperature=1.5), "anthropic")
    assert refused.value.param == "temperature"


def test_tools_and_their_choice():
    def body(name="openai", **use):
        return send(
            GenerationRequest(messages=[{"role": "user", "content": "x"}], tools=ToolUse([LOOK_UP], **use)), name
        )[1]

    assert body()["tools"] == [LOOK_UP]
    assert "tool_choice" not in body()
    assert body(is_required=True)["tool_choice"] == "required"
    assert body(forced="look_up")["tool_choice"] == {"type": "function", "function": {"name": "look_up"}}
    assert body(is_parallel=False)["parallel_tool_calls"] is False
    with pytest.raises(UnsupportedFieldError, match="parallel_tool_calls"):
        body("gemini", is_parallel=False)


def test_a_strict_tool_is_refused_where_strict_is_ignored():
    strict = {"type": "function", "function": {**LOOK_UP["function"], "strict": True}}
    request = GenerationRequest(messages=[{"role": "user", "content": "x"}], tools=ToolUse([strict]))
    assert send(request, "openai")[1]["tools"] == [strict]
    with pytest.raises(UnsupportedFieldError, match="strict in tools"):
        send(request, "anthropic")


def test_what_the_answer_must_match():
    def body(kind, source, name, param="guided_x"):
        return send(ask(constraint=Constraint(kind, source, param)), name)[1]

    wanted = body("json_schema", json.dumps(SCHEMA), "openai")["response_format"]["json_schema"]
    assert (wanted["schema"], wanted["strict"], list(wanted["schema"]["properties"])) == (SCHEMA, True, ["b", "a"])
    assert body("json_object", "", "openai")["response_format"] == {"type": "json_object"}
    assert body("regex", "a+", "vllm")["structured_outputs"] == {"regex": "a+"}
    assert body("choice", '["a", "b"]', "vllm")["structured_outputs"] == {"choice": ["a", "b"]}
    assert body("lark", "start: A", "kit")["guided_grammar"] == "start: A"
    with pytest.raises(UnsupportedFieldError) as refused:
        body("regex", "a+", "openai", "guided_regex")
    assert refused.value.param == "guided_regex"


def test_prompts_go_to_the_older_api_where_there_is_one():
    prompt = GenerationRequest(prompt="Once", echo=True, sampling=SamplingParams(max_tokens=3, logprobs=2))
    path, body = send(prompt, "openai")
    assert path == "/completions"
    assert (body["prompt"], body["echo"], body["logprobs"], body["max_tokens"]) == ("Once", True, 2, 3)
    with pytest.raises(UnsupportedFieldError) as refused:
        send(prompt, "anthropic")
    assert refused.value.param == "prompt"
    ids = GenerationRequest(prompt=[1, 2])
    assert send(ids, "vllm")[1]["prompt"] == [1, 2]
    with pytest.raises(UnsupportedFieldError):
        send(ids, "ollama")


def test_the_best_of_several_is_not_streamed():
    _, body = send(GenerationRequest(prompt="x", best_of=3), "openai")
    assert (body["best_of"], "stream" in body) == (3, False)


def test_keys_of_ours_stay_apart_in_vllms_prefix_cache():
    request = GenerationRequest(messages=[{"role": "user", "content": "x"}], cache_salt="somebody")
    assert send(request, "vllm")[1]["cache_salt"] == "somebody"
    assert "cache_salt" not in send(request, "openai")[1]


def test_welm_is_asked_to_go_on_with_a_dialogue():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    request = as_continuation(GenerationRequest(messages=messages, sampling=SamplingParams(top_k=3)))
    path, body = send(request, "welm")
    assert path == "/completions"
    assert body == {
        "model": "m",
        "prompt": "Be kind.\n用户：One\n助手：Two\n用户：Three\n助手：",  # noqa: RUF001 - Chinese text
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 3,
        "max_tokens": 256,
    }
    with pytest.raises(UnsupportedFieldError, match="tools"):
        as_continuation(GenerationRequest(messages=[{"role": "tool", "content": "x"}]))
