"""Stopping a server: nobody hangs, neither the cell that stops nor the clients."""

import signal
import threading
import time

import httpx
import openai
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ServerError

pytestmark = pytest.mark.kernel

DEADLINE_S = 60.0
SOON_S = 25.0  # a server that waits for what runs waits 30 s unless told otherwise


def seconds(function, *args):
    started = time.monotonic()
    function(*args)
    return time.monotonic() - started


def test_stop_before_anything_was_asked(live_server):
    server = live_server()
    assert seconds(server.stop) < SOON_S
    assert not server.is_running
    assert "stopped" in repr(server)


def test_an_open_stream_ends_in_an_error_event(live_server, client_of, gated_engine, events_of, beside):
    engine = gated_engine(before="end")
    server = live_server(engine)
    with client_of(server).stream() as response:
        assert engine.arrived.wait(DEADLINE_S)
        assert seconds(server.stop, 0) < SOON_S
        *_, last = events_of(response)
    assert last["error"]["message"] == "The server was stopped."
    assert last["error"]["code"] == "engine_unavailable"
    assert engine.stats().num_cancelled == 1
    assert engine.stats().num_running == 0


def test_a_stream_under_stop_raises_in_the_official_client(live_server, gated_engine):
    engine = gated_engine(before="end")
    server = live_server(engine)
    with server.client(max_retries=0) as client:
        messages = [{"role": "user", "content": "hello"}]
        stream = client.chat.completions.create(model="mock", messages=messages, stream=True)
        assert engine.arrived.wait(DEADLINE_S)
        server.stop(0)
        with pytest.raises(openai.APIError, match="The server was stopped"):
            list(stream)


@pytest.mark.parametrize("place", ["accepted", "first token", "end"])
def test_a_whole_answer_under_stop_gets_503_wherever_it_was(live_server, client_of, gated_engine, beside, place):
    engine = gated_engine(before=place)
    server = live_server(engine)
    answer = beside(client_of(server).ask)
    assert engine.arrived.wait(DEADLINE_S)
    assert seconds(server.stop, 0) < SOON_S
    response = answer.join()
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The server was stopped."


def test_running_requests_may_finish_within_drain_s(live_server, client_of, gated_engine, beside, wait_until):
    engine = gated_engine(before="end")
    server = live_server(engine)
    answer = beside(client_of(server).ask)
    assert engine.arrived.wait(DEADLINE_S)
    stopping = beside(seconds, server.stop, DEADLINE_S)
    wait_until(lambda: not server.is_running)
    engine.open()
    assert answer.join().json()["choices"][0]["message"]["content"] == "all good"
    assert stopping.join() < SOON_S


def test_new_requests_while_draining_get_503_with_retry_after(live_server, client_of, gated_engine, beside, wait_until):
    engine = gated_engine(before="end")
    server = live_server(engine)
    client = client_of(server)
    answer = beside(client.ask)
    assert engine.arrived.wait(DEADLINE_S)
    stopping = beside(seconds, server.stop, DEADLINE_S)
    wait_until(lambda: not server.is_running)
    refused = client_of(server).ask()
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert "stopping" in refused.json()["error"]["message"]
    assert client.http.get("/readyz").status_code == 503
    engine.open()
    answer.join()
    stopping.join()


def test_a_client_that_stops_reading_does_not_hold_up_stop(
    live_server, client_of, wait_until, stalled_reader, has_stalled
):
    engine = MockEngine("x" * 20_000, num_tokens=2000)  # more than any socket buffer takes
    server = live_server(engine)
    with stalled_reader(server, client_of(server).body("x", stream=True)):
        wait_until(lambda: has_stalled(engine))
        assert seconds(server.stop, 0) < SOON_S
    assert engine.stats().num_running == 0
    assert engine.stats().num_cancelled == 1


def test_stop_twice_and_from_several_threads(live_server, beside):
    server = live_server()
    jobs = [beside(seconds, server.stop) for _ in range(3)]
    assert all(job.join() < SOON_S for job in jobs)
    assert seconds(server.stop) < SOON_S


def test_an_interrupt_while_it_drains_ends_it_all_the_same(live_server, client_of, gated_engine, beside):
    engine = gated_engine(before="end")
    server = live_server(engine)
    answer = beside(client_of(server).ask)
    assert engine.arrived.wait(DEADLINE_S)
    threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        server.stop(DEADLINE_S)
    assert answer.join().status_code == 503
    assert not server._thread.is_alive
    with pytest.raises(httpx.ConnectError):
        client_of(server).http.get("/healthz")


def test_a_second_stop_ends_what_an_interrupted_one_left(live_server, monkeypatch):
    server = live_server()

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(server._thread, "stop", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.stop()
    assert server._thread.is_alive
    assert server._registry.running() == []
    server.stop()
    assert not server._thread.is_alive


def test_a_stopped_server_says_so_when_it_is_used(live_server):
    server = live_server()
    server.stop()
    with pytest.raises(ServerError, match=r"is stopped. Launch it again"):
        server.client()


def test_a_dead_server_says_why_and_is_found_no_more(live_server, caplog):
    server = live_server()
    server._thread.call_soon(raise_exit)
    server._thread._thread.join(DEADLINE_S)
    assert not server.is_running
    assert "dead (SystemExit: the roof fell in)" in repr(server)
    assert server._registry.running() == []
    assert "died" in caplog.text
    with pytest.raises(ServerError, match=r"is dead .SystemExit: the roof fell in.. Launch it again"):
        server.client()


def raise_exit():
    raise SystemExit("the roof fell in")
