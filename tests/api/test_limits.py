"""The limits of a key: what is over them is a 429 that says when to come back, whatever route it came by."""

from __future__ import annotations

import concurrent.futures
import types

import httpx
import openai
import pytest

from llmapi_kit.api import minute_counts
from llmapi_kit.api.caller import Caller
from llmapi_kit.api.limiter import Attempts, Limiter, duration
from llmapi_kit.api.minute_counts import MinuteCounts
from llmapi_kit.api.token_estimate import ANSWER, request_tokens
from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import QuotaError, RateLimitError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.store.stored_key import KeyLimits, StoredKey

from .conftest import chat, error_of, wait_until

pytestmark = pytest.mark.slow

THREE = {"prompt": "one two three", "max_tokens": 3}


class Clock:
    """Stands at the beginning of a minute until it is told to go on."""

    def __init__(self):
        self.now = 1_700_000_040.0

    def time(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    stopped = types.SimpleNamespace(time=clock.time)
    for module in (minute_counts, minute_counts.MemoryStorage):
        name = module.__name__ if isinstance(module, types.ModuleType) else module.__module__
        monkeypatch.setattr(f"{name}.time", stopped)
    return clock


@pytest.fixture
def server(serve):
    return serve()


@pytest.fixture
def keyed(server, http):
    """Makes a client with a key of these limits."""

    def make(name="ada", **limits):
        key = server.keys.create(name, **limits)
        return http(server, headers={"Authorization": f"Bearer {key.api_key}"})

    return make


def limits_of(response):
    return {name[12:]: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}


def caller(**limits):
    return Caller("1", StoredKey("1", "ada", 0.0, b"digest", limits=KeyLimits(**limits)))


GENERATING = {
    "/v1/chat/completions": chat("one two three"),
    "/v1/completions": THREE,
    "/v1/embeddings": {"input": "one two three"},
    "/v1/images/generations": {"prompt": "one two three", "size": "16x16"},
    "/chat": {"prompt": "one two three", "history": []},
    "/chat-stream": {"prompt": "one two three"},
    "/embedding": {"prompt": ["one two three"]},
}


@pytest.mark.parametrize("path", GENERATING)
def test_every_route_that_asks_a_model_counts_its_requests(keyed, path):
    client = keyed(rpm=2)
    for left in ("1", "0"):
        response = client.post(path, json=GENERATING[path])
        assert response.status_code == 200, response.text
        assert limits_of(response).items() >= {"limit-requests": "2", "remaining-requests": left}.items()
    response = client.post(path, json=GENERATING[path])
    error = error_of(response, 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "'ada' may use 2 requests a minute" in error["message"]
    assert response.headers["retry-after"] == "61"
    assert limits_of(response) == {"limit-requests": "2", "remaining-requests": "0", "reset-requests": "1m31s"}


def test_sessions_count_too_and_say_when_to_come_back(keyed):
    client = keyed(rpm=1)
    session = client.post("/v1/chat/start", json={"bot_type": "chatgpt"}).json()["session"]
    ask = {"session": session, "content": "hello"}
    assert client.post("/v1/chat/ask", json=ask).json()["code"] == 0
    refused = client.post("/v1/chat/ask", json=ask)
    assert refused.json()["code"] == -2
    assert "1 requests a minute" in refused.json()["msg"]
    assert refused.headers["retry-after"] == "61"


def test_an_eventsource_counts_for_the_key_its_token_was_made_with(keyed):
    client = keyed(rpm=1)
    query = {"token": client.post("/chat-sse/token").json()["token"], "prompt": "hello", "stream": "false"}
    assert client.get("/chat-sse", params=query).status_code == 200
    error_of(client.get("/chat-sse", params=query), 429)


def test_what_asks_no_model_is_not_counted(keyed):
    client = keyed(rpm=1)
    for path in ("/v1/models", "/v1/key", "/v1/usage", "/readyz"):
        for _ in range(3):
            response = client.get(path)
            assert response.status_code == 200
            assert limits_of(response)["remaining-requests"] == "1"


def test_there_is_room_again_as_the_minute_slides_on(keyed, clock):
    client = keyed(rpm=4)
    for _ in range(4):
        client.post("/v1/completions", json=THREE)
    clock.now += 60  # the minute before counts in full
    error_of(client.post("/v1/completions", json=THREE), 429)
    clock.now += 31  # less than half of it counts
    statuses = [client.post("/v1/completions", json=THREE).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


def test_tokens_are_reserved_and_corrected_to_what_was_used(keyed):
    client = keyed(tpm=1000)
    answer = client.post("/v1/completions", json={**THREE, "max_tokens": 500})
    assert limits_of(answer) == {"limit-tokens": "1000", "remaining-tokens": "994", "reset-tokens": "1m51s"}
    with client.stream("POST", "/v1/completions", json={**THREE, "max_tokens": 500, "stream": True}) as stream:
        assert int(limits_of(stream)["remaining-tokens"]) < 994 - 500
        stream.read()
    assert limits_of(client.get("/v1/key"))["remaining-tokens"] == "988"


def test_a_key_whose_tokens_of_the_minute_are_used_waits(keyed):
    client = keyed(tpm=20)
    assert client.post("/v1/completions", json={"prompt": "word " * 9}).status_code == 200
    response = client.post("/v1/completions", json=THREE)
    assert "may use 20 tokens a minute, and this request may take" in error_of(response, 429)["message"]
    assert int(response.headers["retry-after"]) > 0


def test_a_request_that_takes_more_than_a_minutes_tokens_makes_the_next_one_wait(keyed, clock):
    client = keyed(tpm=10)
    assert client.post("/v1/completions", json={"prompt": "word " * 50}).status_code == 200
    response = client.post("/v1/completions", json=THREE)
    error_of(response, 429)
    clock.now += int(response.headers["retry-after"])
    assert client.post("/v1/completions", json=THREE).status_code == 200, "it can be believed"


def test_as_many_requests_run_at_once_as_a_key_may(serve, http):
    server = serve(MockEngine(reply="on and on", delay_s=0.005, num_tokens=100_000, context_length=200_000))
    key = server.keys.create("ada", concurrency=1)
    client = http(server, headers={"Authorization": f"Bearer {key.api_key}"})
    body = {"prompt": "a", "max_tokens": 100_000, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        response = client.post("/v1/completions", json=THREE)
        assert "has 1 request under way, as many as it may" in error_of(response, 429)["message"]
        assert response.headers["retry-after"] == "1"
        assert http(server).post("/v1/completions", json=THREE).status_code == 200, "the owner's is not held up"
    wait_until(lambda: client.post("/v1/completions", json=THREE).status_code == 200)


def test_what_was_refused_or_failed_frees_its_place(keyed):
    client = keyed(concurrency=1, tpm=10_000)
    for body in ({"prompt": "word " * 9000}, {"prompt": "a", "model": "none"}, {"prompt": "a", "n": 0}):
        assert client.post("/v1/completions", json=body).status_code >= 400
    assert client.post("/v1/completions", json=THREE).status_code == 200
    assert limits_of(client.get("/v1/key"))["remaining-tokens"] == "9994"


def test_a_budget_ends_for_good_and_says_so(server, keyed):
    client = keyed(budget=10)
    assert client.post("/v1/completions", json={"prompt": "one two three four five six"}).status_code == 200
    error = error_of(client.post("/v1/completions", json=THREE), 429)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "'ada' has used its 10 tokens" in error["message"]
    assert client.get("/v1/key").json()["budget"] == {"tokens": 10, "used": 12}
    server.keys.rotate("ada")
    server.restart()
    assert server._state.limiter.tokens_used(server._state.key_check.ring.all()[0].id) == 12


def test_what_runs_may_use_up_the_budget_so_the_rest_waits():
    limiter, key = Limiter(), caller(budget=100)
    first = limiter.admit(key, lambda: 500)
    with pytest.raises(RateLimitError, match="100 tokens left, which its requests under way may use up"):
        limiter.admit(key, lambda: 1)
    first.settle(40)
    first.settle(40)
    assert limiter.tokens_used("1") == 40
    limiter.set_used_elsewhere({"1": 60})
    with pytest.raises(QuotaError):
        limiter.admit(key, lambda: 1)


def test_of_many_at_once_no_more_than_the_limit_pass(server, keyed):
    client = keyed(rpm=5)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: client.post("/v1/completions", json=THREE).status_code, range(24)))
    assert sorted(statuses) == [200] * 5 + [429] * 19


def test_the_official_client_reads_it_as_its_own(server):
    key = server.keys.create("ada", rpm=1)
    with server.client(api_key=key.api_key, max_retries=0) as client:
        raw = client.completions.with_raw_response.create(model="mock", prompt="a")
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError, match="requests a minute"):
            client.completions.create(model="mock", prompt="a")


def test_a_key_without_limits_has_no_headers_and_costs_nothing():
    limiter = Limiter()
    assert limiter.admit(caller(), lambda: pytest.fail("nothing needs an estimate")) is None
    assert limiter.headers(caller()) == []


def test_an_estimate_has_the_prompt_and_the_longest_answers():
    words = "word " * 100
    plain = GenerationRequest(prompt=words, sampling=SamplingParams(max_tokens=7), n=3)
    assert 100 <= request_tokens([plain]) - 21 <= 250
    assert request_tokens([GenerationRequest(prompt=[1, 2, 3])]) == 3 + ANSWER
    image = [{"type": "text", "text": words}, {"type": "image_url", "image_url": {"url": "data:," + "A" * 10**6}}]
    messages = [{"role": "user", "content": image}, {"role": "assistant", "content": None}]
    assert 500 < request_tokens([GenerationRequest(messages=messages)]) - ANSWER < 1000


def test_a_wait_is_as_long_as_it_takes(clock):
    counts = MinuteCounts()
    counts.add("a", 10, 10)
    clock.now += 30
    for amount in (1, 5, 10):
        before = counts.window("a", 10)
        wait_s = before.wait_s(10, amount)
        clock.now += wait_s - 1
        assert not counts.window("a", 10).has_room(10, amount)
        assert not before.after(wait_s - 1).has_room(10, amount)
        clock.now += 1
        assert counts.window("a", 10).has_room(10, amount)
        assert before.after(wait_s).has_room(10, amount)
    assert counts.window("a", 10).wait_s(10, 10) == 0
    clock.now += 120
    assert counts.window("a", 10).remaining(10) == before.after(120).remaining(10) == (10, 0)


def test_tokens_are_given_back_to_the_minute_they_were_counted_in(clock):
    counts = MinuteCounts()
    window = counts.add("a", 100, 90)
    clock.now += 60
    counts.take_back(window, 80)
    assert counts.window("a", 100).remaining(100)[0] == 90
    clock.now += 120
    counts.take_back(window, 10)
    assert counts.window("a", 100).remaining(100)[0] == 100


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0s"), (0.0171, "18ms"), (1, "1s"), (6.2, "7s"), (60, "1m0s"), (119.5, "2m0s")]
)
def test_a_length_of_time_is_written_as_openai_does(seconds, written):
    assert duration(seconds) == written


def test_wrong_attempts_are_counted_together():
    attempts = Attempts(2)
    attempts.add()
    attempts.add()
    with pytest.raises(RateLimitError, match="More than 2 wrong attempts"):
        attempts.add()


def code_of(invitation):
    return invitation.url.partition("#invite=")[2]


@pytest.fixture
def stranger(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        yield client


def test_an_invitation_becomes_one_key_for_whoever_comes_first(server, stranger, http):
    invitation = server.invite("alice", rpm=7, models=["mock"], budget=1000, expires=3600)
    response = stranger.post("/invitations", json={"code": code_of(invitation)})
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert list(answer) == ["api_key", "name", "models", "expires_at"]
    assert (answer["name"], answer["models"]) == ("alice", ["mock"])
    key = http(server, headers={"Authorization": f"Bearer {answer['api_key']}"}).get("/v1/key").json()
    assert (key["name"], key["limits"]["rpm"], key["expires_at"]) == ("alice", 7, answer["expires_at"])
    assert server.invitations() == []
    again = stranger.post("/invitations", json={"code": code_of(invitation)})
    assert error_of(again, 410)["code"] == "invitation_gone"
    assert answer["api_key"] not in "".join(server.logs(1000))
    assert code_of(invitation) not in "".join(server.logs(1000))


def test_of_many_who_come_at_once_one_gets_the_key(server, stranger):
    body = {"code": server.invite("alice").code}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: stranger.post("/invitations", json=body).status_code, range(8)))
    assert sorted(statuses) == [200] + [410] * 7


@pytest.mark.parametrize(
    "end", [lambda server: server.keys.withdraw("alice"), lambda server: server.keys.revoke("alice")]
)
def test_a_withdrawn_invitation_is_gone(server, stranger, end):
    invitation = server.invite("alice")
    end(server)
    error_of(stranger.post("/invitations", json={"code": invitation.code}), 410)


def test_an_expired_invitation_is_gone(server, stranger, monkeypatch):
    invitation = server.invite("alice", open_for=1e-6)
    error_of(stranger.post("/invitations", json={"code": invitation.code}), 410)


def test_wrong_codes_are_told_nothing_and_to_wait_while_a_right_one_still_works(server, stranger):
    invitation = server.invite("alice")
    statuses = [stranger.post("/invitations", json={"code": f"wrong {i}"}).status_code for i in range(35)]
    assert statuses == [404] * 30 + [429] * 5
    assert stranger.post("/invitations", json={"code": invitation.code}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"code": 1}, 400), ({"code": ""}, 404), ({"code": "a", "x": 1}, 400), ({"code": "a" * 5000}, 413)],
)
def test_what_is_no_invitation_is_refused(stranger, body, status):
    error_of(stranger.post("/invitations", json=body), status)
