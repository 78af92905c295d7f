"""The session API against a live server: formats to the byte, codes, keys, fields."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError, StoreError
from llmapi_kit.sessions import locks

from .conftest import KEY, serving
from .session_client import SessionClient

pytestmark = pytest.mark.slow

OTHER_KEY = "sk-llmapi-other-0123456789abcdef"
ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home"), MockEngine()) as made:
        yield made


@pytest.fixture
def api(server):
    """A client of the server that most tests share."""
    client = SessionClient(server)
    yield client
    client.http.close()


@pytest.fixture
def stranger(server):
    """A client of it without a key."""
    client = SessionClient(server, None)
    yield client
    client.http.close()


@pytest.fixture
def client(serve):
    """`client(engines…, settings…)`: a client of a server of its own, at `.server`."""
    made = []

    def make(*engines, apikey=KEY, **settings):
        server = serve(*engines, **settings)
        made.append(SessionClient(server, apikey))
        made[-1].server = server
        return made[-1]

    yield make
    for each in made:
        each.http.close()


def test_the_examples_of_the_protocol_to_the_byte(api):
    started = api.http.post(
        "/v1/chat/start",
        content=f'{{"apikey": "{KEY}", "bot_type": "mock", "settings": {{"system": "…", "model": "…"}}}}',
    )
    session = started.json()["session"]
    assert started.status_code == 200
    assert started.content == f'{{"code": 0, "msg": "Success", "session": "{session}"}}'.encode()
    asked = api.http.post(
        "/v1/chat/ask", content=json.dumps({"apikey": KEY, "session": session, "content": "hello", "timeout": 30})
    )
    assert re.fullmatch(
        rb'\{"code": 0, "msg": "Success", "reply": "Text mock reply for your prompt:hello", "timestamp": \d+\.\d+\}',
        asked.content,
    )
    ended = api.post("end", {"session": session})
    assert ended.content == b'{"code": 0, "msg": "Success"}'
    assert {each.headers["content-type"] for each in (started, asked, ended)} == {"application/json"}
    assert ended.headers["x-request-id"].startswith("req_")


def test_a_stream_is_pieces_then_the_whole_answer_then_done(api):
    session = api.start()
    *pieces, whole, done = api.stream(session, 'hello "you"\u2028')
    assert {tuple(piece) for piece in pieces} == {("code", "msg", "session", "delta")}
    assert {(piece["code"], piece["msg"], piece["session"]) for piece in pieces} == {(0, "Success", session)}
    assert list(whole) == ["code", "msg", "reply", "timestamp"]
    assert whole["reply"] == "".join(piece["delta"] for piece in pieces)
    assert whole["reply"] == 'Text mock reply for your prompt:hello "you"\u2028'
    assert len(pieces) > 3
    assert done == "[DONE]"


def test_a_vector_and_a_picture_are_texts_too(api):
    vector = json.loads(api.ask(api.start("gpt-embedding"), "a text")["reply"])
    usual = api.http.post("/v1/embeddings", json={"input": "a text"}, headers={"Authorization": f"Bearer {KEY}"})
    assert vector == pytest.approx(usual.json()["data"][0]["embedding"])
    assert api.ask(api.start("dall-e", size="32x32"), "a cat")["reply"].startswith("data:image/png;base64,iVBOR")
    *pieces, whole, _ = api.stream(api.start("gpt-embedding"), "a text")
    assert (pieces, json.loads(whole["reply"])) == ([], vector)


WRONG_BODIES = [
    ("start", {}, "bot_type is missing"),
    ("start", {"bot_type": 5}, "bot_type"),
    ("start", {"bot_type": "mock", "settings": []}, "settings"),
    ("start", {"bot_type": "mock", "setings": {}}, "setings is not supported"),
    ("start", {"bot_type": "mock", "settings": {"temprature": 1}}, "settings.temprature is not a setting"),
    ("start", {"bot_type": "chatgpt", "settings": {"model": "gpt-4"}}, "settings.model: The model 'gpt-4' is not"),
    ("start", {"bot_type": "chatgpt", "settings": {"top_p": 7}}, "settings.top_p is 7"),
    ("start", {"bot_type": "dall-e", "settings": {"size": "big"}}, "settings.size"),
    ("ask", {"content": "x"}, "session is missing"),
    ("ask", {"session": ID}, "content is missing"),
    ("ask", {"session": ID, "content": None}, "content"),
    ("ask", {"session": ID, "content": ["x"]}, "content"),
    ("ask", {"session": ID, "content": "x", "timeout": 4.9}, "timeout"),
    ("ask", {"session": ID, "content": "x", "timeout": 121}, "timeout"),
    ("ask", {"session": ID, "content": "x", "timeout": "30"}, "timeout"),
    ("ask", {"session": ID, "content": "x", "timeout": True}, "timeout"),
    ("ask", {"session": ID, "content": "x", "stream": "yes"}, "stream"),
    ("ask", {"session": ID, "content": "x", "temperature": 0}, "temperature is not supported"),
    ("end", {}, "session is missing"),
    ("end", {"session": 5}, "session"),
    ("end", {"session": ID, "bot_key": "sk-secret"}, "bot_key is not supported"),
]


@pytest.mark.parametrize(("call", "body", "why"), WRONG_BODIES)
def test_a_wrong_field_is_code_3_and_named(api, call, body, why):
    response = api.post(call, body)
    assert response.status_code == 200
    assert list(response.json()) == ["code", "msg"]
    assert response.json()["code"] == -3
    assert response.json()["msg"].startswith("Request params not valid: ")
    assert why in response.json()["msg"]
    assert "sk-secret" not in response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"5", b"null", b'{"bot_type": NaN}', b"[" * 1000, b'"\xff"', b'{"a": "\\ud800"}']
)
def test_what_is_no_json_object_is_code_3(api, body):
    headers = {"Authorization": f"Bearer {KEY}"}
    for more in ({}, {"Content-Type": "application/json"}):
        response = api.http.post("/v1/chat/start", content=body, headers={**headers, **more})
        assert (response.status_code, response.json()["code"]) == (200, -3)


def test_a_body_over_the_limit_is_code_3_or_a_missing_key(client):
    api = client(max_body_bytes=2000)
    response = api.http.post("/v1/chat/start", content=b" " * 3000, headers={"Authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.json()["code"]) == (200, -3)
    assert "2,000 bytes" in response.json()["msg"]
    assert api.post("start", {"bot_type": "m" * 3000}).status_code == 401


def test_json_may_be_called_plain_text(api):
    assert api.post("start", {"bot_type": "mock"}, headers={"Content-Type": "text/plain"}).json()["code"] == 0


@pytest.mark.parametrize("call", ["start", "ask", "end"])
@pytest.mark.parametrize(
    ("content", "headers", "problem"),
    [
        (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, "without Content-Encoding"),
        (b"bot_type=mock", {"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type: application/json"),
    ],
    ids=["gzip", "form"],
)
def test_what_can_not_be_read_is_code_3_and_says_why(api, call, content, headers, problem):
    headers = {"Authorization": f"Bearer {KEY}", **headers}
    response = api.http.post(f"/v1/chat/{call}", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (200, -3)
    assert problem in response.json()["msg"]


def test_a_stranger_does_not_have_the_server_parse_what_he_sends(api, monkeypatch):
    def parse(*_):
        raise AssertionError("it was parsed")

    monkeypatch.setattr("llmapi_kit.api.routes.parse_json", parse)
    for body in (b"[" * 100_000, b'{"apikey": "wrong", "a": ' + b"[{}," * 100_000, b'{"apikey": "\\ud83d"}'):
        assert api.http.post("/v1/chat/start", content=body).status_code == 401


@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {"api-key": KEY}])
def test_the_key_may_stand_in_the_header_of_other_apis(api, headers):
    response = api.http.post("/v1/chat/start", json={"bot_type": "mock"}, headers=headers)
    assert response.json()["code"] == 0


def test_a_header_for_the_key_decides_before_the_body(api):
    body = {"bot_type": "mock", "apikey": KEY}
    assert api.http.post("/v1/chat/start", json=body, headers={"x-api-key": "wrong"}).status_code == 401
    assert api.http.post("/v1/chat/start", json=body).json()["code"] == 0


def test_a_key_in_the_body_may_be_escaped_and_is_none_inside_of_something_else(api):
    key = KEY.replace("k", "\\u006b")
    escaped = f'{{"bot_type": "mock", "apikey" :\n"{key}"}}'
    assert api.http.post("/v1/chat/start", content=escaped).json()["code"] == 0
    inside = {"bot_type": "mock", "settings": {"apikey": KEY}}
    assert api.http.post("/v1/chat/start", json=inside).status_code == 401


def test_fields_that_older_clients_send_for_nothing_are_taken(api):
    old = {"token": "", "bot_key": "", "timestamp": "2023-03-08 12:00:00"}
    assert api.post("start", {"bot_type": "mock", **old}).json()["code"] == 0


@pytest.mark.parametrize(
    ("bot_type", "code", "msg"),
    [
        ("gpt-5", -5, "Bot type invalid: There is no bot 'gpt-5' here"),
        ("newbing", -2, "Failed: The unofficial API of New Bing is retired"),
        ("welm", -2, "Failed: The bot 'welm' needs a model of 'welm'"),
    ],
)
def test_bots_that_can_not_answer_have_their_codes(api, bot_type, code, msg):
    answer = api.post("start", {"bot_type": bot_type}).json()
    assert answer["code"] == code
    assert answer["msg"].startswith(msg)


@pytest.mark.parametrize("session", [ID, "", "x" * 5000, "' OR 1=1 --", "a\u0000b", "…"])
def test_an_unknown_session_is_code_4(api, session):
    for answer in (api.ask(session, "x"), api.end(session)):
        assert answer["code"] == -4
        assert answer["msg"].startswith("Session invalid: ")
    response = api.post("ask", {"session": session, "content": "x", "stream": True})
    assert (response.headers["content-type"], response.json()["code"]) == ("application/json", -4)


def test_a_session_is_gone_once_it_was_ended(api):
    session = api.start()
    assert api.end(session)["code"] == 0
    assert [api.end(session)["code"], api.ask(session, "x")["code"]] == [-4, -4]


def test_what_fails_inside_is_code_1_and_tells_nothing(client):
    api = client()

    async def broken(*args):
        raise StoreError("the disk of /home/someone is full")

    api.server._state.store.sessions.create = broken
    answer = api.post("start", {"bot_type": "mock"}).json()
    assert answer == {
        "code": -1,
        "msg": "Internal error: the database does not answer; the server's log has the details.",
    }
    assert "/home/someone" in "".join(api.server.logs())

    async def bug(*args):
        raise ZeroDivisionError("secret")

    api.server._state.store.sessions.create = bug
    response = api.post("start", {"bot_type": "mock"})
    assert (response.status_code, response.json()["code"]) == (200, -1)
    assert "secret" not in response.text


class Breaking(MockEngine):
    """Says one word and breaks."""

    async def generate(self, request):
        async for event in super().generate(request):
            yield event
            if getattr(event, "text", ""):
                raise ZeroDivisionError("secret")


def test_a_stream_that_fails_ends_with_the_code(client):
    api = client(Breaking("one two"))
    *pieces, failure = api.stream(api.start("chatgpt"), "x")
    assert [piece["delta"] for piece in pieces] == ["one"]
    assert list(failure) == ["code", "msg"]
    assert failure["code"] == -1
    assert "secret" not in failure["msg"]


def test_a_word_filter_answers_with_its_notice_also_in_a_stream(client):
    words = {"step": "words", "words": ["two"], "notice": "no"}
    api = client(MockEngine("one two three"), bots={"chatgpt": {"post": [words]}, "mock": {"pre": [words]}})
    session, mock = api.start("chatgpt"), api.start("mock")
    assert api.ask(mock, "one Two")["reply"] == "no"
    assert api.ask(session, "x")["reply"] == "no"
    *pieces, whole, done = api.stream(session, "x")
    assert ("".join(piece["delta"] for piece in pieces), whole["reply"], done) == ("one ", "no", "[DONE]")


def test_the_key_comes_as_a_header_or_in_the_body(stranger):
    body = {"bot_type": "mock"}
    assert stranger.post("start", body, headers={"Authorization": f"Bearer {KEY}"}).json()["code"] == 0
    assert stranger.post("start", {**body, "apikey": KEY}).json()["code"] == 0
    assert (
        stranger.post("start", {**body, "apikey": None}, headers={"Authorization": f"Bearer {KEY}"}).json()["code"] == 0
    )


@pytest.mark.parametrize("call", ["start", "ask", "end"])
@pytest.mark.parametrize("body", [{}, {"apikey": OTHER_KEY}, {"apikey": ""}, {"apikey": 5}, {"apikey": "kéy…"}])
def test_a_missing_or_wrong_key_is_a_401_in_both_shapes(stranger, call, body):
    response = stranger.post(call, {"bot_type": "mock", "session": ID, "content": "x", **body})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    answer = response.json()
    assert list(answer) == ["code", "msg", "error"]
    assert answer["code"] == -2
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["code"] == "invalid_api_key"
    assert OTHER_KEY not in response.text


def test_a_wrong_header_is_not_mended_by_the_body(api):
    assert api.post("start", {"bot_type": "mock"}, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_strangers_learn_of_no_other_mistake_than_the_key(stranger):
    for body in (b"{", b"[1]", b"[" * 1000, b""):
        response = stranger.http.post("/v1/chat/start", content=body)
        assert response.status_code == 401
        assert "No API key was sent" in response.json()["msg"]


def test_keys_stand_in_no_log(client):
    api = client(apikey=None)
    api.post("start", {"bot_type": "mock", "apikey": OTHER_KEY})
    api.post("start", {"bot_type": "chatgpt", "apikey": KEY, "settings": {"model": "x"}})
    logs = "".join(api.server.logs(1000))
    assert OTHER_KEY not in logs
    assert KEY not in logs


def test_a_server_that_stops_takes_nothing_new(client):
    api = client()
    session = api.start()
    api.server._state.is_draining = True
    answer = api.ask(session, "x")
    assert answer["code"] == -2
    assert "stopping" in answer["msg"]


def test_too_many_in_line_are_told_to_come_back(client, monkeypatch):
    monkeypatch.setattr(locks, "MAX_WAITING", 0)
    api = client()
    assert api.ask(api.start(), "x")["msg"].startswith("Failed: 0 asks wait in this session")


def test_too_many_sessions_are_refused_until_one_ends(client):
    api = client(max_sessions=2)
    first, _ = api.start(), api.start()
    answer = api.post("start", {"bot_type": "mock"}).json()
    assert answer["code"] == -2
    assert "2 sessions" in answer["msg"]
    api.end(first)
    api.start()


def test_a_text_that_no_database_takes_is_code_3(api):
    answer = api.ask(api.start(), "a\0b")
    assert answer["code"] == -3
    assert "U+0000" in answer["msg"]


def test_an_api_that_is_off_is_not_there(client):
    api = client(compat="glm")
    assert api.post("start", {"bot_type": "mock"}).status_code == 404


def test_a_bot_that_can_not_be_keeps_the_server_from_starting(serve):
    with pytest.raises(ConfigError, match="'tutor' has 'modle'"):
        serve(bots={"tutor": {"modle": "x"}})


def test_usage_counts_what_sessions_used(client):
    api = client()
    api.ask(api.start("chatgpt"), "one two three")
    api.ask(api.start("gpt-embedding"), "one two")
    [row] = api.server.usage()
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"], row["embedding_tokens"]) == (2, 3, 3, 2)
