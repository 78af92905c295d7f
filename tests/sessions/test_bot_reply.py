"""What bots of each kind make of a prompt and a history, and what steps let through."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ContextLengthError

from .conftest import OWNER, Recounting

pytestmark = pytest.mark.kernel

WORDS = {"step": "words", "words": ["bomb"], "notice": "not here"}


class Broken:
    """A step of a third party."""

    def reply_filter(self):
        raise ZeroDivisionError


def test_the_mock_bot_answers_without_a_model_in_pieces(talking):
    async def run():
        async with talking() as talk:
            session = await talk.start("mock", system="…", model="…")
            return await talk.hear(session, "hello  you"), await talk.said(session)

    (pieces, reply), said = asyncio.run(run())
    assert reply == "".join(pieces) == "Text mock reply for your prompt:hello  you"
    assert len(pieces) > 3
    assert said == [("user", "hello  you"), ("assistant", reply)]


def test_a_completion_bot_continues_the_text_so_far(talking):
    async def run():
        async with talking(MockEngine("more")) as talk:
            session = await talk.start("gpt3", system="Once")
            await talk.reply(session, "upon")
            await talk.reply(session, "a time")
            assert {request.affinity for request in talk.dispatch.requests} == {session.id}
            assert {request.cache_salt for request in talk.dispatch.requests} == {OWNER}
            return [request.prompt for request in talk.dispatch.requests]

    assert asyncio.run(run()) == ["Once\nupon", "Once\nupon\nmore\na time"]


def test_a_vector_is_json_and_a_picture_an_address_and_neither_is_history(talking, painter):
    async def run(**options):
        async with talking(MockEngine(), painter(**options), bots={"dall-e": "painter"}) as talk:
            vectors, pictures = await talk.start("gpt-embedding"), await talk.start("dall-e", size="512x512")
            vector, url = await talk.reply(vectors, "x"), await talk.reply(pictures, "a cat")
            request = talk.dispatch.requests[-1]
            assert (request.prompt, request.size, request.affinity) == ("a cat", "512x512", pictures.id)
            assert await talk.said(vectors) == await talk.said(pictures) == []
            return json.loads(vector), url

    vector, url = asyncio.run(run(url="https://pictures.example/1.png"))
    assert len(vector) == 8
    assert url == "https://pictures.example/1.png"
    assert asyncio.run(run())[1] == "data:image/png;base64,iVBORw=="


def test_history_is_trimmed_to_the_context_and_the_system_prompt_stays(talking):
    class Wordy(Recounting):
        async def tokenize_chat(self, request):
            return [0] * sum(len(message["content"].split()) for message in request.messages)

    async def run():
        async with talking(Wordy(context_length=40)) as talk:
            session = await talk.start(system="s s s")
            for i in range(12):
                await talk.reply(session, f"p{i} x x x")
            with pytest.raises(ContextLengthError):
                await talk.reply(session, "x " * 50)
            return talk.dispatch.requests[-1].messages, await talk.said(session)

    messages, said = asyncio.run(run())
    assert messages[0] == {"role": "system", "content": "s s s"}
    assert 3 < len(messages) < 12
    assert messages[-1]["content"] == "p11 x x x"
    assert len(said) == 24  # all of it is kept, though not all is sent


def test_a_model_that_counts_otherwise_gets_less_until_it_fits(talking):
    class Narrow(Recounting):
        async def generate(self, request):
            if len(request.messages) > 4:
                raise ContextLengthError("too long", param="messages")
            async for event in super().generate(request):
                yield event

    async def run():
        async with talking(Narrow(context_length=0)) as talk:
            session = await talk.start()
            return [await talk.reply(session, f"p{i}") for i in range(8)]

    replies = asyncio.run(run())
    assert replies[0] == "1:p0"
    assert all(int(reply.partition(":")[0]) <= 4 for reply in replies)


def test_a_refused_prompt_is_answered_with_the_notice_and_never_reaches_the_model(talking):
    async def run():
        async with talking(bots={"chatgpt": {"pre": [WORDS]}}) as talk:
            session = await talk.start()
            heard = await talk.hear(session, "a Bomb")
            assert talk.dispatch.requests == []
            assert await talk.reply(session, "a bloom") == "a bloom"
            return heard, await talk.said(session)

    assert asyncio.run(run()) == (([], "not here"), [("user", "a bloom"), ("assistant", "a bloom")])


def test_a_withdrawn_reply_is_the_notice_and_what_came_before_has_nothing_forbidden(talking):
    async def run():
        engine = MockEngine("say bomb to nobody")
        async with talking(engine, bots={"chatgpt": {"post": [WORDS]}}) as talk:
            session = await talk.start()
            heard = await talk.hear(session, "x")
            return heard, await talk.said(session), engine.stats()

    (pieces, reply), said, stats = asyncio.run(run())
    assert ("".join(pieces), reply, said) == ("say ", "not here", [])
    assert (stats.num_running, stats.num_cancelled) == (0, 1)


def test_rewritten_prompts_and_filtered_replies_are_what_is_remembered(talking):
    redact = {"step": "redact", "patterns": {r"\d+": "#"}}

    async def run():
        async with talking(bots={"chatgpt": {"pre": [redact]}, "mock": {"post": [redact]}}) as talk:
            session, mock = await talk.start(), await talk.start("mock")
            await talk.reply(session, "call 123")
            pieces, reply = await talk.hear(mock, "call 45 67")
            assert "".join(pieces) == reply
            return await talk.said(session), await talk.said(mock)

    said, of_mock = asyncio.run(run())
    assert said == [("user", "call #"), ("assistant", "call #")]
    assert of_mock == [("user", "call 45 67"), ("assistant", "Text mock reply for your prompt:call # #")]


def test_a_reply_has_no_character_that_a_database_would_refuse(talking):
    async def run():
        async with talking(MockEngine("a\0b")) as talk:
            session = await talk.start()
            return await talk.hear(session, "x"), await talk.said(session)

    assert asyncio.run(run()) == ((["a\ufffdb"], "a\ufffdb"), [("user", "x"), ("assistant", "a\ufffdb")])


def test_a_step_that_breaks_lets_nothing_through(talking):
    async def run():
        async with talking(bots={"mock": {"post": ["tests.sessions.test_bot_reply:Broken"]}}) as talk:
            session = await talk.start("mock")
            with pytest.raises(ZeroDivisionError):
                await talk.reply(session, "x")
            return await talk.said(session)

    assert asyncio.run(run()) == []


def test_a_bots_own_system_prompt_gives_way_to_the_sessions(talking):
    async def run():
        async with talking(Recounting(), bots={"tutor": {"model": "mock", "system": "teach"}}) as talk:
            for settings in ({}, {"system": "sing"}, {"system": ""}):
                await talk.reply(await talk.start("tutor", **settings), "x")
            return [[m["content"] for m in request.messages] for request in talk.dispatch.requests]

    assert asyncio.run(run()) == [["teach", "x"], ["sing", "x"], ["x"]]
