"""Sessions under way on a live server: races, time, clients that leave, restarts, floods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmapi_kit.api.compat import sessions
from llmapi_kit.config import load_settings
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.server.server import Server
from tests.sessions.conftest import Recounting

from .conftest import KEY, wait_until
from .session_client import Endless, SessionClient

OTHER_KEY = "sk-llmapi-other-0123456789abcdef"


@pytest.fixture
def connect():
    """Clients of servers; closed at the end."""
    made = []

    def make(server, apikey=KEY):
        made.append(SessionClient(server, apikey))
        return made[-1]

    yield make
    for each in made:
        each.http.close()


@pytest.fixture
def short_time(monkeypatch):
    """Asks that name no time have little."""
    monkeypatch.setattr(sessions, "DEFAULT_TIMEOUT_S", 0.3)


def said_in(server, session):
    """The history of a session, as the store has it."""
    store, owner = server._state.store.sessions, server._state.key_check.key_id
    return [(turn.role, turn.content) for turn in asyncio.run(store.turns(owner, session))]


class Meeting(MockEngine):
    """Answers once so many requests are there at the same time."""

    def __init__(self, num):
        super().__init__()
        self._num = num
        self._all_there = asyncio.Event()

    async def generate(self, request):
        self._num -= 1
        if not self._num:
            self._all_there.set()
        await self._all_there.wait()
        async for event in super().generate(request):
            yield event


@pytest.mark.slow
def test_many_asks_at_once_in_one_session_are_ordered_and_none_is_lost(serve, connect):
    server = serve(Recounting())
    session = connect(server).start("chatgpt")
    clients = [connect(server) for _ in range(12)]

    def talk(i):
        return [(f"{i}.{j}", clients[i].ask(session, f"{i}.{j}")) for j in range(5)]

    with ThreadPoolExecutor(12) as threads:
        asked = [pair for pairs in threads.map(talk, range(12)) for pair in pairs]
    replies = {prompt: answer["reply"] for prompt, answer in asked}
    said = said_in(server, session)
    prompts = [text for role, text in said if role == "user"]
    assert sorted(prompts) == sorted(replies)
    assert [text for role, text in said if role == "assistant"] == [replies[prompt] for prompt in prompts]
    # each saw all that was said before it, and nothing else
    assert [replies[prompt] for prompt in prompts] == [f"{2 * i + 1}:{prompt}" for i, prompt in enumerate(prompts)]
    for i in range(12):  # a client's own asks, which follow each other, stay in order
        assert [prompt for prompt in prompts if prompt.startswith(f"{i}.")] == [f"{i}.{j}" for j in range(5)]


def test_asks_in_different_sessions_run_at_once(serve, connect):
    server = serve(Meeting(6))
    clients = [connect(server) for _ in range(6)]
    opened = [client.start("chatgpt") for client in clients]
    with ThreadPoolExecutor(6) as threads:
        answers = threads.map(lambda i: clients[i].ask(opened[i], "x"), range(6))
    assert [answer["reply"] for answer in answers] == ["x"] * 6


def test_a_timeout_is_code_6_stops_the_generation_and_a_later_ask_works(serve, connect, short_time):
    engine = Endless()
    server = serve(engine)
    api = connect(server)
    session = api.start("chatgpt")
    answer = api.ask(session, "x")
    assert answer["code"] == -6
    assert answer["msg"].startswith("Reply timeout: There was no whole reply within 0.3 s")
    assert engine.stats().num_running == 0
    *pieces, failure = api.stream(session, "x")
    assert pieces
    assert failure["code"] == -6
    assert engine.stats().num_running == 0
    engine.is_brief = True
    assert api.ask(session, "y", timeout=30)["reply"] == "brief"
    assert said_in(server, session) == [("user", "y"), ("assistant", "brief")]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_stops_the_generation_and_a_later_ask_works(serve, connect, is_stream):
    engine = Endless()
    server = serve(engine)
    api = connect(server)
    session = api.start("chatgpt")
    body = json.dumps({"apikey": KEY, "session": session, "content": "x", "stream": is_stream}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/chat/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: engine.stats().num_completion_tokens > 3)
    wait_until(lambda: engine.stats().num_running == 0)
    wait_until(lambda: not server._state.active)
    engine.is_brief = True
    assert api.ask(session, "y")["reply"] == "brief"
    assert said_in(server, session) == [("user", "y"), ("assistant", "brief")]


def test_a_client_that_leaves_while_it_waits_in_line_is_no_turn(serve, connect):
    engine = Endless()
    server = serve(engine)
    api = connect(server)
    session = api.start("chatgpt")
    body = json.dumps({"apikey": KEY, "session": session, "content": "never"}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as first:
        head = f"POST /v1/chat/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        first.sendall(head.encode() + body)
        wait_until(lambda: engine.stats().num_running == 1)
        line = server._state.conversations._locks._lines[session]
        with socket.create_connection(("127.0.0.1", server.port)) as second:
            second.sendall(head.encode() + body)
            wait_until(lambda: line.num == 2)
        wait_until(lambda: line.num == 1)
    wait_until(lambda: engine.stats().num_running == 0)
    wait_until(lambda: len(server._state.conversations._locks) == 0)
    engine.is_brief = True
    api.ask(session, "y")
    assert said_in(server, session) == [("user", "y"), ("assistant", "brief")]


@pytest.mark.slow
def test_clients_that_leave_anywhere_leave_whole_exchanges_and_nothing_running(serve, connect):
    engine = MockEngine("a few words to say", delay_s=0.002)
    server = serve(engine)
    opened = [connect(server).start("chatgpt") for _ in range(4)]
    chance = random.Random(5)

    def drop(i):
        body = json.dumps({"apikey": KEY, "session": opened[i % 4], "content": f"p{i}", "stream": i % 3 > 0}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST /v1/chat/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[: chance.choice([5, len(body)])])
            connection.settimeout(chance.random() * 0.1)
            with contextlib.suppress(TimeoutError):
                connection.recv(chance.choice([1, 10_000]))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(drop, range(120)))
    wait_until(lambda: not (server._state.active or len(server._state.conversations._locks)))
    wait_until(lambda: engine.stats().num_running == 0)
    for session in opened:
        roles = [role for role, _ in said_in(server, session)]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert connect(server).ask(session, "still there?")["code"] == 0


def test_another_key_finds_no_session_of_this_one_in_the_same_database(serve, connect):
    server = serve()
    api = connect(server)
    session = api.start()
    assert api.ask(session, "mine")["code"] == 0
    other = Server((MockEngine(),), host="127.0.0.1", port=0, api_key=OTHER_KEY, settings=load_settings())
    other.start()
    try:
        thief = connect(other, OTHER_KEY)
        assert [thief.ask(session, "x")["code"], thief.end(session)["code"]] == [-4, -4]
    finally:
        other.stop(0)
    assert api.end(session)["code"] == 0


def test_a_session_survives_a_restart_of_the_server(serve, connect):
    first = serve(Recounting())
    session = connect(first).start("chatgpt", system="be brief")
    assert connect(first).ask(session, "a")["reply"] == "2:a"
    first.stop(0)
    second = serve(Recounting())
    assert connect(second).ask(session, "b")["reply"] == "4:b"


def test_a_session_nobody_uses_expires_and_one_that_is_used_does_not(serve, connect):
    server = serve(session_expire_s=100)
    api = connect(server)
    idle, talk, vectors = api.start(), api.start(), api.start("gpt-embedding")
    for later in (60, 120):
        server._state.store.sessions._clock = lambda later=later: time.time() + later
        assert [api.ask(talk, "x")["code"], api.ask(vectors, "x")["code"]] == [0, 0]
    assert [api.ask(idle, "x")["code"], api.end(idle)["code"]] == [-4, -4]


@pytest.mark.slow
def test_a_flood_of_asks_ends_each_in_a_code_and_the_server_goes_on(serve, connect):
    server = serve(Recounting())
    api = connect(server)
    session = api.start("chatgpt")
    hostile = [
        lambda client: client.ask(session, "x"),
        lambda client: client.post("ask", {"session": session, "content": "y", "stream": True}),
        lambda client: client.post("ask", {"session": session}),
        lambda client: client.post("start", {"bot_type": "nobody"}),
        lambda client: client.end("0" * 32),
        lambda client: client.http.post("/v1/chat/ask", content=b"{" * 100),
    ]
    clients = [connect(server) for _ in range(10)]

    def talk(client):
        return [each(client) for _ in range(6) for each in hostile]

    with ThreadPoolExecutor(10) as threads:
        answers = [answer for each in threads.map(talk, clients) for answer in each]
    codes = {answer["code"] for answer in answers if isinstance(answer, dict)}
    statuses = {answer.status_code for answer in answers if not isinstance(answer, dict)}
    assert codes == {0, -4}
    assert statuses == {200, 401}
    assert len(said_in(server, session)) == 2 * 2 * 6 * 10
    assert len(server._state.conversations._locks) == 0


def test_a_server_that_stops_ends_an_ask_in_a_code(serve, connect):
    engine = Endless()
    server = serve(engine)
    api = connect(server)
    session = api.start("chatgpt")
    heard = []
    asking = threading.Thread(target=lambda: heard.append(api.ask(session, "x")))
    asking.start()
    wait_until(lambda: engine.stats().num_completion_tokens > 0)
    server.stop(0)
    asking.join(15)
    assert heard[0]["code"] == -2
    assert "stopped" in heard[0]["msg"]
