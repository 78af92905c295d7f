"""Clients that leave at any moment, by the hundred: nobody gets another's text, and nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import random
import time

import pytest

from tests.api.conftest import wait_until
from tests.engines.conftest import make_local

from .conftest import CHAT, chat, connect, request_bytes, serving

MAX_CANCELS = 10_000
MIN_CANCELS = 1_000
SECONDS = 8.0
NUM_WORKERS = 32
NUM_DROPS = 500
MAX_TOKENS = 16


@pytest.fixture(scope="module")
def engine():
    """Real slots, a real queue and a prefix cache, over a runner that computes at once."""
    return make_local(num_slots=8, max_queue=1000, max_length=2000)


@pytest.fixture(scope="module")
def server(tmp_path_factory, engine):
    with serving(tmp_path_factory.mktemp("home"), engine) as made:
        yield made


def question(number):
    """A prompt of its own for each number, and the same beginning for all of them, as the cache likes it."""
    digits = [f"d{digit}" for digit in f"{number:06d}"]
    return " ".join(["begin", "alike", *digits])


def expected(engine, text):
    """What the model says to a prompt, computed without the server."""
    prompt = engine._codec.encode(text, add_special_tokens=False)
    return "".join(f"<{token}>" for token in engine.test_runner.expected(prompt, MAX_TOKENS))


async def ask(server, text, *, read_bytes):
    """Stream an answer and leave after so many bytes; what was read of it, and whether it was all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps(chat(text, stream=True, max_tokens=MAX_TOKENS)).encode()
    writer.write(request_bytes("POST", CHAT, more=[f"Content-Length: {len(body)}"], body=body))
    answer = b""
    while len(answer) < read_bytes and (part := await reader.read(min(4096, read_bytes - len(answer)))):
        answer += part
    is_whole = answer.endswith(b"0\r\n\r\n")
    writer.transport.abort()
    return said(answer), is_whole


def said(answer):
    """The text in the frames of an answer that may have been cut off."""
    text = ""
    for line in answer.split(b"\n"):
        if line.startswith(b"data: {") and line.endswith(b"}"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
    return text


def is_idle(server, engine):
    stats = engine.stats()
    return not server._state.active and stats.num_running == stats.num_queued == 0


def wait_until_idle(server, engine):
    wait_until(lambda: is_idle(server, engine))


@pytest.mark.slow
def test_clients_that_cancel_never_see_anothers_answer(server, engine, record_property):
    """ChatGPT, 20 March 2023: a cancelled request left its answer on a shared connection, for the next to read."""
    numbers = iter(range(MAX_CANCELS))
    chance = random.Random(1)
    num_cancelled = num_whole = num_read = 0
    end = time.monotonic() + SECONDS

    async def work():
        nonlocal num_cancelled, num_whole, num_read
        for number in numbers:
            if num_cancelled >= MIN_CANCELS and time.monotonic() > end:
                return
            text, is_whole = await ask(server, question(number), read_bytes=chance.choice([1, 300, 600, 1000, 10**6]))
            right = expected(engine, question(number))
            assert text == right if is_whole else right.startswith(text)
            num_read += bool(text)
            num_whole += is_whole
            num_cancelled += not is_whole

    async def main():
        await asyncio.gather(*(work() for _ in range(NUM_WORKERS)))

    asyncio.run(main())
    record_property("cancelled", num_cancelled)
    assert num_cancelled >= MIN_CANCELS
    assert num_whole > num_cancelled // 10
    assert num_read > num_cancelled // 2
    wait_until_idle(server, engine)


@pytest.mark.slow
def test_500_clients_that_leave_anywhere_free_their_slots_and_are_counted_once(tmp_path):
    engine = make_local(num_slots=8, max_length=2000, max_queue=NUM_DROPS, before_step=lambda items: time.sleep(0.001))
    with serving(tmp_path, engine) as server:
        asyncio.run(leave_everywhere(server))
        wait_until_idle(server, engine)
        wait_until(lambda: usage(server)["requests"] == engine.stats().num_finished + engine.stats().num_cancelled)
        counted = usage(server)
        assert NUM_DROPS // 2 <= counted["requests"] <= NUM_DROPS
        assert 0 < counted["cancelled"] <= counted["requests"]
        with connect(server) as client:
            assert client.post(CHAT, json=chat("still here", max_tokens=1)).status_code == 200


async def leave_everywhere(server):
    """Before all of it was sent, in the queue, at the first byte of the answer, and in the middle of it."""
    places = asyncio.Semaphore(100)

    async def leave(number):
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            body = json.dumps(chat(question(number) + " long" * 50, stream=True, max_tokens=200)).encode()
            request = request_bytes("POST", CHAT, more=[f"Content-Length: {len(body)}"], body=body)
            stage = number % 4
            writer.write(request if stage else request[:-5])
            await writer.drain()
            if stage == 1:
                await asyncio.sleep(0.02)
            else:
                await reader.readexactly((0, 0, 1, 1200)[stage])
            writer.transport.abort()

    await asyncio.gather(*(leave(number) for number in range(NUM_DROPS)))


def usage(server):
    """What was counted so far, in all."""
    rows = server.usage(1)
    return {name: sum(row[name] for row in rows) for name in ("requests", "cancelled")}


def test_the_same_question_of_two_keys_shares_nothing_in_the_prefix_cache(tmp_path):
    """How fast an answer starts would tell one what another asked (vLLM CVE-2025-46570)."""
    body = chat(question(1) + " secret" * 30, max_tokens=1)
    with serving(tmp_path, make_local()) as server, connect(server, is_keyed=False) as client:

        def num_cached(key):
            answer = client.post(CHAT, json=body, headers={"Authorization": f"Bearer {key}"}).json()
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        first = server.api_key
        assert num_cached(first) == 0
        assert num_cached(first) > 0
        assert num_cached(server.rotate_key()) == 0
