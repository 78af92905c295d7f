"""Whatever a process dies of, and when, each request ends once, on the event loops of two threads."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.process.engine import ProcessEngine
from llmapi_kit.errors import EngineUnavailableError
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .engines import make_mock

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="made for Linux and macOS"), pytest.mark.slow]
DEADLINE_S = 120
NUM_STREAMS, NUM_TOKENS = 8, 40  # of each thread


async def ask(engine):
    """How an answer ended; it ends once, and with the last of its events."""
    events = []
    try:
        sampling = SamplingParams(max_tokens=NUM_TOKENS)
        async for event in engine.generate(GenerationRequest(prompt="a b c", sampling=sampling)):
            events.append(event)  # noqa: PERF401 - those before an error count
    except EngineUnavailableError:
        assert not events
        await asyncio.sleep(0.01)  # as clients do, until there is a process again
        return "refused"
    assert [type(event) for event in events[:-1] if not isinstance(event, Delta)] == [Accepted]
    if isinstance(events[-1], Failed):
        return "failed"
    assert isinstance(events[-1], Finished)
    assert sum(event.num_tokens for event in events[1:-1]) == NUM_TOKENS
    return "finished"


async def embed(engine):
    try:
        return f"{len(await engine.embed(['one', 'two']))} embedded"
    except EngineUnavailableError:
        await asyncio.sleep(0.01)
        return "no embedding"


class Clients:
    """Ask again and again until they are to stop, in threads that have an event loop each."""

    def __init__(self, engine):
        self.ends = Counter()
        self.is_over = threading.Event()
        self._engine = engine
        self._lock = threading.Lock()

    def run(self):
        """Of a thread."""

        async def repeat(once):
            while not self.is_over.is_set():
                end = await once(self._engine)
                with self._lock:
                    self.ends[end] += 1

        async def all_of_them():
            await asyncio.gather(repeat(embed), *(repeat(ask) for _ in range(NUM_STREAMS)))

        asyncio.run(asyncio.wait_for(all_of_them(), DEADLINE_S))


def wait_until(condition):
    over = threading.Event()
    for _ in range(DEADLINE_S * 200):
        if condition():
            return
        over.wait(0.005)
    raise AssertionError("it never was")


def pid_of(engine, before=None):
    """Of its process, once there is one, and another one than before."""
    wait_until(lambda: engine.pid not in (None, before))
    return engine.pid


def die_while_answering(engine):
    wait_until(lambda: engine.stats().num_running > NUM_STREAMS)
    os.kill(pid_of(engine), signal.SIGSEGV)


def die_before_the_first_token(engine):
    first = pid_of(engine)
    os.kill(first, signal.SIGKILL)
    os.kill(pid_of(engine, first), signal.SIGKILL)


def die_while_it_is_loaded(engine):
    pid, ours = pid_of(engine), psutil.Process()
    others = set(ours.children())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(ours.children()) - others)
    for process in set(ours.children()) - others:
        process.kill()


def stop_for_a_while(engine):
    pid = pid_of(engine)
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(0.3)  # it is to be stopped for a time
    os.kill(pid, signal.SIGCONT)


DEATHS = [die_while_answering, die_before_the_first_token, die_while_it_is_loaded, stop_for_a_while]


@pytest.mark.parametrize("deaths", [DEATHS[:3], pytest.param(DEATHS * 5, marks=pytest.mark.cluster)])
def test_each_request_ends_once_whenever_its_process_dies_and_nothing_is_left(deaths, caplog):
    before = psutil.Process().num_fds(), set(psutil.Process().children())
    engine = ProcessEngine(partial(make_mock, delay_s=0.005), name="mock", restart_delays_s=(0.01,))
    clients = Clients(engine)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(clients.run) for _ in range(2)]
        for die in deaths:
            answered = clients.ends["finished"] + NUM_STREAMS
            wait_until(lambda least=answered: clients.ends["finished"] >= least)
            die(engine)
        wait_until(lambda: engine.readiness().ready)
        answered = clients.ends["finished"] + NUM_STREAMS
        wait_until(lambda least=answered: clients.ends["finished"] >= least)
        clients.is_over.set()
        for each in running:
            each.result(DEADLINE_S)
        stats = engine.stats()
        engine.close()
    assert stats.num_finished == clients.ends["finished"]
    assert clients.ends["failed"] <= stats.num_failed <= clients.ends["failed"] + clients.ends["refused"]
    assert stats.num_running == stats.num_queued == stats.num_cancelled == 0
    wait_until(lambda: set(psutil.Process().children()) <= before[1])
    wait_until(lambda: psutil.Process().num_fds() <= before[0])


def test_requests_end_when_the_process_dies_as_it_is_unloaded(caplog):
    engine = ProcessEngine(partial(make_mock, delay_s=0.005), name="mock", restart_delays_s=(1000,))
    clients = Clients(engine)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(clients.run) for _ in range(2)]
        wait_until(lambda: clients.ends["finished"] >= NUM_STREAMS)
        os.kill(engine.pid, signal.SIGSTOP)  # it takes no more
        closing = threading.Thread(target=engine.close)
        closing.start()
        os.kill(engine.pid, signal.SIGKILL)
        closing.join(DEADLINE_S)
        clients.is_over.set()
        for each in running:
            each.result(DEADLINE_S)
    assert engine.readiness().reason == "The model was unloaded."
