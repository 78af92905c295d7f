"""Answers that match: schemas, objects, patterns, choices, grammars and forced calls, on the pocket model over HTTP."""

from __future__ import annotations

import json
import re
import threading

import jsonschema
import openai
import pytest
from pydantic import BaseModel

pytestmark = pytest.mark.slow

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASKED = [{"role": "user", "content": "Give me a JSON object describing a person."}]
HELLO = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def server(pocket_server):
    return pocket_server


@pytest.fixture
def client(server):
    with server.client(max_retries=0) as made:
        yield made


@pytest.fixture
def create(client):
    """Asks the pocket model, as a hot one: what holds then, holds."""

    def ask(**body):
        body = {"model": "pocket", "messages": HELLO, "temperature": 1.5, "max_tokens": 300, **body}
        return client.chat.completions.create(**body)

    return ask


def answer_of(answer):
    """Text and calls of an answer, whole or streamed."""
    if not isinstance(answer, openai.Stream):
        message = answer.choices[0].message
        return message.content, message.tool_calls or []
    deltas = [chunk.choices[0].delta for chunk in answer]
    return "".join(delta.content or "" for delta in deltas), [c for d in deltas for c in d.tool_calls or [] if c.id]


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_matches_its_schema_whole_and_streamed(create, seed):
    body = {"messages": ASKED, "response_format": json_schema(PERSON), "seed": seed}
    whole = create(**body).choices[0]
    jsonschema.validate(json.loads(whole.message.content), PERSON)
    assert whole.finish_reason == "stop"
    pieces = [chunk.choices[0].delta.content or "" for chunk in create(**body, stream=True)]
    assert "".join(pieces) == whole.message.content
    assert len(pieces) >= 3  # its start, what it says in as many pieces as the machine gives, and its end


def test_each_of_several_answers_matches_by_itself(create):
    answers = create(response_format=json_schema(PERSON), n=4, seed=3).choices
    texts = [answer.message.content for answer in answers]
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert len(set(texts)) > 1


def test_json_object_is_an_object(create):
    assert isinstance(
        json.loads(
            create(messages=ASKED, response_format={"type": "json_object"}, temperature=0).choices[0].message.content
        ),
        dict,
    )


@pytest.mark.parametrize(
    ("field", "value", "pattern"),
    [
        ("guided_regex", "[0-9]{2}:[0-9]{2}", "[0-9]{2}:[0-9]{2}"),
        ("guided_choice", ["yes", "no", "per.aps"], "yes|no|per\\.aps"),
        ("guided_grammar", 'start: "a" (" b" | " c")', "a (b|c)"),
        ("guided_json", {"type": "integer", "minimum": 7, "maximum": 9}, "[789]"),
    ],
)
def test_guided_fields_hold_in_chat_and_completions(client, create, field, value, pattern):
    for seed in range(3):
        assert re.fullmatch(pattern, create(seed=seed, extra_body={field: value}).choices[0].message.content)
        completion = client.completions.create(
            model="pocket", prompt="The sun", max_tokens=20, seed=seed, temperature=1.5, extra_body={field: value}
        )
        assert re.fullmatch(pattern, completion.choices[0].text)


def test_what_runs_beside_a_constrained_answer_does_not_change(client, create):
    story = [{"role": "user", "content": "Tell me a story about a cat."}]
    free = {"model": "pocket", "messages": story, "temperature": 0, "max_tokens": 80}
    alone = client.chat.completions.create(**free).choices[0].message.content
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(client.chat.completions.create(**free).choices[0].message.content))
        for _ in range(3)
    ]
    threads += [threading.Thread(target=create, kwargs={"response_format": json_schema(PERSON)}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [alone] * 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": json_schema({"type": "string", "minLength": 5, "maxLength": 2})}, "response_format"),
        ({"response_format": json_schema({"type": "no such type"})}, "response_format"),
        ({"response_format": json_schema({"$ref": "https://example.com/schema.json"})}, "response_format"),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
        ({"extra_body": {"guided_choice": []}}, "guided_choice"),
        ({"extra_body": {"guided_grammar": "start: nowhere"}}, "guided_grammar"),
    ],
)
def test_a_grammar_that_can_not_be_fails_its_own_request_by_name(create, body, param):
    with pytest.raises(openai.BadRequestError) as caught:
        create(**body)
    assert caught.value.param == param
    assert create(messages=ASKED).choices[0].message.content


@pytest.mark.parametrize("seed", range(4))
def test_a_forced_call_follows_its_schema_even_where_it_makes_no_sense(create, seed):
    forced = {"type": "function", "function": {"name": "get_weather"}}
    answer = create(tools=[TIME, WEATHER], tool_choice=forced, seed=seed).choices[0]
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_one_of_the_tools_and_streams_the_same(create, seed):
    body = {"tools": [TIME, WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "seed": seed}
    (call,) = create(**body).choices[0].message.tool_calls
    names = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (TIME, WEATHER)}
    jsonschema.validate(json.loads(call.function.arguments), names[call.function.name])
    deltas = [d for chunk in create(**body, stream=True) for d in chunk.choices[0].delta.tool_calls or []]
    assert [d.function.name for d in deltas if d.id] == [call.function.name]
    assert "".join(d.function.arguments or "" for d in deltas) == call.function.arguments


def test_a_strict_function_is_followed_where_the_call_is_free(create):
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = create(messages=question, tools=[strict], temperature=0).choices[0]
    (call,) = answer.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert create(messages=HELLO, tools=[strict], temperature=0).choices[0].message.tool_calls is None


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_beside_tools_it_may_call_an_answer_is_a_call_or_follows_the_schema(create, seed, is_stream):
    body = {"tools": [WEATHER, TIME], "response_format": json_schema(PERSON), "seed": seed}
    text, calls = answer_of(create(**body, stream=is_stream))
    if calls:
        assert not text
    else:
        jsonschema.validate(json.loads(text), PERSON)


def test_a_model_with_tools_and_a_schema_calls_where_it_should_and_answers_where_it_should(create):
    body = {"tools": [WEATHER], "response_format": json_schema(PERSON), "temperature": 0}
    text, calls = answer_of(create(**body, messages=[{"role": "user", "content": "What is the weather in Paris?"}]))
    assert (text, [call.function.name for call in calls]) == (None, ["get_weather"])
    text, calls = answer_of(create(**body, messages=ASKED))
    assert (json.loads(text), calls) == ({"name": "Ada", "age": 36}, [])


@pytest.mark.parametrize(
    ("outputs", "beginning"),
    [
        ({"json": PERSON}, r'\{"name": ?"'),
        ({"json": json.dumps(PERSON)}, r'\{"name": ?"'),
        ({"regex": "[a-c]{3}"}, r"[a-c]{3}$"),
        ({"choice": ["red", "green"]}, "(red|green)$"),
        ({"grammar": 'start: "x" "y"+'}, r"xy+$"),
        ({"json_object": True}, r"\{"),
    ],
)
def test_structured_outputs_are_the_guided_fields(client, create, outputs, beginning):
    options = {"extra_body": {"structured_outputs": outputs, "guided_decoding_backend": "auto"}}
    for is_stream in (False, True):
        text, _ = answer_of(create(**options, stream=is_stream, seed=3, max_tokens=60))
        assert re.match(beginning, text)
    completion = client.completions.create(
        model="pocket", prompt="Hello", max_tokens=60, seed=3, temperature=1.5, **options
    )
    assert re.match(beginning, completion.choices[0].text)


OPEN = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}, "additionalProperties": False}


def test_strict_refuses_objects_that_are_left_open_and_says_where(create):
    with pytest.raises(openai.BadRequestError) as caught:
        create(response_format=json_schema(OPEN))
    assert caught.value.param == "response_format.json_schema.schema.properties.a"
    assert "additionalProperties" in caught.value.message
    strict = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    with pytest.raises(openai.BadRequestError) as caught:
        create(tools=[strict])
    assert caught.value.param == "tools.0.function.parameters"
    loose = json_schema(OPEN)
    loose["json_schema"]["strict"] = None
    assert create(response_format=loose, temperature=0, max_tokens=20).choices[0].message.content.startswith("{")


def test_parse_gives_an_object_of_the_class(client):
    class Person(BaseModel):
        name: str
        age: int

    answer = client.chat.completions.parse(model="pocket", messages=ASKED, response_format=Person, temperature=0)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)


def test_a_grammar_does_not_go_with_beams_or_another_grammar(create):
    for other in ({"num_beams": 2}, {"guided_regex": "a"}):
        with pytest.raises(openai.BadRequestError) as caught:
            create(response_format={"type": "json_object"}, temperature=0, extra_body=other)
        assert caught.value.param in ("response_format", "guided_regex")
