"""Stored responses in the database: rooms of their own, chains, and what outlives a killed server."""

from __future__ import annotations

import asyncio
import multiprocessing
import random

import pytest

from llmapi_kit.store.responses import ResponseStore
from llmapi_kit.store.stored_response import StoredResponse

from . import writers
from .conftest import DEADLINE_S, Clock


def make(database, max_responses=3, max_bytes=1000, clock=None):
    options = {"max_responses": max_responses, "max_bytes": max_bytes, "expire_s": 100}
    return ResponseStore(database, clock=clock or Clock(), **options)


@pytest.fixture
def responses(database):
    return make(database)


def response(number, owner="me", size=10, after=None):
    previous = "" if after is None else f"resp_{after:024x}"
    body = b'{"x":"' + b"x" * size + '中 \\u0000"}'.encode()
    return StoredResponse(f"resp_{number:024x}", owner, body, b"[]", previous, b"\x00\xff")


async def numbers(responses, owner="me", among=range(30)):
    found = [await responses.get(owner, response(number).id) for number in among]
    return [int(each.id.removeprefix("resp_"), 16) for each in found if each is not None]


@pytest.mark.slow
def test_a_response_is_found_as_it_was_stored_by_who_opens_the_database_later(responses, open_database, url):
    async def run():
        await responses.add(response(1))
        assert await make(open_database(url)).get("me", response(1).id) == response(1)

    asyncio.run(run())


def test_one_owner_pushes_out_nothing_of_another(responses):
    async def run():
        for number in range(3):
            await responses.add(response(number, "you"))
        for number in range(10, 15):
            await responses.add(response(number, "me"))
        assert await numbers(responses, "you") == [0, 1, 2]
        assert await numbers(responses, "me") == [12, 13, 14]
        assert not await responses.delete("me", response(1).id)
        assert (await responses.chain("me", response(1).id)) == ([], response(1).id)

    asyncio.run(run())


def test_a_change_makes_room_and_brings_nothing_back(database):
    responses = make(database, max_responses=10, max_bytes=500)

    async def run():
        for number in range(3):
            await responses.add(response(number, size=100))
        assert await responses.change(response(2, size=400))
        assert await numbers(responses) == [2]
        assert not await responses.change(response(2, size=900)), "what alone is too large is not kept"
        assert not await responses.change(response(2)), "and does not come back"
        assert await numbers(responses) == []
        await responses.add(response(5, size=900))
        assert await numbers(responses) == []

    asyncio.run(run())


def test_a_chain_is_followed_to_its_beginning_or_to_what_is_missing(database):
    responses = make(database, max_responses=10)

    async def run():
        for number, after in ((1, None), (2, 1), (3, 2), (4, 2)):
            await responses.add(response(number, after=after))
        chain, missing = await responses.chain("me", response(3).id)
        assert ([each.id for each in chain], missing) == ([response(number).id for number in (1, 2, 3)], "")
        await responses.delete("me", response(1).id)
        chain, missing = await responses.chain("me", response(4).id)
        assert ([each.id for each in chain], missing) == ([response(2).id, response(4).id], response(1).id)
        assert await responses.chain("me", "no id at all\n") == ([], "no id at all\n")

    asyncio.run(run())


def test_expired_ones_are_forgotten(database):
    clock = Clock()
    responses = make(database, clock=clock)

    async def run():
        await responses.add(response(1))
        clock.now += 99
        await responses.add(response(2))
        clock.now += 2

    asyncio.run(run())
    assert database.run_sync(responses.remove_expired_in) == 1
    assert asyncio.run(numbers(responses)) == [2]


@pytest.mark.slow
def test_every_acknowledged_response_is_there_after_kill_9(open_database, url, processes):
    chance = random.Random(1)
    acknowledged = []
    for _ in range(6):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = processes.Process(target=writers.store_until_killed, args=(url, len(acknowledged), theirs))
        process.start()
        theirs.close()
        acknowledged += [ours.recv() for _ in range(chance.randrange(1, 40))]
        process.kill()
        process.join(DEADLINE_S)
        assert process.exitcode == -9, "it was to write until it is killed"
        while True:  # what it said before it died
            try:
                acknowledged.append(ours.recv())
            except EOFError:
                break
    responses = make(open_database(url), max_responses=100_000, max_bytes=1_000_000_000)
    for response_id in acknowledged:
        stored = asyncio.run(responses.get("owner", response_id))
        assert stored is not None
        assert stored.body == writers.body_of(response_id)
    assert len(acknowledged) > 6
