"""`LLMClient` in both of its forms, against a live server."""

from __future__ import annotations

import gc
import json
import socket
import threading

import pytest

from llmapi_kit.client import LLMClient
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import (
    AuthenticationError,
    BotTypeError,
    ConfigError,
    InvalidRequestError,
    LlmApiKitError,
    ServerNotFoundError,
    SessionGoneError,
)
from tests.api.conftest import wait_until

from .conftest import KEY

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


class Recounting(MockEngine):
    """Replies with how many messages it saw and the last one."""

    async def generate(self, request):
        texts = [message["content"] for message in request.messages]
        async for event in MockEngine(f"{len(texts)}: {texts[0]} {texts[-1]}").generate(request):
            yield event


def num_sessions(server):
    """How many sessions the server has."""
    rows = server._store._database.run_sync(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM llmapi_kit_sessions").scalar()
    )
    return int(rows)


def test_the_newer_form_answers_a_question_with_a_text(serve):
    server = serve()
    with LLMClient(host=server.url, bot="mock") as client:
        assert client.ask("hello") == "Text mock reply for your prompt:hello"


def test_the_older_form_gives_codes(serve):
    server = serve(Recounting())
    client = LLMClient(server.url, "chatgpt", KEY, "be brief")
    assert client.ask("too early")[0] == -4
    assert client.start_session() is True
    assert client.ask("hello", 30) == (0, "2: be brief hello")
    assert client.ask("again", timeout=5) == (0, "4: be brief again")
    code, why = client.ask("x", timeout=500)
    assert (code, "timeout" in why) == (-3, True)
    assert client.end_session() is None
    assert client.ask("over")[0] == -4
    client.close()


@pytest.mark.parametrize("form", [{}, {"bot": "mock"}])
def test_without_a_host_it_finds_the_newest_server_of_this_machine_and_its_key(serve, form):
    server = serve()
    with LLMClient(**form) as client:
        assert client.start_session()
        assert "hello" in str(client.ask("hello"))
    assert num_sessions(server) == 0


def test_a_host_needs_no_scheme(serve):
    server = serve()
    with LLMClient(host=f"127.0.0.1:{server.port}", bot="mock") as client:
        assert client.ask("x")


def test_leaving_ends_the_session_and_beginning_anew_ends_the_one_before(serve):
    server = serve()
    with LLMClient(server.url, bot="mock") as client:
        client.ask("x")
        client.start_session()
        client.ask("x")
        assert num_sessions(server) == 1
    assert num_sessions(server) == 0


def test_the_newer_form_starts_again_where_a_session_has_expired(serve):
    server = serve(Recounting())
    with LLMClient(server.url, bot="chatgpt", system="s") as client, LLMClient(server.url, bot="mock") as other:
        assert client.ask("a") == "2: s a"
        assert client.ask("b") == "4: s b"
        for expire in (client, other):
            expire.session_id = "0" * 32
        assert client.ask("c") == "2: s c"
        assert "".join(other.stream("d")) == "Text mock reply for your prompt:d"


def test_settings_reach_the_session(serve):
    server = serve(MockEngine("one two three"))
    with LLMClient(server.url, bot="chatgpt", settings={"max_tokens": 2}) as client:
        assert client.ask("x") == "one two"


def test_a_stream_comes_in_pieces_in_both_forms(serve):
    server = serve()
    text = "hello\u2028there\x85 \n\n data: {you}"
    for client in (LLMClient(server.url, bot="mock"), LLMClient(server.url)):
        with client:
            pieces = list(client.stream(text))
            assert len(pieces) > 4
            assert "".join(pieces) == f"Text mock reply for your prompt:{text}"


def test_a_withdrawn_reply_ends_with_the_notice(serve):
    words = {"step": "words", "words": ["two"], "notice": "not here"}
    server = serve(MockEngine("one two three"), bots={"chatgpt": {"post": [words]}, "mock": {"pre": [words]}})
    with LLMClient(server.url, bot="chatgpt") as client, LLMClient(server.url, bot="mock") as mock:
        assert "".join(client.stream("x")) == "one \nnot here"
        assert list(mock.stream("two")) == ["not here"]


def test_a_stream_that_is_left_is_stopped(serve):
    engine = MockEngine(num_tokens=100_000, delay_s=0.005)
    server = serve(engine)
    with LLMClient(server.url, bot="chatgpt") as client:
        stream = client.stream("x")
        next(stream)
        stream.close()
        wait_until(lambda: engine.stats().num_running == 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"bot": "gpt-5"}, BotTypeError),
        ({"bot": "chatgpt", "settings": {"temprature": 1}}, InvalidRequestError),
        ({"bot": "newbing"}, LlmApiKitError),
        ({"bot": "mock", "apikey": "sk-llmapi-wrong-0123456789"}, AuthenticationError),
    ],
)
def test_the_newer_form_raises_what_is_wrong(serve, arguments, error):
    client = LLMClient(serve().url, **arguments)
    for call in (client.start_session, lambda: client.ask("x"), lambda: list(client.stream("x"))):
        with pytest.raises(error) as caught:
            call()
        assert "sk-llmapi-wrong-0123456789" not in str(caught.value)
    client.close()


def test_the_older_form_raises_nothing(serve):
    url = serve().url
    for client in (
        LLMClient(url, "gpt-5"),
        LLMClient(url, apikey="sk-llmapi-wrong-0123456789"),
        LLMClient("127.0.0.1:1"),
    ):
        assert client.start_session() is False
        assert client.ask("x")[0] == -4
        client.end_session()
        client.close()


def test_a_server_that_goes_away_is_an_error_or_a_code(serve):
    server = serve()
    older, newer = LLMClient(server.url), LLMClient(server.url, bot="mock")
    assert older.start_session()
    assert newer.ask("x")
    server.stop(0)
    code, why = older.ask("x")
    assert (code, server.url in why) == (-1, True)
    for call in (lambda: newer.ask("x"), lambda: list(newer.stream("x"))):
        with pytest.raises(ServerNotFoundError, match="No whole answer"):
            call()
    older.close()
    newer.close()


def test_an_api_that_is_off_is_said_so(serve):
    client = LLMClient(serve(compat="glm").url, bot="mock")
    with pytest.raises(LlmApiKitError, match=r"HTTP 404 .*compat has 'sessions'"):
        client.ask("x")
    client.close()


def test_a_stream_in_the_older_form_does_not_begin_anew_by_itself(serve):
    client = LLMClient(serve().url)
    client.session_id = "0" * 32
    with pytest.raises(SessionGoneError):
        list(client.stream("x"))
    client.close()


def test_similarity_takes_texts_vectors_and_what_the_bot_replied(serve):
    with LLMClient(serve().url, bot="gpt-embedding") as client:
        vector = client.ask("the sun")
        assert client.embedding_similarity("the sun", "the sun") == pytest.approx(1)
        assert client.embedding_similarity(vector, "the sun") == pytest.approx(1)
        assert client.embedding_similarity([-x for x in json.loads(vector)], vector) == pytest.approx(-1)
        assert abs(client.embedding_similarity("the sun", "a stone")) < 1
        assert client.embedding_similarity([1, 0], [0, 3]) == 0
        assert client.embedding_similarity([3, 4], [6, 8]) == pytest.approx(1)
        assert client.embedding_similarity([0, 0], [1, 1]) == 0
        with pytest.raises(ConfigError, match="2 and 8 dimensions"):
            client.embedding_similarity([1, 0], vector)


def test_similarity_needs_a_bot_that_embeds(serve):
    with LLMClient(serve().url, bot="mock") as client:
        with pytest.raises(ConfigError, match="gpt-embedding"):
            client.embedding_similarity("a", "b")


def test_two_names_for_a_bot_are_one_too_many():
    with pytest.raises(ConfigError, match="not both"):
        LLMClient(bot="mock", bot_type="mock")


def test_no_key_shows_and_nothing_stays_open(serve):
    client = LLMClient(serve().url, "mock", KEY)
    assert client.start_session()
    assert KEY not in repr(client)
    assert "mock" in repr(client)
    del client
    gc.collect()  # an open socket would be a warning, and so an error


def head(status, media_type):
    return f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    "answer",
    [
        head("200 OK", "text/event-stream") + b'data: {"code": 0, "delta": "a"}\n\n',
        head("200 OK", "text/event-stream") + b'data: {"code": 0, \n\n',
        head("200 OK", "application/json") + b"[1]",
        head("502 Bad Gateway", "text/html") + b"<h1>no</h1>",
        b"",
    ],
)
def test_half_a_stream_or_none_is_an_error(serve, answer):
    client = LLMClient(serve().url, bot="mock")
    client.start_session()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_once, args=(listener, answer), daemon=True).start()
        client._api._http.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(LlmApiKitError, match=r"No whole answer|not as the session API does"):
            list(client.stream("x"))
    client.close()


def answer_once(listener, answer):
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
