"""GET /chat-sse on a live server: what an EventSource gets, who may ask, and what a token is good for."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import types

import httpx
import pytest

from llmapi_kit.api import auth
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import AuthenticationError

from .conftest import KEY, Gate, Recorder, chat, error_of, serving, wait_until

PATH = "/chat-sse"
QUESTION = "What is the capital of Italy?"


@pytest.fixture(scope="module")
def server(tmp_path_factory, pocket_engine):
    with serving(tmp_path_factory.mktemp("home"), MockEngine(), pocket_engine) as made:
        yield made


@pytest.fixture
def client(server, http):
    return http(server)


def token_of(client):
    return client.post(f"{PATH}/token").json()["token"]


@pytest.fixture
def ask(client):
    """Asks as an EventSource does: without the key."""
    token = token_of(client)
    client.headers.pop("authorization")
    return lambda headers=None, **query: client.get(PATH, params={"token": token, **query}, headers=headers)


def events(text):
    """(name, data) of each event, as a browser reads them; and the last event id."""
    found, last_id = [], ""
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        last_id = fields.get("id", last_id)
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found, last_id


def test_a_stream_is_what_an_eventsource_expects_to_the_letter(ask):
    response = ask(prompt="one two 三")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    (message_id,) = set(re.findall(r'"message_id":"([0-9a-f]+)"', response.text))
    expected = [
        f'id: {message_id}\ndata: {{"text":"{text}","message_id":"{message_id}"}}\n\n'
        for text in ("one", " two", " 三")
    ]
    expected.append(f'event: end\nid: {message_id}\ndata: {{"text":"","message_id":"{message_id}"}}\n\n')
    assert response.text == "".join(expected)


def test_without_a_stream_the_same_object_comes_once(ask):
    response = ask(prompt=QUESTION, stream="false", model="pocket", temperature="0")
    assert re.fullmatch(r'\{"text":"The capital of Italy is Rome\.","message_id":"[0-9a-f]+"\}', response.text)
    assert response.headers["cache-control"] == "no-store"


def test_the_pieces_of_a_real_model_are_its_answer(ask):
    found, _ = events(ask(prompt=QUESTION, model="pocket", temperature="0").text)
    assert "".join(data["text"] for _, data in found) == "The capital of Italy is Rome."
    assert [name for name, _ in found] == ["message"] * (len(found) - 1) + ["end"]


def test_an_eventsource_that_connects_again_is_told_to_stop(ask):
    _, last_id = events(ask(prompt="one").text)
    again = ask(prompt="one", headers={"Last-Event-ID": last_id})
    assert (again.status_code, again.content) == (204, b"")
    assert ask(prompt="one", headers={"Last-Event-ID": ""}).status_code == 200


def test_what_the_query_says_reaches_the_engine(serve, http):
    engine = Recorder()
    server = serve(engine)
    client = http(server)
    query = {
        "prompt": "a&b =+ä",
        "system": "Be brief.",
        "max_tokens": "7",
        "temperature": "0.5",
        "token": token_of(client),
    }
    assert client.get(PATH, params=query).status_code == 200
    (request,) = engine.requests
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a&b =+ä"}]
    assert (request.sampling.max_tokens, request.sampling.temperature) == (7, 0.5)
    assert request.cache_salt == server._state.key_check.key_id


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"prompt": "a", "top_p": "1"}, "top_p"),
        ({"prompt": "a", "key": "x"}, "key"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "a", "stream": ["true", "false"]}, "stream"),
        ({"prompt": "a", "temperature": "3"}, "temperature"),
        ({"prompt": "a", "temperature": "nan"}, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "max_tokens": "0"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "1.5"}, "max_tokens"),
        ({"prompt": "a", "stream": "perhaps"}, "stream"),
        ({}, "prompt"),
        ({"prompt": "word " * 9000}, "prompt"),
        ({"prompt": "a", "model": "gpt-4"}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_before_the_stream_are_json_and_name_the_field(ask, query, param):
    response = ask(**query)
    assert response.headers["content-type"] == "application/json"
    assert error_of(response, 404 if param == "model" else 400)["param"] == param


def test_a_stream_that_fails_says_so_by_name_and_ends(serve, http, local_engine):
    def die(items):
        if len(engine.test_runner.steps) == 4:
            raise RuntimeError("out of luck")

    engine = local_engine(before_step=die)
    client = http(serve(engine))
    found, _ = events(client.get(PATH, params={"prompt": "a b c", "temperature": 0, "token": token_of(client)}).text)
    names = [name for name, _ in found]
    assert names == ["message"] * (len(names) - 2) + ["failed", "end"]
    assert "error" not in names, "an EventSource has an event of that name itself"
    assert "out of luck" in found[-2][1]["error"]["message"]


def test_an_eventsource_that_is_closed_stops_the_model(serve, http, local_engine):
    gate = Gate()
    engine = local_engine(max_length=100_000, before_step=lambda items: engine.test_runner.steps and gate(items))
    server = serve(engine)
    client = http(server)
    query = {"prompt": "a b c", "temperature": 0, "token": token_of(client)}  # a drawn token could end it
    with client.stream("GET", PATH, params=query) as response:
        assert next(response.iter_lines()).startswith("id: ")
        assert gate.entered.wait(60)
    gate.open()
    wait_until(lambda: engine.stats().num_cancelled == 1 and not server._state.active)


@pytest.mark.slow
def test_one_that_reads_nothing_is_dropped(serve, http):
    engine = MockEngine("word", num_tokens=200_000, context_length=1_000_000)
    server = serve(engine, stalled_reader_s=0.2)
    token = token_of(http(server))
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(f"GET {PATH}?prompt=a&token={token} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: engine.stats().num_running == 1)
        wait_until(lambda: engine.stats().num_cancelled == 1 and not server._state.active)


@pytest.mark.slow
def test_100_at_once_each_get_their_own_answer(server, http):
    token = token_of(http(server))

    async def main():
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
            queries = [{"prompt": f"question {index} 你好 🙂", "token": token} for index in range(100)]
            return await asyncio.gather(*(client.get(PATH, params=query) for query in queries))

    responses = [events(response.text) for response in asyncio.run(main())]
    assert ["".join(data["text"] for _, data in found) for found, _ in responses] == [
        f"question {index} 你好 🙂" for index in range(100)
    ]
    assert len({last_id for _, last_id in responses}) == 100


@pytest.mark.parametrize("model", ["mock", "pocket"])
def test_an_empty_prompt_is_answered(ask, model):
    found, _ = events(ask(prompt="", model=model, max_tokens=3).text)
    assert found[-1][0] == "end"


def send_raw(server, target):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        return int(raw.makefile("rb").readline().split()[1])


def test_a_query_larger_than_a_body_may_be_is_refused(serve, http):
    server = serve(max_body_bytes=2000)
    token = token_of(http(server))
    assert send_raw(server, f"{PATH}?stream=false&token={token}&prompt={'a' * 1000}") == 200
    assert send_raw(server, f"{PATH}?stream=false&token={token}&prompt={'a' * 3000}") == 413


@pytest.mark.parametrize("prompt", ["%ff%fe", "%", "%zz", "\xff", "%00", "a%0d%0adata:%20x"])
def test_odd_bytes_in_a_query_break_nothing(server, http, prompt):
    token = token_of(http(server))
    assert send_raw(server, f"{PATH}?stream=false&token={token}&prompt={prompt}") in (200, 400)


def test_line_breaks_in_an_answer_stay_inside_their_event(serve, http):
    text = "a\n\nevent: end\r\ndata: {}\u2028b"
    client = http(serve(MockEngine(text)))
    found, _ = events(client.get(PATH, params={"prompt": "x", "token": token_of(client)}).text)
    assert "".join(data["text"] for _, data in found) == text


# Tokens


def test_a_token_takes_the_key_and_says_how_long_it_is_good(serve, http):
    server = serve(event_token_s=42)
    response = http(server).post(f"{PATH}/token")
    assert response.json() == {"token": response.json()["token"], "expires_in": 42}
    assert response.headers["cache-control"] == "no-store"
    assert KEY not in response.text
    assert server._state.key_check.key_id not in response.text
    error_of(http(server, headers={"Authorization": "Bearer " + response.json()["token"]}).post(f"{PATH}/token"), 401)


def test_the_key_in_place_of_a_token_opens_nothing(client):
    for headers in ({"Authorization": ""}, {}):
        response = client.get(PATH, params={"prompt": "a", "token": KEY}, headers=headers)
        error_of(response, 401)
        assert KEY not in response.text


def test_a_token_opens_no_other_route(server, http):
    token = token_of(http(server))
    stranger = http(server, headers={"Authorization": f"Bearer {token}"})
    for method, path, body in [
        ("GET", "/v1/models", None),
        ("POST", "/v1/chat/completions", chat("hi")),
        ("POST", "/chat", {"prompt": "hi"}),
        ("GET", "/metrics", None),
    ]:
        error_of(stranger.request(method, path, json=body), 401)
        error_of(stranger.request(method, path, json=body, params={"token": token}, headers={"Authorization": ""}), 401)


def test_a_token_expires_and_no_letter_of_it_can_be_changed(monkeypatch):
    now = 1_800_000_000.0
    monkeypatch.setattr(auth, "time", types.SimpleNamespace(time=lambda: now))
    check = KeyCheck(KEY)
    token = check.new_token(300)
    check.check_token(token)
    for index, letter in enumerate(token):
        changed = token[:index] + ("0" if letter != "0" else "1") + token[index + 1 :]
        with pytest.raises(AuthenticationError, match="none of this server's"):
            check.check_token(changed)
    now += 299.9
    check.check_token(token)
    now += 0.1
    with pytest.raises(AuthenticationError, match="expired"):
        check.check_token(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "a.b",
        "99999999999",
        "99999999999.",
        ".99",
        "ä.ö",
        "\x00.\x00",
        "9" * 5000 + ".0",
        "1.2.3",
        "-1.0",
        "\udcff.",
    ],
    ids=lambda token: repr(token)[:20],
)
def test_what_is_no_token_is_refused(token):
    with pytest.raises(AuthenticationError):
        KeyCheck(KEY).check_token(token)


def test_every_server_with_the_key_knows_its_tokens_and_a_new_key_ends_them():
    token = KeyCheck(KEY).new_token(60)
    KeyCheck(KEY).check_token(token)
    with pytest.raises(AuthenticationError):
        KeyCheck(KEY + "x").check_token(token)


def test_a_server_without_a_key_asks_for_a_token_too_as_any_website_may_send_a_get():
    check = KeyCheck(None)
    check.check_token(check.new_token(60))
    for token in ("", KeyCheck(None).new_token(60), KeyCheck("").new_token(60)):
        with pytest.raises(AuthenticationError):
            check.check_token(token)


def test_neither_key_nor_token_stands_in_a_log(serve, http, caplog, local_engine):
    caplog.set_level(logging.DEBUG)

    def die(items):
        raise RuntimeError("out of luck")

    server = serve(MockEngine(), local_engine(before_step=die))
    client = http(server)
    token = token_of(client)
    logging.getLogger("httpx").disabled = logging.getLogger("httpcore").disabled = True  # the client's own
    try:
        statuses = [
            client.get(PATH, params={"prompt": "a", "token": token, **query}).status_code
            for query in ({}, {"x": "1"}, {"model": "fake"}, {"token": KEY}, {"model": "nobody"})
        ]
    finally:
        logging.getLogger("httpx").disabled = logging.getLogger("httpcore").disabled = False
    assert statuses[:2] == [200, 400]
    assert statuses[3:] == [401, 404]
    written = "\n".join(
        [
            *map(str, server.logs(10_000)),
            *(record.getMessage() for record in caplog.records if not record.name.startswith("http")),
        ]
    )
    assert "out of luck" in written, "something was logged"
    assert token not in written
    assert KEY not in written


def test_it_is_off_where_the_settings_say_so(serve, http):
    client = http(serve(compat="glm"))
    error_of(client.post(f"{PATH}/token"), 404)
    error_of(client.get(PATH, params={"prompt": "a"}), 404)
