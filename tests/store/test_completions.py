"""Stored completions in the database: what the API's tests don't show, as they have one server and one key."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.store import tables
from llmapi_kit.store.completions import CompletionStore
from llmapi_kit.store.stored_completion import CompletionFilter, StoredCompletion

from .conftest import DEADLINE_S, Clock, Held


@pytest.fixture
def completions(database):
    return make(database)


def make(database, max_completions=3, max_bytes=1000, clock=None):
    options = {"max_completions": max_completions, "max_bytes": max_bytes, "expire_s": 100}
    return CompletionStore(database, clock=clock or Clock(), **options)


def completion(number, owner="me", model="m", size=10, **metadata):
    return StoredCompletion(
        id=f"chatcmpl-{number:024x}",
        owner=owner,
        model=model,
        body=b'{"x":"' + b"x" * size + b'"}',
        messages=[("a", '{"content":"中 \\u0000 \x7f"}'.encode()), ("b", b"{}")],
        metadata=metadata,
    )


async def numbers(completions, owner="me", model="", metadata=None, after="", limit=100, newest_first=False):
    wanted = CompletionFilter(owner, model, metadata or {})
    found = await completions.page(wanted, after=after, limit=limit, newest_first=newest_first)
    return [int(each.id.removeprefix("chatcmpl-"), 16) for each in found]


@pytest.mark.slow
def test_a_completion_is_found_as_it_was_stored_by_who_opens_the_database_later(completions, open_database, url):
    stored = completion(1, topic="a", order="b")

    async def run():
        await completions.add(stored)
        again = await make(open_database(url)).get("me", stored.id)
        assert again == stored
        assert list(again.metadata) == ["topic", "order"]

    asyncio.run(run())


def test_one_owner_pushes_out_nothing_of_another(completions):
    async def run():
        for number in (1, 2, 3):
            await completions.add(completion(number, "you", size=200))
        for number in range(10, 20):
            await completions.add(completion(number, "me", size=200))
        assert await numbers(completions, "you") == [1, 2, 3]
        assert await numbers(completions, "me") == [17, 18, 19]

    asyncio.run(run())


def test_the_oldest_go_when_they_take_too_much(database):
    completions = make(database, max_completions=100, max_bytes=1000)
    size = completion(1).size_bytes

    async def run():
        for number in range(5):
            await completions.add(completion(number, size=200 - size))
        assert await numbers(completions) == [0, 1, 2, 3, 4]
        await completions.add(completion(5, size=450 - size))
        assert await numbers(completions) == [3, 4, 5]
        await completions.add(completion(6, size=2000))
        assert await numbers(completions) == [3, 4, 5], "what alone is too large pushes nothing out"
        await completions.update("me", completion(3).id, {"a": "x" * 300})
        assert await numbers(completions) == [3, 5], "an update makes room too, and not at its own cost"

    asyncio.run(run())


@pytest.mark.slow
def test_many_who_store_at_once_keep_no_more_than_allowed(completions, open_database, url):
    other = make(open_database(url))

    async def run():
        adds = [(completions, other)[number % 2].add(completion(number)) for number in range(30)]
        await asyncio.gather(*adds)
        assert len(await numbers(completions)) == 3

    asyncio.run(run())


MINE = f"{tables.completions.name} of me"  # the lock's name


def test_two_who_store_in_one_postgres_do_it_one_after_the_other(open_database, postgres):
    url = postgres.new_database()
    completions, other = make(open_database(url)), open_database(url)
    held = Held()
    holder = other.submit(lambda connection: (other.lock(connection, MINE), held(connection)))
    assert held.begun.wait(DEADLINE_S)

    async def run():
        mine = asyncio.create_task(completions.add(completion(1)))
        for number in (2, 3, 4):
            await completions.add(completion(number, "you"))  # time enough for mine, if it did not wait
        assert not mine.done()
        held.release()
        await mine
        assert await numbers(completions) == [1]

    asyncio.run(run())
    holder.result(DEADLINE_S)


@pytest.mark.slow
def test_of_many_who_update_and_delete_at_once_one_deletes(completions):
    async def run(one):
        await completions.add(one)
        changes = [completions.update("me", one.id, {str(i): "x"}) for i in range(5)]
        deletes = [completions.delete("me", one.id) for _ in range(5)]
        outcomes = await asyncio.gather(*(each for pair in zip(changes, deletes, strict=True) for each in pair))
        assert outcomes[1::2].count(True) == 1
        assert await completions.get("me", one.id) is None
        assert await numbers(completions, metadata={"0": "x"}) == []

    for number in range(10):  # an update that a delete overtook failed once, in every second round or so
        asyncio.run(run(completion(number)))


@pytest.mark.slow
def test_pages_are_filtered_by_model_and_every_pair_and_go_both_ways(database):
    completions = make(database, max_completions=100, max_bytes=100_000)

    async def run():
        for number in range(6):
            labels = {"even": str(number % 2 == 0), "third": str(number % 3)}
            await completions.add(completion(number, model="ab"[number % 2] + "\x00", **labels))
        await completions.add(completion(9, "you", even="True"))
        assert await numbers(completions, model="b\x00") == [1, 3, 5]
        assert await numbers(completions, metadata={"even": "True"}) == [0, 2, 4]
        assert await numbers(completions, metadata={"even": "True", "third": "1"}) == [4]
        assert await numbers(completions, metadata={"even": "1"}) == []
        assert await numbers(completions, metadata={str(i): "x" for i in range(16)}) == []
        assert await numbers(completions, limit=2, after=completion(2).id) == [3, 4]
        assert await numbers(completions, limit=2, after=completion(2).id, newest_first=True) == [1, 0]
        await completions.update("me", completion(4).id, {"even": "no"})
        assert await numbers(completions, metadata={"even": "True"}) == [0, 2]

    asyncio.run(run())


def test_what_has_expired_is_forgotten_with_its_labels(database):
    clock = Clock()
    completions = make(database, clock=clock)

    async def run():
        await completions.add(completion(1, a="b"))
        clock.now += 60
        await completions.add(completion(2, a="b"))
        clock.now += 60
        assert await database.run(completions.remove_expired_in) == 1
        assert await numbers(completions, metadata={"a": "b"}) == [2]

    asyncio.run(run())
    count = "SELECT count(*) FROM llmapi_kit_completion_labels"
    assert database.run_sync(lambda connection: connection.exec_driver_sql(count).scalar()) == 1


@pytest.mark.parametrize("completion_id", ["", "\x00", "x" * 100, "\ud800", "é", "a b"])
def test_an_id_that_is_none_is_not_there(completions, completion_id):
    async def run():
        assert await completions.get("me", completion_id) is None
        assert await completions.update("me", completion_id, {}) is None
        assert await completions.delete("me", completion_id) is False

    asyncio.run(run())
