"""The life of a request on a live server: clients that leave, queues that fill, engines that die."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading

import httpx
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.types import Readiness

from .conftest import KEY, Gate, asking, chat, error_of, wait_until

CHAT = "/v1/chat/completions"


def frames(response):
    """The data of each SSE frame."""
    return [line[6:] for line in response.iter_lines() if line.startswith("data: ")]


def slow_engine(local_engine, **options):
    pause = threading.Event()
    return local_engine(max_length=100_000, before_step=lambda items: pause.wait(0.005), **options)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_stops_its_generation(serve, http, local_engine, is_stream):
    engine = slow_engine(local_engine)
    server = serve(engine)
    client = http(server)
    if is_stream:
        with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            lines = response.iter_lines()
            for _ in range(6):
                next(lines)
            assert engine.stats().num_running == 1
    else:
        with asking(server, CHAT, chat()):
            wait_until(lambda: engine.stats().num_running == 1)
    wait_until(lambda: engine.stats().num_running == 0)
    assert engine.stats().num_cancelled == 1
    wait_until(lambda: not server._state.active)


def test_a_client_that_leaves_the_queue_is_taken_out(serve, http, local_engine):
    gate = Gate()
    engine = local_engine(num_slots=1, before_step=gate)
    server = serve(engine)
    running = threading.Thread(target=lambda: http(server).post(CHAT, json=chat(max_tokens=3)))
    running.start()
    assert gate.entered.wait(60)
    with asking(server, CHAT, chat()):
        wait_until(lambda: engine.stats().num_queued == 1)
    wait_until(lambda: len(server._state.active) == 1)
    gate.open()
    running.join()
    assert engine.stats().num_finished == 1
    wait_until(lambda: engine.stats().num_cancelled == 1)


@pytest.mark.slow
def test_100_clients_that_leave_at_any_moment_leave_nothing_behind(serve, local_engine):
    engine = slow_engine(local_engine, num_slots=4)
    server = serve(engine)

    async def drop(client, after_s):
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(client.post(server.url + CHAT, json=chat(stream=after_s < 0.1)), after_s)

    async def main():
        headers = {"Authorization": f"Bearer {KEY}"}
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(headers=headers, trust_env=False, limits=limits, timeout=30) as client:
            await asyncio.gather(*(drop(client, 0.02 + 0.005 * i) for i in range(100)))

    asyncio.run(main())
    wait_until(lambda: not server._state.active)
    wait_until(lambda: engine.stats().num_running == engine.stats().num_queued == 0)


def test_a_full_queue_answers_429_with_retry_after(serve, http, local_engine):
    gate = Gate()
    engine = local_engine(num_slots=1, max_queue=1, before_step=gate)
    server = serve(engine)
    threads = [threading.Thread(target=lambda: http(server).post(CHAT, json=chat(max_tokens=2))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: engine.stats().num_running + engine.stats().num_queued == 2)
    response = http(server).post(CHAT, json=chat())
    error = error_of(response, 429)
    assert error["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1
    gate.open()
    for thread in threads:
        thread.join()


def test_context_overflow_is_a_400_with_its_code(serve, http, local_engine):
    client = http(serve(local_engine(max_length=20)))
    error = error_of(client.post(CHAT, json=chat("word " * 30)), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    error = error_of(client.post("/v1/completions", json={"prompt": "a b", "max_tokens": 50}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    error = error_of(client.post(CHAT, json=chat("word " * 30, stream=True)), 400)
    assert error["code"] == "context_length_exceeded"


class Dying(BaseException):
    pass


def test_an_engine_that_dies_ends_streams_in_an_error_and_turns_ready_503(serve, http, local_engine):
    def die(items):
        if len(engine.test_runner.steps) == 4:
            raise Dying("out of luck")

    engine = local_engine(before_step=die)
    server = serve(engine)
    client = http(server)
    assert client.get("/readyz").status_code == 200
    with client.stream("POST", CHAT, json=chat(stream=True)) as response:
        assert response.status_code == 200
        last = json.loads(frames(response)[-1])
    assert "out of luck" in last["error"]["message"]
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "out of luck" in ready.json()["models"]["fake"]["reason"]
    assert client.get("/healthz").status_code == 200
    error = error_of(client.post(CHAT, json=chat()), 503)
    assert error["code"] == "engine_unavailable"


def test_a_failing_request_is_a_500_of_its_own(serve, http, local_engine):
    client = http(serve(local_engine(poison=5)))
    error = error_of(client.post("/v1/completions", json={"prompt": [5]}), 500)
    assert error["code"] == "generation_failed"
    assert client.post("/v1/completions", json={"prompt": [6], "max_tokens": 2, "temperature": 0}).status_code == 200


def test_readyz_says_why_not(serve, http):
    engine = MockEngine()
    client = http(serve(engine))
    assert client.get("/readyz").json() == {
        "ready": True,
        "reason": None,
        "models": {"mock": {"ready": True, "reason": None, "state": "loaded"}},
    }
    engine.readiness = lambda: Readiness(False, "still loading")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["models"]["mock"]["reason"] == "still loading"


def test_a_quiet_stream_is_kept_alive_by_comments(serve, http, local_engine):
    gate = Gate()
    server = serve(local_engine(before_step=gate), keep_alive_s=0.05)
    with http(server).stream("POST", CHAT, json=chat(stream=True, max_tokens=2)) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": keep-alive"
        gate.open()
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"


def test_a_prompt_that_takes_long_is_no_reader_that_stalls(serve, http, local_engine):
    gate = Gate()
    server = serve(local_engine(before_step=gate), keep_alive_s=0.05, stalled_reader_s=0.2)
    with http(server).stream("POST", CHAT, json=chat(stream=True, max_tokens=2)) as response:
        lines = response.iter_lines()
        comments = (line for line in lines if line.startswith(":"))
        assert [next(comments) for _ in range(8)] == [": keep-alive"] * 8, "for longer than a reader may stall"
        gate.open()
        rest = [line for line in lines if line.startswith("data: ")]
    assert rest[-1] == "data: [DONE]"


def test_frames_that_wait_for_nothing_come_together(serve):
    server = serve(MockEngine("word", num_tokens=3, delay_s=0.02))
    body = json.dumps(chat(stream=True, stream_options={"include_usage": True})).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        answer = connection.makefile("rb").read()
    parts = re.findall(rb"\r\n[0-9a-f]+\r\n(data: .*?\n\n)(?=\r\n)", answer, re.DOTALL)  # as they were sent
    assert len(parts) == 4
    assert b'"role":"assistant"' in parts[0]
    assert b"word" in parts[0]
    assert all(part.count(b"data: ") == 1 for part in parts[1:3])
    assert b'"finish_reason":"length"' in parts[3] or b'"finish_reason":"stop"' in parts[3]
    assert b'"usage":{' in parts[3]
    assert parts[3].endswith(b"data: [DONE]\n\n")
    assert answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.slow
def test_32_streams_at_once_each_get_their_own_answer(serve, local_engine):
    engine = local_engine(num_slots=8)
    server = serve(engine)
    questions = [f"q{i} " * (1 + i % 4) for i in range(32)]

    async def ask(client, question):
        body = chat(question, stream=True, max_tokens=12, temperature=0)
        text = ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        return text

    async def main():
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
            alone = [await ask(client, question) for question in questions]
            return alone, await asyncio.gather(*(ask(client, question) for question in questions))

    alone, together = asyncio.run(main())
    assert alone == together
    codec = engine._codec
    for question, text in zip(questions, together, strict=True):
        prompt = codec.encode(question, add_special_tokens=False)
        assert text == "".join(f"<{i}>" for i in engine.test_runner.expected(prompt, 12))
