"""Bodies that lie about their length, are no JSON, or have room for a million mistakes: refused, and cheaply."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.api import routes as api_routes
from llmapi_kit.api.routes import BodyKeyedRoute
from llmapi_kit.api.strict_json import _depth, parse_json
from llmapi_kit.errors import InvalidRequestError

from .conftest import CHAT, KEY, chat, connect, exchange, request_bytes, serving
from .routes import WITH_BODY, body_model, is_refused, name_of, path_of

pytestmark = pytest.mark.slow

MAX_BYTES = 5000  # above what routes for strangers take
HOSTILE = {
    "100k open arrays": b"[" * 100_000,
    "100k open objects": b'{"a":' * 100_000,
    "a number of 10^5 digits": b'{"seed": ' + b"9" * 100_000 + b"}",
    "NaN": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "1e999": b'{"temperature": 1e999}',
    "an infinity of digits": b'{"temperature": ' + b"9" * 290 + b"e20}",
    "half a surrogate pair": b'{"prompt": "\\ud800"}',
    "a string without an end": b'"' + b'\\"[' * 100_000,
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A server that takes small bodies only."""
    with serving(tmp_path_factory.mktemp("home"), max_body_bytes=MAX_BYTES) as made:
        yield made


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused_on_every_route(client, route, body):
    response = client.request(*call(route), content=body)
    assert is_refused(response), response.text


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
def test_a_body_without_a_length_is_counted_as_it_comes(narrow, route):
    method, path = call(route)
    chunks = b"400\r\n" + b" " * 0x400 + b"\r\n"
    more = ["Transfer-Encoding: chunked"]
    _, answer = exchange(narrow, request_bytes(method, path, more=more, body=chunks * 100))
    assert b"The body is larger than " in answer


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
@pytest.mark.parametrize("declared", [10**12, 2**63 - 1])
def test_a_length_that_was_declared_is_not_believed(narrow, route, declared):
    method, path = call(route)
    request = request_bytes(method, path, more=[f"Content-Length: {declared}"], body=b" " * (MAX_BYTES + 1))
    _, answer = exchange(narrow, request)
    assert b"The body is larger than " in answer


def test_what_follows_a_body_of_a_declared_length_is_not_part_of_it(narrow):
    body = json.dumps(chat("hi")).encode()
    status, answer = exchange(
        narrow, request_bytes("POST", CHAT, more=[f"Content-Length: {len(body)}"], body=body + b'{"n": 2}')
    )
    assert status == 200
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "framing",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5, 5",),
        ("Content-Length: 1 0",),
        ("Content-Length: 99999999999999999999",),
    ],
    ids=" and ".join,
)
def test_a_length_that_could_be_read_in_two_ways_is_a_400(narrow, framing):
    """A proxy in front that reads it the other way would take what follows for another client's request."""
    status, answer = exchange(narrow, request_bytes("POST", "/v1/completions", more=framing, body=b"hello"))
    assert status == 400
    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_follows_the_chunks_of_a_body_is_no_header(narrow):
    """A proxy that checks headers passes trailers on."""
    for key, trailer in (
        (None, f"Authorization: Bearer {KEY}"),
        (None, f"X-Api-Key: {KEY}"),
        (KEY, "Host: evil.example"),
    ):
        body = f"2\r\n{{}}\r\n0\r\n{trailer}\r\n\r\n".encode()
        more = ["Transfer-Encoding: chunked", f"Trailer: {trailer.partition(':')[0]}"]
        status, answer = exchange(narrow, request_bytes("POST", "/v1/completions", key=key, more=more, body=body))
        assert status == (401 if key is None else 400)
        assert key is None or b"prompt is missing" in answer


def test_trailers_without_end_are_a_431(narrow):
    body = b"2\r\n{}\r\n0\r\n" + b"X: yyyyyyyy\r\n" * 2000 + b"\r\n"
    request = request_bytes("POST", "/v1/completions", more=["Transfer-Encoding: chunked"], body=body)
    assert exchange(narrow, request)[0] in (400, 431)


@pytest.mark.parametrize("route", [route for route in WITH_BODY if isinstance(route, BodyKeyedRoute)], ids=name_of)
def test_of_a_strangers_body_little_is_kept_even_where_the_key_may_be_in_it(client, stranger, route):
    """A thousand strangers could have had two megabytes kept for two minutes each."""
    key = f'"apikey": "{KEY}"'
    short, long = (f'{{{key}, "content": "{"x" * size}"}}' for size in (200_000, 300_000))
    assert stranger.request(*call(route), content=short).status_code == 200
    assert stranger.request(*call(route), content=long).status_code == 401
    assert client.request(*call(route), content=long).status_code == 200, "the key in a header is no stranger's"


@pytest.mark.parametrize("size", ["fffffffffffffffff", "-1", "0x1", "g", ""])
def test_a_chunk_of_no_size_is_a_400(narrow, size):
    request = request_bytes(
        "POST", "/v1/completions", more=["Transfer-Encoding: chunked"], body=f"{size}\r\n{{}}\r\n0\r\n\r\n".encode()
    )
    assert exchange(narrow, request)[0] == 400


@pytest.mark.parametrize("route", WITH_BODY, ids=name_of)
def test_lists_of_every_body_are_checked_up_to_their_first_fault(route):
    """Two megabytes of wrong list were a million errors, and held up every stream for seven seconds."""
    lists = list(list_schemas(body_model(route).__pydantic_core_schema__))
    assert all(schema.get("fail_fast") for schema in lists), "let the body's classes derive from StrictModel"


def list_schemas(schema):
    """The schemas of lists in a pydantic schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from list_schemas(part)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [1] * 200_000}, "messages.0"),
        ("/v1/completions", {"prompt": ["", 1] * 100_000}, "prompt"),
        ("/v1/embeddings", {"input": [{}] * 200_000}, "input"),
        (CHAT, chat(logit_bias={str(index): "x" for index in range(100_000)}), "logit_bias"),
        (CHAT, chat(store=True, metadata={str(index): 1 for index in range(100_000)}), "metadata"),
    ],
    ids=["messages", "prompt", "input", "logit_bias", "metadata"],
)
def test_a_body_full_of_mistakes_is_told_the_first(client, path, body, param):
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


def test_settings_nobody_knows_are_told_the_first(client):
    settings = {f"k{index}": 1 for index in range(100_000)}
    answer = client.post("/v1/chat/start", json={"bot_type": "mock", "settings": settings}).json()
    assert "settings.k0 is not a setting" in answer["msg"]


def test_a_long_body_is_parsed_beside_the_event_loop(client, monkeypatch):
    names = []

    def parse(body, max_depth):
        names.append(threading.current_thread().name)
        return parse_json(body, max_depth)

    monkeypatch.setattr(api_routes, "parse_json", parse)
    for text in ("short", "long " * 100_000):
        client.post("/tokenize", json={"prompt": text})
    short, long = names
    assert short.startswith("llmapi_kit server")
    assert not long.startswith("llmapi_kit server")


def test_texts_of_more_tokens_than_the_context_has_are_not_made_one_by_one(client):
    response = client.post("/tokenize", json={"prompt": "a " * 10_000, "return_token_strs": True})
    assert response.json()["error"]["param"] == "return_token_strs"


TEXTS = st.text(st.sampled_from('[]{}"\\a'), max_size=6)
VALUES = st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


@given(VALUES)
def test_depth_is_that_of_the_brackets_outside_of_strings(value):
    assert _depth(json.dumps(value).encode()) == depth_of(value)


def depth_of(value):
    """How deep a value is nested."""
    if isinstance(value, str):
        return 0
    return 1 + max((depth_of(part) for part in (value.values() if isinstance(value, dict) else value)), default=0)


@given(st.text(st.sampled_from('[{"\\]}a,:'), max_size=20))
def test_no_text_is_nested_deeper_for_the_parser_than_was_counted(text):
    """A backslash outside of a string misleads the count, and ends the parser's work."""
    body = (text + "[" * 500).encode()
    with pytest.raises(InvalidRequestError, match=r"not valid JSON|nested"):
        parse_json(body, max_depth=64)


@pytest.mark.parametrize("number", ["1e309", "-1E+309", "9" * 309, "9" * 300 + "e9", "9" * 20 + "e290", "1e0000999"])
def test_no_number_becomes_infinite(number):
    with pytest.raises(InvalidRequestError, match=r"too large|digits"):
        parse_json(f'{{"a": {number}}}'.encode(), max_depth=4)


@pytest.mark.parametrize("number", ["1e-999", "1e2", "0.5E1", "9" * 150, "-0.0"])
def test_numbers_that_can_be_are_taken(number):
    assert parse_json(f'{{"a": {number}}}'.encode(), max_depth=4) == {"a": json.loads(number)}


def test_the_server_goes_on_after_all_of_it(server):
    with connect(server) as client:
        assert client.post(CHAT, json=chat("still here")).status_code == 200
    assert KEY not in "\n".join(server.logs(500))


def call(route):
    """Method and path of a route that takes a body."""
    (method,) = route.methods
    return method, path_of(route)
