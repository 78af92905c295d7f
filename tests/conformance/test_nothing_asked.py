"""What asks for nothing is accepted and changes nothing, whole and streamed; what would change it is refused."""

from __future__ import annotations

import json

import pytest

from llmapi_kit.api.openai.chat_body import ChatBody
from llmapi_kit.api.openai.completion_body import CompletionBody
from llmapi_kit.api.openai.neutral_values import NEUTRAL
from llmapi_kit.api.openai.request_body import StrictModel
from llmapi_kit.checkpoints.spec import parse_spec
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.loading.load_request import make_engine
from tests.api.conftest import KEY, error_of, serving

from .nothing_asked import FIELDS, KNOWN, MESSAGES

pytestmark = pytest.mark.slow

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
BODIES: dict[str, type[StrictModel]] = {"chat": ChatBody, "completions": CompletionBody}
HELLO = [{"role": "user", "content": "Hello!"}]
MODELS = ("pocket", "mock")
# Of answers of other endpoints than these two.
ELSEWHERE = {"background", "partial_images"}
IN_MESSAGES = {"messages.tool_calls.index", "messages.tool_calls.function.parsed_arguments"}
IN_PARTS_AND_TOOLS = {"messages.content.cache_control", "tools.cache_control", "tools.function.cache_control"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    import httpx

    pocket = make_engine(parse_spec("pocket"), load_settings())
    with serving(tmp_path_factory.mktemp("home"), pocket, MockEngine()) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False) as made:
            yield made


def body_of(endpoint, model, **fields):
    asked = {"messages": HELLO} if endpoint == "chat" else {"prompt": "Hello!"}
    return {"model": model, "temperature": 0, "max_tokens": 4, **asked, **fields}


def with_value(path, value, beside):
    """The fields of a request that has the value at the path."""
    outer, _, inner = path.partition(".")
    return {**dict(beside), outer: {inner: value} if inner else value}


def text_of(response):
    """The text of an answer, whole or streamed."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"].startswith("application/json"):
        choice = response.json()["choices"][0]
        return choice["message"]["content"] if "message" in choice else choice["text"]
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices)


@pytest.mark.parametrize("endpoint", FIELDS)
def test_every_documented_field_has_a_row(endpoint):
    assert {path.split(".")[0] for path in FIELDS[endpoint]} >= KNOWN[endpoint] - {"model"}


@pytest.mark.parametrize("endpoint", FIELDS)
def test_every_field_of_our_own_bodies_has_a_row(endpoint):
    names = {field.alias or name for name, field in BODIES[endpoint].model_fields.items()}
    assert names - FIELDS[endpoint].keys() == {"model"}


def test_every_neutral_value_is_tried_below():
    tried = {*FIELDS["chat"], *FIELDS["completions"], *(f"messages.{name}" for _, name, _ in MESSAGES)}
    assert set(NEUTRAL) - tried == ELSEWHERE | IN_MESSAGES | IN_PARTS_AND_TOOLS


@pytest.mark.parametrize(("endpoint", "path"), [(endpoint, path) for endpoint in FIELDS for path in FIELDS[endpoint]])
def test_a_value_that_asks_for_nothing_changes_nothing(client, endpoint, path):
    row = FIELDS[endpoint][path]
    has_null = path not in ("messages", "prompt")
    for model in MODELS:
        limits = {"max_tokens": None} if path == "max_completion_tokens" else {}
        plain = text_of(client.post(PATHS[endpoint], json=body_of(endpoint, model, **limits)))
        if path in ("max_tokens", "max_completion_tokens"):
            plain = text_of(client.post(PATHS[endpoint], json=body_of(endpoint, model, max_tokens=-1)))
        for value in [*row.nothing, *([None] if has_null else [])]:
            fields = {**limits, **with_value(path, value, row.beside)}
            whole = client.post(PATHS[endpoint], json=body_of(endpoint, model, **fields))
            assert text_of(whole) == plain or value is None, (model, value)
            if path != "stream":
                fields["stream"] = True
                assert text_of(client.post(PATHS[endpoint], json=body_of(endpoint, model, **fields))) == text_of(whole)


REFUSED = [
    (endpoint, path, value)
    for endpoint in FIELDS
    for path in FIELDS[endpoint]
    for value in FIELDS[endpoint][path].refused
]


@pytest.mark.parametrize(("endpoint", "path", "value"), REFUSED)
def test_a_value_that_would_change_the_answer_is_refused_by_name(client, endpoint, path, value):
    row = FIELDS[endpoint][path]
    for model in MODELS:
        response = client.post(PATHS[endpoint], json=body_of(endpoint, model, **with_value(path, value, row.beside)))
        if (model, path) == ("mock", "stop_token_ids"):
            continue  # it has no vocabulary that an id could be missing from
        error = error_of(response, 400)
        assert error["param"].startswith(path), error
        assert path.rsplit(".", 1)[-1] in error["message"]


def conversation(role, **fields):
    """One that ends with a question, with a message of this role before."""
    return [{"role": role, "content": "Hello!", **fields}, *HELLO]


@pytest.mark.parametrize(("role", "name", "row"), MESSAGES, ids=lambda each: each if isinstance(each, str) else "")
def test_fields_of_earlier_messages_are_taken_or_named(client, role, name, row):
    for model in MODELS:
        for value in [*row.nothing, *([None] if name != "content" else [])]:
            messages = conversation(role, **{name: value})
            assert text_of(client.post(PATHS["chat"], json=body_of("chat", model, messages=messages)))
        for value in row.refused:
            messages = conversation(role, **{name: value})
            error = error_of(client.post(PATHS["chat"], json=body_of("chat", model, messages=messages)), 400)
            assert error["param"].startswith(f"messages.0.{name}")


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ANSWERED = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "messages",
    [
        [*HELLO, {**ANSWERED, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": None}],
        [
            *HELLO,
            {**ANSWERED, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": "1"},
        ],
        [*HELLO, {**ANSWERED, "content": "Hi.", "tool_calls": None}, *HELLO],
        [*HELLO, {**ANSWERED, "refusal": "I can't."}, *HELLO],
        [*HELLO, {**ANSWERED, "content": [{"type": "refusal", "refusal": "I can't."}]}, *HELLO],
        [{"role": "user", "content": [{"type": "text", "text": "Hello!", "cache_control": {"type": "ephemeral"}}]}],
    ],
    ids=["tool content null", "tool name", "history", "refusal", "refusal part", "cache_control"],
)
def test_histories_that_began_elsewhere_go_on_here(client, model, messages):
    for is_stream in (False, True):
        body = body_of("chat", model, messages=messages, stream=is_stream)
        assert text_of(client.post(PATHS["chat"], json=body)) is not None


@pytest.mark.parametrize(
    "place", [("messages", 1, "tool_calls", 0, "function"), ("tools", 0), ("tools", 0, "function")]
)
def test_leftovers_of_other_clients_within_calls_and_tools_ask_for_nothing(client, place):
    leftover = {"parsed_arguments": {}} if place[0] == "messages" else {"cache_control": {"type": "ephemeral"}}
    call = {**CALL, "function": dict(CALL["function"])}
    body = body_of("chat", "pocket", tools=[{"type": "function", "function": dict(FUNCTION)}])
    result = {"role": "tool", "tool_call_id": "call_1", "content": "1"}
    body["messages"] = [*HELLO, {**ANSWERED, "tool_calls": [call]}, result]
    target = body
    for step in place:
        target = target[step]
    target |= leftover
    assert client.post(PATHS["chat"], json=body).status_code == 200
    target["unknown"] = 1
    path = ".".join(str(step) for step in (*place, "unknown"))
    assert error_of(client.post(PATHS["chat"], json=body), 400)["param"] == path
