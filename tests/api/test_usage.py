"""Usage: every request that a model accepted counts once, however it ended, for the key it came with."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import sqlite3
import threading
from dataclasses import asdict

import httpx
import pytest

from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import GenerationError, QueueFullError
from llmapi_kit.store.counts import Counts
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .conftest import KEY, asking, chat, error_of, wait_until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
NOTHING = asdict(Counts())


def used(client, **params):
    """The counts of all days, without what is zero."""
    page = client.get("/v1/usage", params=params)
    assert page.status_code == 200, page.text
    total = {}
    for day in page.json()["data"]:
        assert day["object"] == "usage"
        for name in NOTHING:
            if day[name]:
                total[name] = total.get(name, 0) + day[name]
    return total


@pytest.fixture
def client(serve, http):
    return http(serve())


def test_a_whole_answer_counts_what_its_usage_says(client):
    answer = client.post(CHAT, json=chat("one two three", n=2)).json()
    assert answer["usage"]["completion_tokens"] == 6
    assert used(client) == {"requests": 1, "prompt_tokens": 3, "completion_tokens": 6}


def test_a_stream_counts_the_same_whether_or_not_it_sends_its_usage(client):
    for options in ({}, {"stream_options": {"include_usage": True}}):
        assert "[DONE]" in client.post(CHAT, json=chat("one two three", stream=True, **options)).text
    assert used(client) == {"requests": 2, "prompt_tokens": 6, "completion_tokens": 6}


def test_several_prompts_of_one_request_are_one_request(client):
    body = {"prompt": ["one two", "three"], "max_tokens": 5}
    assert client.post("/v1/completions", json=body).status_code == 200
    assert used(client) == {"requests": 1, "prompt_tokens": 3, "completion_tokens": 3}


def test_cached_tokens_count(serve, http):
    class Cached(MockEngine):
        async def generate(self, request):
            yield Accepted(10)
            yield Delta("one", num_tokens=2)
            yield Finished("stop", 10, 3, num_cached_tokens=8)

    client = http(serve(Cached()))
    client.post(CHAT, json=chat())
    assert used(client) == {"requests": 1, "prompt_tokens": 10, "cached_tokens": 8, "completion_tokens": 3}


class Unfinished(MockEngine):
    """Begins an answer, and then waits, fails or raises."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error
        self.has_begun = threading.Event()

    async def generate(self, request):
        yield Accepted(7)
        yield Delta("one", num_tokens=2)
        yield Delta(" two", num_tokens=3)
        self.has_begun.set()
        if self.error is None:
            await asyncio.Event().wait()
        if not isinstance(self.error, GenerationError):
            raise self.error
        yield Failed(self.error)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [GenerationError("The model failed."), ZeroDivisionError("a bug")])
def test_an_answer_that_fails_counts_as_failed_with_what_was_made(serve, http, stream, error):
    server = serve(Unfinished(error))
    with contextlib.suppress(httpx.RemoteProtocolError):  # a stream that a bug breaks off
        http(server).post(CHAT, json=chat(stream=stream))
    assert used(http(server)) == {"requests": 1, "failed": 1, "prompt_tokens": 7, "completion_tokens": 5}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_client_leaves_counts_as_cancelled_with_what_was_made(serve, http, stream):
    server = serve(Unfinished())
    client = http(server)
    if stream:
        with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            next(line for line in response.iter_lines() if "two" in line)
    else:
        with asking(server, CHAT, chat()):
            wait_until(server.engines[0].has_begun.is_set)
    wait_until(lambda: not server._state.active)
    assert used(client) == {"requests": 1, "cancelled": 1, "prompt_tokens": 7, "completion_tokens": 5}


def test_answers_cut_by_the_servers_end_count_and_are_there_afterwards(serve, http):
    server = serve(Unfinished())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(http(server).post, CHAT, json=chat()) for _ in range(3)]
        wait_until(lambda: len(server._state.active) == 3)
        server.stop(drain_s=0)
        assert {future.result().status_code for future in asking} == {503}
    assert used(http(serve())) == {"requests": 3, "failed": 3, "prompt_tokens": 21, "completion_tokens": 15}


def test_what_is_refused_counts_nothing(serve, http):
    class Full(MockEngine):
        async def generate(self, request):
            raise QueueFullError("Full.")
            yield

    client = http(serve(MockEngine(), Full(name="full")))
    error_of(client.post(CHAT, json=chat(temperature=9)), 400)
    error_of(client.post(CHAT, json=chat(model="nobody")), 404)
    error_of(client.post(CHAT, json=chat(model="full")), 429)
    error_of(client.post("/v1/embeddings", json={"input": []}), 400)
    assert client.post(CHAT, json=chat(), headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert used(client) == {}


def test_embeddings_count_their_tokens(client):
    assert client.post("/v1/embeddings", json={"input": ["one two", "three"]}).status_code == 200
    assert used(client) == {"requests": 1, "embedding_tokens": 3}


def test_pictures_count(client):
    assert client.post("/v1/images/generations", json={"prompt": "A lighthouse", "n": 2}).status_code == 200
    assert used(client) == {"requests": 1, "images": 2}


def test_embeddings_that_fail_count_as_failed(serve, http):
    class Failing(MockEngine):
        async def embed(self, inputs, *, cache_salt=""):
            raise GenerationError("The model failed.")

    client = http(serve(Failing()))
    error_of(client.post("/v1/embeddings", json={"input": "one"}), 500)
    assert used(client) == {"requests": 1, "failed": 1}


def test_many_requests_at_once_all_count(client):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.post(CHAT, json=chat(stream=i % 2 == 0)), range(60)))
    assert {answer.status_code for answer in answers} == {200}
    assert used(client) == {"requests": 60, "prompt_tokens": 180, "completion_tokens": 180}


def test_each_key_sees_its_own(serve, http):
    server = serve()
    client = http(server)
    client.post(CHAT, json=chat("one"))
    theirs = "sk-llmapi-another-0123456789abcdef"
    server._state.key_check = KeyCheck(theirs)
    other = http(server, headers={"Authorization": f"Bearer {theirs}"})
    assert used(other) == {}
    other.post(CHAT, json=chat("one two"))
    assert used(other) == {"requests": 1, "prompt_tokens": 2, "completion_tokens": 2}
    server._state.key_check = KeyCheck(KEY)
    assert used(client) == {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1}


def test_days_are_those_asked_for_both_included(client):
    def utc_today():
        return datetime.datetime.now(datetime.timezone.utc).date()

    before = utc_today()
    client.post(CHAT, json=chat("one"))
    page = client.get("/v1/usage").json()
    days = [str(before), str(utc_today())]  # two, should midnight pass while this runs
    assert (page["object"], page["end"] in days) == ("list", True)
    last = datetime.date.fromisoformat(page["end"])
    assert page["start"] == str(last - datetime.timedelta(days=29))
    [day] = page["data"]
    assert (day["date"] in days, day["model"]) == (True, "mock")
    assert used(client, start=day["date"], end=day["date"])["requests"] == 1
    counted = datetime.date.fromisoformat(day["date"])
    assert used(client, end=str(counted - datetime.timedelta(days=1))) == {}
    later = str(counted + datetime.timedelta(days=1))
    assert used(client, start=later, end=later) == {}


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"start": "yesterday"}, "start"),
        ({"end": "2026-13-01"}, "end"),
        ({"start": "2026-02-02", "end": "2026-02-01"}, "start"),
        ({"start": "2020-01-01", "end": "2026-01-01"}, "start"),
        ({"end": "0001-01-01"}, "end"),
        ({"days": "3"}, "days"),
    ],
)
def test_a_range_that_is_none_is_refused_by_name(client, params, param):
    assert error_of(client.get("/v1/usage", params=params), 400)["param"] == param


@pytest.mark.parametrize("day", ["1970-01-01", "9999-12-31"])
def test_the_first_and_the_last_day_can_be_asked_for(client, day):
    assert used(client, end=day) == {}


def test_the_handle_tells_the_same(serve, http):
    server = serve()
    http(server).post(CHAT, json=chat("one two"))
    [day] = server.usage()
    expected = {**NOTHING, "requests": 1, "prompt_tokens": 2, "completion_tokens": 2}
    assert day == {"date": day["date"], "model": "mock", **expected}
    assert server.usage(days=1) == [day]


def test_requests_are_answered_while_the_database_is_locked(serve, http, tmp_path):
    server = serve(home=tmp_path)
    client = http(server)
    blocker = sqlite3.connect(tmp_path / "store" / "llmapi_kit.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        storing = pool.submit(client.post, CHAT, json=chat("one", store=True))
        for _ in range(5):
            assert client.post(CHAT, json=chat("one")).status_code == 200
        assert not storing.done(), "what is acknowledged is committed, so it has to wait"
        blocker.execute("COMMIT")
        blocker.close()
        assert storing.result().status_code == 200
    assert used(client) == {"requests": 6, "prompt_tokens": 6, "completion_tokens": 6}
