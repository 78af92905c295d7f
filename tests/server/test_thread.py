"""The server's thread: it says why it did not start, leaves nothing behind, and tells when it has died."""

import asyncio
import gc
import importlib.util
import signal
import socket
import sys
import threading
import time

import httpx
import pytest
import uvicorn

from llmapi_kit.errors import ServerStartError
from llmapi_kit.server.port import bind
from llmapi_kit.server.thread import ServerThread

pytestmark = pytest.mark.kernel

DEADLINE_S = 60.0


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def make_thread():
    threads = []

    def make(app=hello, **options):
        threads.append(ServerThread(app, host="127.0.0.1", port=0, **options))
        return threads[-1]

    yield make
    for thread in threads:
        thread.stop()


def assert_nothing_left(thread):
    assert not thread.is_alive
    bind("127.0.0.1", thread.port).close()


def get(thread):
    return httpx.get(f"http://127.0.0.1:{thread.port}/", timeout=DEADLINE_S, trust_env=False)


def raise_at_start(monkeypatch, act):
    async def startup(self, sockets=None):
        await act()

    monkeypatch.setattr(uvicorn.Server, "startup", startup)


@pytest.fixture
def thresholds():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("thresholds")
def test_cycles_are_looked_for_rarely(make_thread):
    gc.set_threshold(700, 10, 10)
    make_thread().start(DEADLINE_S)
    assert gc.get_threshold()[:2] == (10_000, 20)


@pytest.mark.usefixtures("thresholds")
@pytest.mark.parametrize("own", [(50_000, 30, 60), (0, 10, 10)])
def test_a_collector_that_is_set_rarer_or_off_stays_so(make_thread, own):
    gc.set_threshold(*own)
    own = gc.get_threshold()  # some Pythons have no third threshold
    make_thread().start(DEADLINE_S)
    assert gc.get_threshold() == own


def test_it_answers_when_start_returns(make_thread):
    thread = make_thread()
    thread.start(DEADLINE_S)
    assert get(thread).text == "hello"


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_it_answers_with_and_without_uvloop(make_thread, monkeypatch, has_uvloop):
    assert importlib.util.find_spec("uvloop"), "the test extra brings it"
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    kinds = []

    async def tell(scope, receive, send):
        kinds.append(type(asyncio.get_running_loop()).__module__)
        await hello(scope, receive, send)

    thread = make_thread(tell)
    thread.start(DEADLINE_S)
    assert get(thread).text == "hello"
    assert kinds[0].startswith("uvloop") == has_uvloop


def test_signal_handlers_stay_as_they_were(make_thread):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = make_thread()
    thread.start(DEADLINE_S)
    get(thread)
    during = {number: signal.getsignal(number) for number in before}
    thread.stop()
    after = {number: signal.getsignal(number) for number in before}
    assert before == during == after


def test_a_failed_start_raises_its_cause_and_leaves_nothing(make_thread, monkeypatch):
    async def fail():
        raise SystemExit(3)  # how uvicorn leaves

    raise_at_start(monkeypatch, fail)
    thread = make_thread()
    with pytest.raises(ServerStartError, match=f"port {thread.port} did not start: SystemExit: 3") as caught:
        thread.start(DEADLINE_S)
    assert isinstance(caught.value.__cause__, SystemExit)
    assert_nothing_left(thread)


def test_a_start_that_hangs_is_given_up(make_thread, monkeypatch):
    raise_at_start(monkeypatch, asyncio.Event().wait)
    thread = make_thread()
    with pytest.raises(ServerStartError, match=r"no answer within 0\.2 s"):
        thread.start(0.2)
    assert_nothing_left(thread)


def test_an_interrupt_while_it_starts_leaves_nothing(make_thread, monkeypatch):
    async def interrupt_and_hang():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        await asyncio.Event().wait()

    raise_at_start(monkeypatch, interrupt_and_hang)
    thread = make_thread()
    with pytest.raises(KeyboardInterrupt):
        thread.start(DEADLINE_S)
    assert_nothing_left(thread)


def test_stop_before_start_frees_the_port(make_thread):
    thread = make_thread()
    assert thread.stop()
    assert_nothing_left(thread)


def test_stop_twice_and_from_another_thread(make_thread):
    thread = make_thread()
    thread.start(DEADLINE_S)
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    stopper.join(DEADLINE_S)
    assert_nothing_left(thread)
    assert thread.stop()
    assert thread.cause is None


def test_idle_connections_do_not_hold_up_stop(make_thread):
    thread = make_thread()
    thread.start(DEADLINE_S)
    with socket.create_connection(("127.0.0.1", thread.port), timeout=DEADLINE_S) as idle:
        assert thread.stop(timeout_s=DEADLINE_S)
        assert idle.recv(1) == b""


def test_a_server_that_leaves_connections_to_others_accepts_none_from_when_it_says_so(make_thread):
    thread = make_thread()
    thread.start(DEADLINE_S)
    thread.call_soon(time.sleep, 0.2)
    thread.stop_listening()
    assert [server.is_serving() for server in thread._server.servers] == [False]


@pytest.mark.slow
def test_an_application_that_never_ends_does_not_hold_up_stop(make_thread):
    has_begun = threading.Event()

    async def hang(scope, receive, send):
        has_begun.set()
        await asyncio.Event().wait()

    thread = make_thread(hang)
    thread.start(DEADLINE_S)
    with socket.create_connection(("127.0.0.1", thread.port), timeout=DEADLINE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert has_begun.wait(DEADLINE_S)
        assert thread.stop(timeout_s=DEADLINE_S)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_a_dead_thread_tells_why_and_frees_its_port(make_thread, monkeypatch, has_uvloop):
    assert importlib.util.find_spec("uvloop"), "the test extra brings it"
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    has_died = threading.Event()
    thread = make_thread(on_death=has_died.set)
    thread.start(DEADLINE_S)

    def die():
        raise SystemExit("the roof fell in")

    thread.call_soon(die)
    assert has_died.wait(DEADLINE_S)
    thread._thread.join(DEADLINE_S)
    assert str(thread.cause) == "the roof fell in"
    assert_nothing_left(thread)
    thread.call_soon(die)  # does nothing any more


def test_stop_is_no_death(make_thread):
    deaths = []
    thread = make_thread(on_death=lambda: deaths.append(1))
    thread.start(DEADLINE_S)
    thread.stop()
    assert not deaths
