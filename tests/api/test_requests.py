"""What whoever runs a server sees of its requests: those under way, the power to end one, and a line for each."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from llmapi_kit.api.caller import Caller
from llmapi_kit.api.request_log import MAX_STRANGERS_A_SECOND, RequestLog
from llmapi_kit.api.request_record import RequestRecord
from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY, wait_until

SECRET = "what nobody else may read"


def request_lines(server, **fields):
    """The request log of a server, by its port."""
    lines = [json.loads(line) for line in server.logs(10_000)]
    return [line for line in lines if line.get("port") == server.port and fields.items() <= line.items()]


@pytest.fixture
def slow(serve):
    """A server whose answers take for ever, a token at a time."""
    return serve(MockEngine(reply=SECRET, delay_s=0.005, num_tokens=100_000, context_length=200_000))


def ask(client, **options):
    messages = [{"role": "user", "content": SECRET}]
    return client.chat.completions.create(model="mock", messages=messages, **options)


def test_a_running_request_is_listed_while_it_runs_and_ends_in_an_error_when_it_is_cancelled(slow):
    with slow.client() as client, ask(client, stream=True) as stream:
        first = next(iter(stream))
        (request,) = slow.requests()
        assert (request.id, request.model, request.key) == (first.id, "mock", "owner")
        assert request.route == "POST /v1/chat/completions"
        assert request.prompt_tokens == len(SECRET.split())
        wait_until(lambda: slow.requests()[0].completion_tokens > 3)
        assert slow.requests()[0].state == "running"
        assert SECRET not in repr(slow.requests())

        assert slow.cancel(request.id)
        with pytest.raises(openai.APIError, match="cancelled by whoever runs this server"):
            for _ in stream:
                pass
    wait_until(lambda: not slow.requests())
    assert not slow.cancel(request.id)
    assert slow.stats()["mock"]["num_cancelled"] == 1
    wait_until(lambda: request_lines(slow, error="request_cancelled"))
    (usage,) = slow.usage()
    assert (usage["cancelled"], usage["failed"]) == (1, 0)


def test_a_whole_answer_that_is_cancelled_is_a_403_which_no_client_tries_again(slow):
    url, body = f"{slow.url}/v1/completions", {"prompt": "a", "max_tokens": 100_000}
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.post, url, json=body)
            wait_until(lambda: slow.requests() and slow.requests()[0].completion_tokens)
            assert slow.cancel(slow.requests()[0].id)
            response = answer.result(30)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "request_cancelled")


def test_each_request_is_a_line_of_its_key_model_tokens_and_status_without_a_word_of_it(serve):
    server = serve(MockEngine(reply=SECRET))
    with server.client() as client:
        ask(client)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=[{"role": "user", "content": SECRET}])
    wait_until(lambda: len(request_lines(server)) == 2)
    good, bad = request_lines(server)
    assert good["message"] == "POST /v1/chat/completions 200"
    assert {"status": 200, "key": "owner", "model": "mock"}.items() <= good.items()
    assert (good["prompt_tokens"], good["completion_tokens"]) == (len(SECRET.split()),) * 2
    assert good["seconds"] >= 0
    assert (bad["status"], bad["error"], "model" in bad) == (404, "model_not_found", False)
    assert SECRET not in "".join(server.logs(10_000))
    assert KEY not in "".join(server.logs(10_000))


def test_the_log_of_requests_is_off_where_the_settings_say_so(serve):
    server = serve(request_log=False)
    with server.client() as client:
        ask(client)
    assert request_lines(server) == []


def test_what_a_stranger_sends_shows_escaped_and_without_its_query(serve):
    server = serve()
    url = f"{server.url}/a%1b[31m%e2%80%ae/{'x' * 500}?token=secret"
    with httpx.Client(trust_env=False) as client:
        assert client.get(url).status_code == 404
    wait_until(lambda: request_lines(server))
    (line,) = [each for each in server.logs(10_000) if f'"port": {server.port}' in each]
    assert line.isprintable()
    assert "token=secret" not in line
    assert len(line) < 600
    assert json.loads(line)["key"] == "none"


def test_a_flood_without_the_key_is_a_few_lines_and_a_count():
    lines, now = [], [10.0]
    log = RequestLog(lambda line: lines.append(line()), 8000, clock=lambda: now[0])
    for _ in range(100):
        log.add(RequestRecord("req_1", "GET", "/admin"), 404, 0.001)
    log.add(RequestRecord("req_2", "GET", "/v1/models", caller=Caller("1")), 404, 0.001)
    assert len(lines) == MAX_STRANGERS_A_SECOND + 1, "whoever has the key is not left out"
    now[0] += 1
    log.add(RequestRecord("req_3", "GET", "/v1/models", caller=Caller("1")), 200, 0.001)
    assert lines[-2] == {"port": 8000, "message": "95 more failed requests without the key", "left_out": 95}
    log.flush()
    assert lines[-1]["request_id"] == "req_3"
