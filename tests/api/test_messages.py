"""POST /v1/messages, whole and streamed, as the anthropic client's strict mode and its state machine take it."""

from __future__ import annotations

import json

import anthropic
import pytest
from pydantic import BaseModel

from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import GenerationError
from llmapi_kit.server.server import Server
from llmapi_kit.types import Delta, ToolCallDelta

from .conftest import KEY, Recorder, serving
from .scripted import Scripted

pytestmark = pytest.mark.slow

PATH = "/v1/messages"
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
SUNNY = "It is 18 degrees and sunny in Paris."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "input_schema": SCHEMA}
GREEDY = {"temperature": 0}


class Person(BaseModel):
    name: str
    age: int


def client_of(server, **options):
    return anthropic.Anthropic(
        api_key=KEY, base_url=server.url, max_retries=0, _strict_response_validation=True, **options
    )


@pytest.fixture(scope="module")
def client(pocket_server):
    with client_of(pocket_server) as made:
        yield made


@pytest.fixture
def post(pocket_server, http):
    client = http(pocket_server)
    asked = {"model": "pocket", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello!"}]}
    return lambda **fields: client.post(PATH, json={**asked, **fields})


def ask(client, question=FRANCE, **fields):
    messages = fields.pop("messages", [{"role": "user", "content": question}])
    asked = {"model": "pocket", "max_tokens": 100, "extra_body": GREEDY, "messages": messages}
    return client.messages.create(**{**asked, **fields})


def failure_of(response, status):
    """The error object of a response, in Anthropic's shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]


def events_of(response):
    """(event, data) of each frame of a stream."""
    frames = [frame.splitlines() for frame in response.text.strip().split("\n\n")]
    events = [(frame[0].removeprefix("event: "), json.loads(frame[1].removeprefix("data: "))) for frame in frames]
    assert [name for name, _ in events] == [data["type"] for _, data in events]
    return [data for _, data in events]


def test_a_message_has_its_text_its_usage_and_why_it_ended(client):
    message = ask(client, system="Be brief.")
    assert [block.text for block in message.content] == [PARIS]
    assert (message.stop_reason, message.stop_sequence, message.role) == ("end_turn", None, "assistant")
    assert message.usage.output_tokens > 0
    assert message._request_id.startswith("req_")


def test_the_events_of_a_text_come_in_anthropics_order(post):
    events = events_of(post(stream=True, temperature=0, max_tokens=50))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    assert start["usage"]["input_tokens"] > 0
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_a_stream_comes_to_the_same_as_the_whole(client):
    whole = ask(client)
    with client.messages.stream(
        model="pocket", max_tokens=100, extra_body=GREEDY, messages=[{"role": "user", "content": FRANCE}]
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == PARIS
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    spent = [usage.input_tokens + usage.cache_read_input_tokens for usage in (final.usage, whole.usage)]
    assert spent[0] == spent[1]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tool_is_used_and_its_result_answered(client, is_stream):
    question = {"role": "user", "content": "What is the weather in Paris?"}
    fields = {"messages": [question], "tools": [WEATHER]}
    if is_stream:
        with client.messages.stream(model="pocket", max_tokens=100, extra_body=GREEDY, **fields) as stream:
            first = stream.get_final_message()
    else:
        first = ask(client, **fields)
    (use,) = first.content
    assert (use.type, use.name, use.input, first.stop_reason) == (
        "tool_use",
        "get_weather",
        {"city": "Paris"},
        "tool_use",
    )
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "18 degrees and sunny in Paris"}
    second = ask(client, messages=[question, first.to_param(), {"role": "user", "content": [result]}], tools=[WEATHER])
    assert second.content[0].text == SUNNY


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_clients_tool_runner_runs_a_tool(client, is_stream):
    called = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather in a city"""
        called.append(city)
        return f"18 degrees and sunny in {city}"

    runner = client.beta.messages.tool_runner(
        model="pocket",
        max_tokens=100,
        tools=[get_weather],
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        extra_body=GREEDY,
        stream=is_stream,
    )
    final = runner.until_done()
    assert (called, final.content[0].text) == (["Paris"], SUNNY)


def test_the_clients_parse_gives_an_object(client):
    parsed = client.messages.parse(
        model="pocket",
        max_tokens=200,
        messages=[{"role": "user", "content": "Describe a person."}],
        output_format=Person,
        extra_body=GREEDY,
    )
    assert isinstance(parsed.parsed_output, Person)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_that_has_to_be_used_is(client, choice):
    message = ask(client, tools=[WEATHER], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert [block.type for block in message.content] == ["tool_use"]


def test_a_stop_sequence_ends_it_and_is_named(client):
    message = ask(client, stop_sequences=["Rome", "France"])
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == (
        "The capital of ",
        "stop_sequence",
        "France",
    )


def test_what_the_assistant_began_is_gone_on_with(client):
    begun = {"role": "assistant", "content": "The capital of"}
    message = ask(client, messages=[{"role": "user", "content": FRANCE}, begun])
    assert message.content[0].text == " France is Paris."


def test_its_limit_and_the_contexts_end_are_told_apart(client, serve, http):
    assert ask(client, max_tokens=2).stop_reason == "max_tokens"
    short = http(serve(MockEngine(num_tokens=100, context_length=20)))
    body = {"max_tokens": 50_000, "messages": [{"role": "user", "content": "one"}]}
    message = short.post(PATH, json=body).json()
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("model_context_window_exceeded", 19)


def test_more_than_the_context_has_room_for_is_no_error(client):
    assert ask(client, max_tokens=20_000, stream=False, timeout=30).stop_reason == "end_turn"


PARTS = (
    Delta("", reasoning="Hm, "),
    Delta("", reasoning="well."),
    Delta("Let me "),
    Delta("look."),
    Delta("", tool_calls=(ToolCallDelta(0, "call_1", "look", '{"a"'),)),
    Delta("", tool_calls=(ToolCallDelta(0, arguments=": 1}"),)),
    Delta("", tool_calls=(ToolCallDelta(1, "call_2", "look", ""),)),
)


@pytest.mark.parametrize("display", [None, "summarized", "omitted"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_thinking_text_and_calls_are_blocks_that_can_be_sent_back(serve, is_stream, display):
    engine = Scripted(*PARTS, reason="tool_calls")
    question = {"role": "user", "content": "Well?"}
    fields = {"model": "scripted", "max_tokens": 9, "messages": [question]}
    fields["thinking"] = {"type": "adaptive", **({"display": display} if display else {})}
    with client_of(serve(engine)) as client:
        if is_stream:
            with client.messages.stream(**fields) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**fields)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": block.id, "is_error": block.id == "call_2"}
            for block in message.content
            if block.type == "tool_use"
        ]
        said = {"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]}
        client.messages.create(**{**fields, "messages": [question, message.to_param(), said]})
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[0].thinking == ("" if display == "omitted" else "Hm, well.")
    assert [block.input for block in message.content[2:]] == [{"a": 1}, {}]
    calls = [("call_1", '{"a": 1}'), ("call_2", "{}")]
    assert engine.requests[1].messages == [
        question,
        {
            "role": "assistant",
            "content": "Let me look.",
            "reasoning_content": "Hm, well.",
            "tool_calls": [
                {"id": each, "type": "function", "function": {"name": "look", "arguments": text}}
                for each, text in calls
            ],
        },
        {"role": "tool", "content": "call_1", "tool_call_id": "call_1"},
        {"role": "tool", "content": "Error: call_2", "tool_call_id": "call_2"},
        {"role": "user", "content": "Go on."},
    ]


def test_tokens_are_counted_as_the_prompt_has_them(client):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    counted = client.messages.count_tokens(model="pocket", messages=messages, system="Be brief.", tools=[WEATHER])
    usage = ask(client, messages=messages, system="Be brief.", tools=[WEATHER]).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_a_stream_that_fails_ends_in_an_error_event(serve, http):
    client = http(serve(Scripted(Delta("Yes"), error=GenerationError("It broke."))))
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    last = events_of(client.post(PATH, json={**body, "stream": True}))[-1]
    assert (last["type"], last["error"]["type"], last["error"]["message"]) == ("error", "api_error", "It broke.")
    assert failure_of(client.post(PATH, json=body), 500)["type"] == "api_error"
    with client_of(serve(Scripted(error=GenerationError("It broke.")))) as sdk:
        with pytest.raises(anthropic.APIStatusError, match="It broke"):
            list(sdk.messages.create(model="scripted", stream=True, **body))


def test_a_quiet_stream_is_kept_open_by_pings(serve, http):
    client = http(serve(MockEngine(delay_s=0.2), keep_alive_s=0.05))
    body = {"max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "one two"}]}
    events = events_of(client.post(PATH, json=body))
    assert [event["type"] for event in events].count("ping") > 1


def test_the_key_comes_as_x_api_key_and_no_version_is_needed(serve, http):
    client = http(serve(), headers={"Authorization": "", "x-api-key": KEY})
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "one two"}]}
    assert client.post(PATH, json=body).status_code == 200
    refused = failure_of(client.post(PATH, json=body, headers={"x-api-key": "wrong"}), 401)
    assert refused["type"] == "authentication_error"


def test_a_model_answers_to_a_name_that_its_owner_gave_it(tmp_path, http):
    server = Server(
        [MockEngine()],
        host="127.0.0.1",
        port=0,
        api_key=KEY,
        settings=load_settings(home=tmp_path),
        aliases={"claude-opus-5-5": "mock", "gpt-6-astra": "mock"},
    )
    server.start()
    try:
        with client_of(server) as client:
            message = client.messages.create(
                model="claude-opus-5-5", max_tokens=9, messages=[{"role": "user", "content": "one two"}]
            )
        assert message.content[0].text == "one two"
        with server.client() as openai_client:
            assert openai_client.responses.create(model="gpt-6-astra", input="one two").output_text == "one two"
    finally:
        server.stop(drain_s=0)


def said(**block):
    return {"messages": [{"role": "user", "content": [block]}]}


REFUSED = [
    ("messages", said(type="image", source={"type": "url", "url": "x"})),
    ("messages.0.content.0.source", said(type="image")),
    ("messages.0.content.0.source.url", said(type="image", source={"type": "url"})),
    ("messages.0.content.0.source.type", said(type="image", source={"type": "file", "url": "x"})),
    ("messages.0.content.0.type", said(type="document", source={"type": "text", "data": "x"})),
    ("messages.0.content.0.type", said(type="tool_use", id="x", name="y", input={})),
    ("messages.0.content.0.text", said(type="text")),
    ("messages.0.content.0.name", said(type="text", text="x", name="y")),
    ("messages.0.content.0.content.0.type", said(type="tool_result", tool_use_id="x", content=[{"type": "image"}])),
    ("messages.0.content.0.weight", said(type="text", text="x", weight=1)),
    ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages", {"messages": []}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": None}),
    ("temperature", {"temperature": 3}),
    ("top_k", {"top_k": -2}),
    ("stop_sequences", {"stop_sequences": ["x"] * 17}),
    ("tools.0.type", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("tools.0.input_schema", {"tools": [{"name": "x"}]}),
    ("tools.0.name", {"tools": [{**WEATHER, "name": "x y"}]}),
    ("tools.0.input_schema", {"tools": [{**WEATHER, "strict": True}]}),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "tool"}}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}),
    ("thinking", {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled"}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 5}}),
    ("thinking", {"output_config": {"effort": "low"}}),
    ("container", {"container": "x"}),
    ("mcp_servers", {"mcp_servers": [{"name": "x"}]}),
    ("context_management", {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
    ("thread", {"thread": {"type": "create"}}),
    ("speed", {"speed": "fast"}),
    ("service_tier", {"service_tier": "cheap"}),
    ("inference_geo", {"inference_geo": "us"}),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED, ids=[f"{param}-{i}" for i, (param, _) in enumerate(REFUSED)])
def test_what_is_refused_is_named(post, param, fields):
    error = failure_of(post(**fields), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] in (param, f"{param}.0", param.rpartition(".")[0])
    assert param.split(".")[-1] in error["message"]


CACHED = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
NOTHING = [
    CACHED,
    {"system": [], "tools": [], "stop_sequences": ["", ""], "top_k": -1},
    {"metadata": {"user_id": "x"}, "service_tier": "standard_only", "speed": "standard"},
    {"thinking": {"type": "disabled"}},
    {"thinking": {"type": "adaptive", "display": "summarized"}},
    {"context_management": {"edits": []}, "mcp_servers": [], "container": None},
    {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
    {"output_config": {"effort": "high"}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!", "citations": None, **CACHED}]}]},
]


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_what_asks_for_nothing_changes_nothing(post, fields):
    plain, other = (post(temperature=0, **more) for more in ({}, fields))
    assert other.json()["content"] == plain.json()["content"], other.text


def test_what_came_on_the_way_is_told_by_its_status(serve, http):
    client = http(serve())
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    assert failure_of(client.post(PATH, json={**body, "model": "nobody"}), 404)["type"] == "not_found_error"
    long = {**body, "messages": [{"role": "user", "content": "word " * 9000}]}
    assert failure_of(client.post(PATH, json=long), 400)["code"] == "context_length_exceeded"
    assert failure_of(client.post(PATH, content=b"{"), 400)["type"] == "invalid_request_error"
    assert failure_of(client.post(f"{PATH}/count_tokens", json={}), 400)["param"] == "messages"


def test_a_prompt_is_asked_for_with_what_it_says(tmp_path, http):
    engine = Recorder()
    with serving(tmp_path, engine) as server:
        body = {"max_tokens": 9, "system": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
        body["messages"] = [
            {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "text", "text": "four"}]},
            {"role": "assistant", "content": "five"},
            {"role": "system", "content": "six"},
            {"role": "user", "content": "seven"},
        ]
        assert http(server).post(PATH, json=body).status_code == 200
    assert [(message["role"], message["content"]) for message in engine.requests[0].messages] == [
        ("system", "one\ntwo"),
        ("user", "three\nfour"),
        ("assistant", "five"),
        ("system", "six"),
        ("user", "seven"),
    ]
