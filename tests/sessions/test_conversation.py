"""Sessions at work, over a real store: order, history, time, refusals."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import (
    BotTypeError,
    GenerationError,
    InvalidRequestError,
    RequestTimeoutError,
    SessionConflictError,
    SessionGoneError,
    SessionLimitError,
    StoreError,
)
from llmapi_kit.sessions import conversation
from llmapi_kit.sessions.locks import Deadline
from llmapi_kit.store.sessions import Turn
from llmapi_kit.types import Accepted, Delta, Failed

from .conftest import OWNER, Recounting

pytestmark = pytest.mark.kernel


class Failing(MockEngine):
    async def generate(self, request):
        yield Accepted(1)
        yield Delta("half")
        yield Failed(GenerationError("it broke"))


def test_what_is_said_is_remembered_and_comes_back_with_the_next_prompt(talking):
    async def run():
        async with talking(Recounting()) as talk:
            session = await talk.start(system="be brief", temperature=0)
            assert await talk.reply(session, "one") == "2:one"
            assert await talk.reply(session, "two") == "4:two"
            first, second = talk.dispatch.requests
            assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "user"]
            assert (second.affinity, second.cache_salt) == (session.id, OWNER)
            assert (first.sampling.temperature, first.messages[0]["content"]) == (0, "be brief")
            return await talk.said(session)

    assert asyncio.run(run()) == [("user", "one"), ("assistant", "2:one"), ("user", "two"), ("assistant", "4:two")]


def test_fifty_asks_at_once_in_one_session_give_one_ordered_history(talking):
    async def run():
        async with talking(Recounting()) as talk:
            session = await talk.start()
            replies = await asyncio.gather(*(talk.reply(session, f"p{i}") for i in range(50)))
            return replies, await talk.said(session)

    replies, said = asyncio.run(run())
    assert replies == [f"{2 * i + 1}:p{i}" for i in range(50)]
    assert said == [turn for i in range(50) for turn in (("user", f"p{i}"), ("assistant", f"{2 * i + 1}:p{i}"))]


def test_sessions_do_not_wait_for_each_other(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            held, other = await talk.start(), await talk.start("mock")
            first = asyncio.create_task(talk.reply(held, "x"))
            await engine.arrived.wait()
            assert await talk.reply(other, "y") == "Text mock reply for your prompt:y"
            assert not first.done()
            engine.go_on.set()
            return await first

    assert asyncio.run(run()) == "something"


def test_a_timeout_stops_the_generation_stores_nothing_and_a_later_ask_works(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            session = await talk.start()
            with pytest.raises(RequestTimeoutError, match=r"within 0\.05 s"):
                await talk.reply(session, "x", timeout_s=0.05)
            assert engine.stats().num_running == 0
            assert await talk.said(session) == []
            engine.go_on.set()
            assert await talk.reply(session, "y") == "something"
            return await talk.said(session)

    assert asyncio.run(run()) == [("user", "y"), ("assistant", "something")]


def test_waiting_for_another_ask_counts_as_time(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            session = await talk.start()
            first = asyncio.create_task(talk.reply(session, "x"))
            await engine.arrived.wait()
            with pytest.raises(RequestTimeoutError):
                await talk.reply(session, "y", timeout_s=0.05)
            engine.go_on.set()
            await first
            return await talk.said(session)

    assert asyncio.run(run()) == [("user", "x"), ("assistant", "something")]


def test_who_leaves_stops_the_generation_and_lets_the_next_one_in(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            session = await talk.start()
            stream = talk.ask(session, "x")
            assert await stream.__anext__() == "some"
            next_one = asyncio.create_task(talk.reply(session, "y"))
            await stream.aclose()
            engine.go_on.set()
            assert await next_one == "something"
            assert engine.stats().num_running == 0
            return await talk.said(session)

    assert asyncio.run(run()) == [("user", "y"), ("assistant", "something")]


def test_who_leaves_while_the_reply_is_stored_does_not_let_the_next_one_in_early(talking):
    async def run():
        async with talking(Recounting()) as talk:
            session = await talk.start()
            append, storing, go_on = talk.store.append, asyncio.Event(), asyncio.Event()

            async def slow(*args, **kwargs):
                storing.set()
                await go_on.wait()
                await append(*args, **kwargs)

            talk.store.append = slow
            first = asyncio.create_task(talk.reply(session, "x"))
            await storing.wait()
            first.cancel()
            second = asyncio.create_task(talk.reply(session, "y"))
            await asyncio.sleep(0.02)
            assert not second.done()
            go_on.set()
            return await second, await talk.said(session)

    reply, said = asyncio.run(run())
    assert reply == "3:y"
    assert [text for _, text in said] == ["x", "1:x", "y", "3:y"]


def test_a_slow_reader_holds_nobody_up(talking):
    async def run():
        async with talking(Recounting()) as talk:
            session = await talk.start()
            stalled = talk.ask(session, "x")
            await stalled.__anext__()
            reply = await talk.reply(session, "y")
            rest = [piece async for piece in stalled]
            return reply, rest[-1].text

    assert asyncio.run(run()) == ("3:y", "1:x")


def test_a_reply_that_was_made_in_time_may_take_its_time_to_be_stored(talking, monkeypatch):
    made = []

    class Watched(Deadline):
        def __enter__(self):
            made.append(self)
            return super().__enter__()

    monkeypatch.setattr(conversation, "Deadline", Watched)

    async def run():
        async with talking() as talk:
            session = await talk.start("mock")
            append = talk.store.append

            async def watched(*args, **kwargs):
                assert made[0]._timer.cancelled()
                await append(*args, **kwargs)

            talk.store.append = watched
            return await talk.reply(session, "x")

    assert asyncio.run(run())


def test_an_engine_that_fails_half_way_leaves_no_half_exchange(talking):
    async def run():
        async with talking(Failing()) as talk:
            session = await talk.start()
            with pytest.raises(GenerationError, match="it broke"):
                await talk.reply(session, "x")
            return await talk.said(session)

    assert asyncio.run(run()) == []


def test_what_is_wrong_at_the_start_makes_no_session(talking):
    async def run():
        async with talking(max_sessions=1) as talk:
            with pytest.raises(BotTypeError):
                await talk.start("nobody")
            with pytest.raises(InvalidRequestError):
                await talk.start("mock", temperature=9)
            with pytest.raises(InvalidRequestError):
                await talk.start("chatgpt", model="gone")
            await talk.start("mock")
            with pytest.raises(SessionLimitError):
                await talk.start("mock")

    asyncio.run(run())


def test_a_session_is_its_owners_alone_and_gone_once_ended(talking):
    async def run():
        async with talking() as talk:
            session = await talk.start("mock")
            assert await talk.conversations.find(OWNER, session.id) == session
            for owner, session_id in (("another", session.id), (OWNER, "0" * 32), (OWNER, "' OR 1=1 --")):
                with pytest.raises(SessionGoneError):
                    await talk.conversations.find(owner, session_id)
                with pytest.raises(SessionGoneError):
                    await talk.conversations.end(owner, session_id)
            await talk.conversations.end(OWNER, session.id)
            with pytest.raises(SessionGoneError):
                await talk.conversations.find(OWNER, session.id)

    asyncio.run(run())


def test_a_session_ended_while_its_bot_replies_acknowledges_nothing(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            session = await talk.start()
            asked = asyncio.create_task(talk.reply(session, "x"))
            await engine.arrived.wait()
            await talk.conversations.end(OWNER, session.id)
            engine.go_on.set()
            with pytest.raises(SessionGoneError):
                await asked

    asyncio.run(run())


def test_another_servers_write_in_between_is_a_conflict(talking, waiting):
    async def run():
        engine = waiting()
        async with talking(engine) as talk:
            session = await talk.start()
            asked = asyncio.create_task(talk.reply(session, "x"))
            await engine.arrived.wait()
            await talk.store.append(OWNER, session.id, [Turn("user", "a"), Turn("assistant", "b")], expected=0)
            engine.go_on.set()
            with pytest.raises(SessionConflictError):
                await asked
            return await talk.said(session)

    assert asyncio.run(run()) == [("user", "a"), ("assistant", "b")]


def test_what_could_not_be_stored_is_not_acknowledged(talking):
    async def run():
        async with talking() as talk:
            session = await talk.start("mock")

            async def broken(*args, **kwargs):
                raise StoreError("the disk is full")

            talk.store.append = broken
            with pytest.raises(StoreError):
                await talk.reply(session, "x")

    asyncio.run(run())
