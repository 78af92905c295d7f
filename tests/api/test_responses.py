"""POST /v1/responses, whole and streamed, as the openai client's strict mode and its state machine take it."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from llmapi_kit.errors import ContextLengthError, GenerationError
from llmapi_kit.types import Delta, ToolCallDelta

from .conftest import Recorder, error_of
from .scripted import Scripted

pytestmark = pytest.mark.slow

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def client(pocket_server):
    with pocket_server.client(max_retries=0, _strict_response_validation=True) as made:
        yield made


@pytest.fixture
def post(pocket_server, http):
    """Send a body to the pocket model; what comes back as it is."""
    client = http(pocket_server)
    return lambda **fields: client.post("/v1/responses", json={"model": "pocket", "input": "Hello!", **fields})


def ask(client, **fields):
    return client.responses.create(**{"model": "pocket", "input": FRANCE, "temperature": 0, **fields})


def kinds(events):
    """Types of events, with the deltas of a part told once."""
    found = []
    for event in events:
        if not (event.type.endswith(".delta") and found and found[-1] == event.type):
            found.append(event.type)
    return found


def test_a_response_has_its_text_usage_and_settings(client):
    response = ask(client, instructions="Be brief.", metadata={"a": "b"}, max_output_tokens=50)
    assert response.output_text == PARIS
    assert (response.status, response.object, response.error, response.incomplete_details) == (
        "completed",
        "response",
        None,
        None,
    )
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.instructions, response.metadata, response.max_output_tokens) == ("Be brief.", {"a": "b"}, 50)
    assert (response.temperature, response.tools, response.tool_choice, response.truncation) == (
        0,
        [],
        "auto",
        "disabled",
    )


def test_the_events_of_a_text_come_in_openais_order_and_are_numbered(client):
    events = list(ask(client, stream=True))
    assert kinds(events) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == PARIS
    assert {event.output_index for event in events if hasattr(event, "output_index")} == {0}


def test_a_stream_ends_in_the_response_that_is_stored(client):
    events = list(ask(client, stream=True))
    assert client.responses.retrieve(events[-1].response.id) == events[-1].response


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_function_is_called_and_its_output_answered(client, is_stream):
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    fields = {"input": question, "tools": [WEATHER]}
    first = list(ask(client, stream=True, **fields))[-1].response if is_stream else ask(client, **fields)
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees and sunny in Paris"}
    second = ask(client, input=[*question, call.model_dump(exclude_none=True), result], tools=[WEATHER])
    assert second.output_text == "It is 18 degrees and sunny in Paris."
    third = ask(client, input=[result], previous_response_id=first.id, tools=[WEATHER])
    assert third.output_text == second.output_text
    assert third.usage.input_tokens == second.usage.input_tokens


def test_the_clients_stream_helper_follows_a_call(client):
    with client.responses.stream(
        model="pocket", input="What is the weather in Paris?", temperature=0, tools=[WEATHER]
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output[0].arguments == '{"city": "Paris"}'
    assert events[-1].response == final
    assert kinds(events)[2:6] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


def test_the_clients_parse_gives_an_object(client):
    parsed = client.responses.parse(
        model="pocket", input="Describe a person.", text_format=Person, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, Person)
    with client.responses.stream(
        model="pocket", input="Describe a person.", text_format=Person, temperature=0, max_output_tokens=200
    ) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_answer_at_its_limit_is_incomplete(client, is_stream):
    answer = ask(client, max_output_tokens=2, stream=is_stream)
    response = list(answer)[-1].response if is_stream else answer
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    assert response.usage.output_tokens == 2


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_that_has_to_come_does(client, choice):
    response = ask(client, tools=[WEATHER], tool_choice=choice)
    assert {item.type for item in response.output} == {"function_call"}


def test_only_the_allowed_tools_are_offered(serve, http):
    engine = Recorder()
    other = {**WEATHER, "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    body = {"input": "x", "tools": [WEATHER, other], "tool_choice": allowed}
    assert http(serve(engine)).post("/v1/responses", json=body).status_code == 200
    assert [tool["function"]["name"] for tool in engine.requests[0].tools.tools] == ["other"]


def test_functions_in_a_namespace_are_called_and_answered_by_both_names(serve):
    call = Delta("", tool_calls=(ToolCallDelta(0, "call_1", "crm__find", '{"id": 1}'),))
    engine = Scripted(call)
    inner = {"type": "function", "name": "find", "description": "Finds.", "parameters": {"type": "object"}}
    crm = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [inner]}
    with serve(engine).client(max_retries=0) as client:
        first = client.responses.create(model="scripted", input="Who?", tools=[crm])
        (made,) = first.output
        assert (made.name, made.namespace, made.arguments) == ("find", "crm", '{"id": 1}')
        events = list(client.responses.retrieve(first.id, stream=True))
        assert events[-1].response.output == first.output
        result = {"type": "function_call_output", "call_id": "call_1", "output": "Ada"}
        client.responses.create(model="scripted", input=[result], previous_response_id=first.id, tools=[crm])
    (offered,) = engine.requests[0].tools.tools
    assert (offered["function"]["name"], offered["function"]["description"]) == ("crm__find", "Customers.\n\nFinds.")
    assert engine.requests[1].messages[1]["tool_calls"][0]["function"]["name"] == "crm__find"


def test_log_probabilities_come_where_they_are_included(client):
    response = ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = response.output[0].content[0].logprobs
    assert "".join(token.token for token in logprobs) == PARIS
    assert {len(token.top_logprobs) for token in logprobs} == {2}
    events = list(ask(client, include=["message.output_text.logprobs"], top_logprobs=2, stream=True))
    assert events[-1].response.output[0].content[0].logprobs == logprobs


THOUGHTS = (Delta("", reasoning="Hm, "), Delta("", reasoning="well."), Delta("Yes"), Delta("."))


@pytest.mark.parametrize("is_stream", [False, True])
def test_reasoning_is_an_item_that_can_be_sent_back(serve, is_stream):
    engine = Scripted(*THOUGHTS)
    with serve(engine).client(max_retries=0, _strict_response_validation=True) as client:
        answer = client.responses.create(
            model="scripted", input="Well?", include=["reasoning.encrypted_content"], stream=is_stream, store=False
        )
        events = list(answer) if is_stream else []
        response = events[-1].response if is_stream else answer
        thought, said = response.output
        assert (thought.content[0].text, said.content[0].text) == ("Hm, well.", "Yes.")
        back = [{"role": "user", "content": "Well?"}]
        for item in response.output:
            kept = item.model_dump(exclude_none=True)
            kept.pop("content" if item.type == "reasoning" else "logprobs", None)  # as clients that keep the packed one
            back.append(kept)
        client.responses.create(model="scripted", input=[*back, {"role": "user", "content": "Sure?"}], store=False)
    assert engine.requests[1].messages[1] == {"role": "assistant", "reasoning_content": "Hm, well.", "content": "Yes."}
    if is_stream:
        assert kinds(events)[2:7] == [
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
        ]


def test_an_answer_of_nothing_is_an_empty_text(serve, http):
    client = http(serve(Scripted()))
    response = client.post("/v1/responses", json={"input": "x"}).json()
    assert [part["text"] for item in response["output"] for part in item["content"]] == [""]
    streamed = client.post("/v1/responses", json={"input": "x", "stream": True}).text
    assert streamed.count("event: response.content_part.added\n") == 1


def test_a_stream_that_fails_ends_in_response_failed(serve, http):
    error = GenerationError("It broke.")
    client = http(serve(Scripted(Delta("Yes"), error=error)))
    streamed = client.post("/v1/responses", json={"input": "x", "stream": True}).text
    last = json.loads(streamed.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": error.message}
    assert last["sequence_number"] == streamed.count("event: ") - 1
    error_of(client.post("/v1/responses", json={"input": "x"}), 500)
    error_of(client.get(f"/v1/responses/{last['response']['id']}"), 404)


REFUSED = [
    ("input", {"input": None}),
    ("input", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
    ("input.0.content.0.type", {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "x"}]}]}),
    ("input.0.content.0.type", {"input": [{"role": "user", "content": [{"type": "input_file", "text": "x"}]}]}),
    ("input.0.content.0.image_url", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
    ("input.0.type", {"input": [{"type": "computer_call_output", "call_id": "x", "output": "y"}]}),
    ("input.0.call_id", {"input": [{"type": "function_call_output", "output": "y"}]}),
    ("input.0.arguments", {"input": [{"role": "user", "content": "x", "arguments": "{}"}]}),
    ("input", {"input": []}),
    ("tools.0.type", {"tools": [{"type": "web_search"}]}),
    ("tools.0.type", {"tools": [{"type": "custom", "name": "x"}]}),
    ("tools.0.name", {"tools": [{"type": "function"}]}),
    ("tools.0.tools", {"tools": [{"type": "namespace", "name": "x"}]}),
    ("tools.0.tools.0.type", {"tools": [{"type": "namespace", "name": "x", "tools": [{"type": "custom"}]}]}),
    ("tools.0.tools", {"tools": [{**WEATHER, "tools": []}]}),
    ("tool_choice", {"tool_choice": {"type": "web_search_preview"}, "tools": [WEATHER]}),
    ("tool_choice", {"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("conversation", {"conversation": "conv_1"}),
    ("prompt", {"prompt": {"id": "x"}}),
    ("moderation", {"moderation": {"model": "x"}}),
    ("context_management", {"context_management": [{"type": "compaction"}]}),
    ("include.0", {"include": ["everything"]}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("text.verbosity", {"text": {"verbosity": "low"}}),
    ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
    ("reasoning.effort", {"reasoning": {"effort": "high"}}),
    ("reasoning.summary", {"reasoning": {"summary": "concise"}}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("temperature", {"temperature": 3}),
    ("stream_options", {"stream_options": {"include_obfuscation": False}}),
    ("background", {"background": True, "store": False}),
    ("max_tokens", {"max_tokens": 5}),
    ("metadata", {"metadata": {"a": "b" * 513}}),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED, ids=[f"{param}-{i}" for i, (param, _) in enumerate(REFUSED)])
def test_what_is_refused_is_named(post, param, fields):
    error = error_of(post(**fields), 400)
    assert error["param"] == param
    assert param.rpartition(".")[2].isdigit() or param.split(".")[-1] in error["message"]


NOTHING = [
    {"context_management": []},
    {"image": {"context_compression": "auto"}},
    {"include": ["message.input_image.image_url", "web_search_call.action.sources"]},
    {"max_tool_calls": 3},
    {"parallel_tool_calls": True},
    {"prompt_cache_key": "x", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}},
    {"reasoning": {"effort": "none", "summary": "auto", "generate_summary": "auto", "context": "auto"}},
    {"safety_identifier": "x", "user": "y", "service_tier": "flex"},
    {"stream_options": {}},
    {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
    {"tools": [], "tool_choice": "auto", "truncation": "auto"},
    {"conversation": None, "prompt": None, "moderation": None, "previous_response_id": None},
]


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_what_asks_for_nothing_changes_nothing(post, fields):
    plain, other = (post(temperature=0, **more).json() for more in ({}, fields))
    assert other["output"][0]["content"] == plain["output"][0]["content"]
    assert other["service_tier"] == "default"


def test_a_prompt_over_the_context_is_refused_in_this_apis_words(post):
    error = error_of(post(input="word " * 4000), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert "messages" not in error["message"]


class Counting(Recorder):
    """Counts the words of all messages, where the mock takes the last one for the prompt."""

    def generate(self, request):
        if sum(len(message["content"].split()) for message in request.messages) >= self.info.context_length:
            raise ContextLengthError("It is too long.", param="messages")
        return super().generate(request)

    async def tokenize_chat(self, request):
        return [0 for message in request.messages for _ in message["content"].split()]


def test_truncation_forgets_the_oldest_messages_and_keeps_the_first_instruction(serve, http):
    engine = Counting(context_length=12)
    client = http(serve(engine))
    said = [{"role": role, "content": f"{role} {i}"} for i in range(8) for role in ("user", "assistant")]
    body = {"instructions": "be brief", "input": [*said, {"role": "user", "content": "last one"}]}
    error_of(client.post("/v1/responses", json=body), 400)
    assert client.post("/v1/responses", json={**body, "truncation": "auto"}).status_code == 200
    kept = [message["content"] for message in engine.requests[-1].messages]
    assert kept == ["be brief", "assistant 6", "user 7", "assistant 7", "last one"]


def test_tokens_are_counted_as_the_prompt_has_them(client):
    fields = {"input": FRANCE, "instructions": "Be brief.", "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(model="pocket", **fields)
    assert counted.input_tokens == ask(client, **fields).usage.input_tokens


def test_what_openai_has_beside_this_is_404_with_a_sentence(pocket_server, http):
    client = http(pocket_server)
    for path in ("/v1/responses/compact", "/v1/responses/anything"):
        error = error_of(client.post(path, json={"model": "pocket"}), 404)
        assert path in error["message"]
