"""Bodies from strangers: what is not valid is refused by name, and nothing is ever a 5xx or ignored."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server

from .conftest import KEY, chat, error_of, serving

pytestmark = pytest.mark.slow

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine()) as made:
        yield made


@pytest.fixture(scope="module")
def keyless(tmp_path_factory):
    """A client of a server that asks for no key."""
    engine = MockEngine()
    settings = load_settings(home=tmp_path_factory.mktemp("home"))
    made = Server([engine], host="127.0.0.1", port=0, api_key=None, settings=settings)
    made.start()
    with httpx.Client(base_url=made.url, timeout=30, trust_env=False) as client:
        yield client
    made.stop(drain_s=0)
    engine.close()


@pytest.fixture
def post(server, http):
    client = http(server)

    def send(path, body=None, **options):
        return client.post(path, **({"json": body} if body is not None else {}), **options)

    return send


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BOTH = [
    ("functions", [{}]),
    ("modalities", ["audio"]),
    ("temprature", 0.5),
    ("web_search_options", {}),
    # refused by the mock engine, which has no model
    ("num_beams", 4),
    ("guided_regex", "a+"),
    ("guided_choice", ["a"]),
]
CHAT_ONLY = [
    ("suffix", "end"),
    ("best_of", 2),
    ("verbosity", "low"),
    ("reasoning_effort", "low"),
    ("response_format", {"type": "json_object"}),
    ("chat_template_kwargs", {"x": 1}),
]
COMPLETIONS_ONLY = [
    ("store", True),
    ("metadata", {"a": "b"}),
    ("tools", [TOOL]),
    ("tool_choice", "auto"),
    ("response_format", {"type": "json_object"}),
    ("parallel_tool_calls", True),
    ("reasoning_effort", "low"),
    ("suffix", "end"),
    ("echo", True),
]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [(path, *each) for path in (CHAT, COMPLETIONS) for each in BOTH]
    + [(CHAT, *each) for each in CHAT_ONLY]
    + [(COMPLETIONS, *each) for each in COMPLETIONS_ONLY],
)
def test_a_field_that_is_not_supported_is_refused_by_name(post, path, field, value):
    body = chat() if path == CHAT else {"prompt": "x"}
    error = error_of(post(path, {**body, field: value}), 400)
    assert (error["param"], error["code"], error["type"]) == (field, "unsupported_parameter", "invalid_request_error")
    assert field in error["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"n": 1},
        {"tools": []},
        {"tools": None},
        {"response_format": {"type": "text"}},
        {"tool_choice": "none"},
        {"parallel_tool_calls": True},
        {"user": "somebody", "safety_identifier": "s", "prompt_cache_key": "k"},
        {"service_tier": "auto", "verbosity": "medium", "store": False, "metadata": {}, "reasoning_effort": "none"},
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(post, extra):
    assert post(CHAT, chat(**extra)).status_code == 200


def test_fields_inside_messages_and_options_are_refused_by_path(post):
    named = {"messages": [{"role": "user", "content": "x", "weight": 1}]}
    assert error_of(post(CHAT, named), 400)["param"] == "messages.0.weight"
    options = chat(stream=True, stream_options={"include_obfuscation": True})
    assert error_of(post(CHAT, options), 400)["param"] == "stream_options.include_obfuscation"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": 5}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, "messages.0.reasoning_content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages.0.tool_calls"),
        (chat(tools=[{"type": "custom"}]), "tools.0.type"),
        (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), "tools.0.function.name"),
        (chat(tools=[TOOL, TOOL]), "tools.1.function.name"),
        (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
        (chat(response_format={"type": "text", "json_schema": {"name": "x"}}), "response_format.json_schema"),
        (chat(structured_outputs={"regex": "a", "json": {}}), "structured_outputs.regex"),
        (chat(tool_choice="required"), "tool_choice"),
        (chat(response_format={"type": "json_schema"}), "response_format.json_schema.schema"),
        (chat(response_format={"type": "json_object"}, guided_regex="a"), "response_format"),
        (chat(continue_final_message=True), "continue_final_message"),
        (chat(echo=True), "echo"),
        (chat(do_sample=True, temperature=0), "do_sample"),
        (chat(do_sample=True, num_beams=2), "do_sample"),
        (chat(num_beams=0), "num_beams"),
        (chat(num_beams=2, n=3), "n"),
        (chat(num_beams=2, stop="x"), "stop"),
        (chat(num_beams=2, temperature=7), "temperature"),
        (chat(temperature="0.5"), "temperature"),
        (chat(temperature=3), "temperature"),
        (chat(temperature=True), "temperature"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(n=0), "n"),
        (chat(n=17), "n"),
        (chat(best_of=2), "best_of"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_completion_tokens=-2), "max_completion_tokens"),
        (chat(repeat_penalty=1.1, repetition_penalty=1.2), "repeat_penalty"),
        (chat(stop=["a"] * 17), "stop"),
        (chat(min_tokens=5, max_tokens=4), "min_tokens"),
        (chat(num_beams=2, min_tokens=1), "min_tokens"),
        (chat(num_beams=2, length_penalty=11), "length_penalty"),
        (chat(length_penalty=2), "length_penalty"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options={"include_usage": True}), "stream_options"),
        (chat(logprobs=3), "logprobs"),
        (chat(top_logprobs=2), "top_logprobs"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (chat(logit_bias={"x": 1}), "logit_bias"),
        (chat(logit_bias={"1": 101}), "logit_bias"),
        (chat(seed=2**70), "seed"),
        (chat(model=5), "model"),
        (chat(store="yes"), "store"),
        (chat(metadata={"a": "b"}), "metadata"),
        (chat(metadata={"a": "b"}, store=False), "metadata"),
        (chat(metadata={"a": 1}, store=True), "metadata.a"),
        (chat(metadata=[], store=True), "metadata"),
        (chat(metadata={str(i): "" for i in range(17)}, store=True), "metadata"),
        (chat(metadata={"k" * 65: ""}, store=True), "metadata"),
        (chat(metadata={"a": "v" * 513}, store=True), "metadata"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(post, body, param):
    error = error_of(post(CHAT, body), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "suffix": "b", "echo": True}, "echo"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "best_of": 17}, "best_of"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    ],
)
def test_completions_refuse_by_name_too(post, body, param):
    assert str(error_of(post(COMPLETIONS, body), 400)["param"]).split(".")[0] == param


def test_image_parts_are_refused_on_a_text_model_and_text_parts_joined(post):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]}
    error = error_of(post(CHAT, body), 400)
    assert error["param"] == "messages.0.content.1.image_url"
    assert "takes text only" in error["message"]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = post(CHAT, {"messages": [{"role": "user", "content": parts}]}).json()
    assert answer["choices"][0]["message"]["content"] == "a b"  # the mock repeats the words


def test_unknown_model_is_404_and_names_those_there_are(post):
    error = error_of(post(CHAT, chat(model="gpt-4")), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "mock" in error["message"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "nested 100000 levels"),
        (b'{"seed": ' + b"9" * 100_000 + b"}", "100000 digits"),
        (b'{"seed": NaN}', "NaN"),
        (b"{", "not valid JSON"),
        (b"", "The body is empty; send a JSON object"),
        (b" \r\n", "The body is empty; send a JSON object"),
        (b"[]", "a JSON array; send a JSON object"),
        (b'"text"', "a JSON string; send a JSON object"),
        (b"null", "null; send a JSON object"),
        (b"5", "a number; send a JSON object"),
        (b"true", "true or false; send a JSON object"),
        (b'{"a": "\xed\xa0\xbd"}', "not UTF-8 (byte 0xed at position 7)"),
        ('{"a": "ä"}'.encode("latin-1"), "not UTF-8 (byte 0xe4"),
        ('{"a": "b"}'.encode("utf-16"), "encoded in UTF-16; send JSON in UTF-8"),
        ('{"a": "b"}'.encode("utf-16-be"), "encoded in UTF-16-BE; send JSON in UTF-8"),
        ('{"a": "b"}'.encode("utf-32"), "encoded in UTF-32; send JSON in UTF-8"),
        (b'{"temperature": 1e999}', "1e999, which is too large"),
        (b'{"temperature": -1e999}', "-1e999, which is too large"),
        (b'{"a": "\\ud83d"}', "\\ud83d, which is half of a surrogate pair"),
        (b'{"\\uDE00": 1}', "\\ude00, which is half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_the_json_is_said(post, content, problem):
    error = error_of(post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)
    assert problem in error["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"seed": ' + b"9" * 100_000 + b"}",
        b"[]",
        b'"text"',
        b"null",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
    ids=range(13),
)
def test_hostile_json_is_a_400(post, content):
    error_of(post(CHAT, content=content, headers={"Content-Type": "application/json"}), 400)


OTHER_TYPES = ["application/x-www-form-urlencoded", "text/plain", "text/json", "application/octet-stream"]


@pytest.mark.parametrize("content_type", [*OTHER_TYPES, "application/vnd.api+json; charset=utf-8", None])
def test_json_is_taken_for_json_whatever_the_content_type_says(post, content_type):
    """``curl -d`` without a header calls it a form."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert post(CHAT, content=json.dumps(chat()), headers=headers).status_code == 200


@pytest.mark.parametrize("content_type", [*OTHER_TYPES, "multipart/form-data; boundary=x"])
def test_what_is_not_json_and_says_so_is_a_415_that_names_the_content_type(post, content_type):
    error = error_of(post(CHAT, content=b"prompt=hello", headers={"Content-Type": content_type}), 415)
    assert repr(content_type.partition(";")[0]) in error["message"]
    assert "'Content-Type: application/json'" in error["message"]


@pytest.mark.parametrize("content_type", [*OTHER_TYPES, None])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/chat/start"])
def test_a_server_without_a_key_takes_no_post_that_any_website_could_have_a_browser_send(keyless, path, content_type):
    """A browser sends plain text, forms and what has no type to any server unasked, and JSON only when it may."""
    headers = {"Origin": "https://evil.example"} | ({} if content_type is None else {"Content-Type": content_type})
    response = keyless.post(path, content=json.dumps(chat()), headers=headers)
    if path == "/v1/chat/start":
        assert response.json()["code"] == -3
    else:
        error_of(response, 415)
    assert "Send 'Content-Type: application/json'" in response.text
    assert keyless.post(CHAT, json=chat()).status_code == 200


def test_a_byte_order_mark_is_passed_over(post):
    """Windows' editors and PowerShell begin a file with it."""
    assert post(CHAT, content=b"\xef\xbb\xbf" + json.dumps(chat()).encode()).status_code == 200


def test_a_string_that_never_ends_does_not_hold_up_the_server(post):
    """Brackets were looked for from each of its quotes to the end again, which took hours for a body of 2 MB."""
    error = error_of(post(CHAT, content=b'"' + b'\\"[' * 600_000), 400)
    assert "Unterminated string" in error["message"]


def test_brackets_in_strings_do_not_count_as_depth(post):
    assert post(CHAT, chat('"\\[[[{{{' * 100)).status_code == 200


def test_a_body_over_the_limit_is_413_as_it_comes_in(serve, http):
    server = serve(max_body_bytes=2000)
    client = http(server)
    assert error_of(client.post(CHAT, json=chat("x" * 3000)), 413)["code"] == "request_too_large"

    def endless():
        for _ in range(100):
            yield b" " * 1000

    assert client.post(CHAT, content=endless(), headers={"Content-Type": "application/json"}).status_code == 413
    assert client.post(CHAT, json=chat("still fine")).status_code == 200


def test_a_body_that_never_comes_leaves_others_alone(serve, http):
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        raw.sendall((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
        assert http(server).post(CHAT, json=chat()).status_code == 200
