"""An engine in a process of its own keeps every promise of an engine, and outlives its process; nobody outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from functools import partial

import psutil
import pytest

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.process.engine import ProcessEngine
from llmapi_kit.errors import (
    ConfigError,
    ContextLengthError,
    EngineUnavailableError,
    GenerationError,
    MissingDependencyError,
    ModelLoadError,
)
from llmapi_kit.loading.load_request import resolve
from llmapi_kit.loading.loader import ModelLoader
from llmapi_kit.progress import reporting
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.testing import EngineContract
from llmapi_kit.testing.events import collect
from llmapi_kit.types import Accepted, Delta, Failed, Finished

from .engines import (
    BrokenEngine,
    DyingEngine,
    DyingFailedEngine,
    DyingLaterEngine,
    FailingEngine,
    HangingEngine,
    Unreadable,
    UnreadableEngine,
    crash,
    fail_to_make,
    load_for_long,
    make_mock,
    make_once,
)

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="made for Linux and macOS"), pytest.mark.slow]
DEADLINE_S = 60


class TestProcessEngine(EngineContract):
    def make_engine(self):
        return ProcessEngine(make_mock, name="mock")


@pytest.fixture
def start():
    """Makes engines that come back at once, and closes them."""
    made = []

    def start(make_engine=make_mock, delays=(0.01,), **options):
        made.append(ProcessEngine(make_engine, name="mock", restart_delays_s=delays, **options))
        return made[-1]

    yield start
    for engine in made:
        engine.close()


def long_request():
    return GenerationRequest(prompt="a b c", sampling=SamplingParams(max_tokens=150))


def wait_until(condition):
    over = threading.Event()
    for _ in range(DEADLINE_S * 100):
        if condition():
            return
        over.wait(0.01)
    raise AssertionError("it never was")


async def answers_and_crash(engine, num_requests):
    """All events of requests whose engine's process dies as soon as each has begun."""
    begun = asyncio.Semaphore(0)

    async def follow():
        events = []
        async for event in engine.generate(long_request()):
            events.append(event)
            if len(events) == 3:
                begun.release()
        return events

    tasks = [asyncio.create_task(follow()) for _ in range(num_requests)]
    for _ in tasks:
        await begun.acquire()
    os.kill(engine.pid, signal.SIGSEGV)
    return await asyncio.gather(*tasks)


def test_a_crash_ends_each_request_in_one_error_and_the_model_comes_back(start, caplog):
    engine = start()
    first = engine.pid
    for events in asyncio.run(answers_and_crash(engine, 8)):
        assert [type(event) for event in events[1:]] == [Delta] * (len(events) - 2) + [Failed]
        assert isinstance(events[-1].error, EngineUnavailableError)
        assert "SIGSEGV" in events[-1].error.message
        assert events[-1].error.retry_after_s
    wait_until(lambda: engine.readiness().ready)
    assert engine.pid != first
    assert engine.stats().num_failed == 8
    assert isinstance(asyncio.run(collect(engine.generate(long_request())))[-1], Finished)
    assert engine.stats().num_finished == 1
    assert "died (SIGSEGV" in caplog.text


def test_what_ends_the_process_from_within_is_told(start, caplog):
    """It ended with code 0 and without a word."""
    engine = start(BrokenEngine, delays=(1000,))
    engine.readiness()
    wait_until(lambda: engine.pid is None)
    assert "exit code 1: ZeroDivisionError: how it is can't be told" in engine.readiness().reason
    wait_until(lambda: "can't be told" in caplog.text)


def test_while_there_is_no_process_requests_are_refused_with_the_reason(start):
    engine = start(delays=(1000,))
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: engine.pid is None)
    assert "SIGKILL" in engine.readiness().reason
    for attempt in (collect(engine.generate(long_request())), engine.tokenize("one"), engine.embed(["one"])):
        with pytest.raises(EngineUnavailableError, match="is started anew") as caught:
            asyncio.run(attempt)
        assert caught.value.retry_after_s
    engine.close()
    assert engine.readiness().reason == "The model was unloaded."


def test_a_model_that_does_not_load_any_more_says_why(start, tmp_path):
    engine = start(partial(make_once, tmp_path / "mark"), delays=(0.01, 1000))
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: "no memory for it now" in engine.readiness().reason)
    assert not engine.readiness().ready


def test_errors_come_over_as_what_they_are(start):
    engine = start(FailingEngine)
    with pytest.raises(ContextLengthError, match="too long") as refused:
        asyncio.run(collect(engine.generate(GenerationRequest(prompt="refuse"))))
    assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(GenerationError, match="The model failed") as failed:
        asyncio.run(collect(engine.generate(GenerationRequest(prompt="fail"))))
    assert failed.value.code == "broken"
    with pytest.raises(ZeroDivisionError, match="of nobody's class"):
        asyncio.run(collect(engine.generate(GenerationRequest(prompt="other"))))


def test_what_making_the_engine_raises_is_raised_and_leaves_no_process():
    before = set(psutil.Process().children())
    with pytest.raises(MissingDependencyError, match=r"llmapi-kit\[torch\]") as caught:
        ProcessEngine(fail_to_make, name="m")
    assert caught.value.extra == "torch"
    with pytest.raises(ModelLoadError, match=r"'m' died \(SIGSEGV\)"):
        ProcessEngine(crash, name="m")
    assert set(psutil.Process().children()) <= before


def test_what_can_not_be_had_in_another_process_is_named():
    with pytest.raises(ConfigError, match="can't be sent to another process"):
        ProcessEngine(lambda: None, name="m")

    class Local(ModelLoader):
        """As in a cell: nobody can import it."""

    with pytest.raises(ConfigError, match="module that can be imported"):
        resolve(Local("pocket"), given={"process": True}).make()


def test_progress_and_log_lines_come_over(caplog):
    steps = []
    with reporting(steps.append):
        engine = ProcessEngine(make_mock, name="mock")
    pid = engine.pid
    engine.close()
    assert [(each.step, each.done, each.total, each.unit) for each in steps] == [("reading weights", 1, 2, "B")]
    assert f"made in {pid}" in caplog.text


def test_closing_ends_the_process_and_loading_again_and_again_leaves_nothing(start):
    pids = set()
    for _ in range(20):
        engine = start()
        pids.add(engine.pid)
        engine.close()
    assert len(pids) == 20
    assert not any(psutil.pid_exists(pid) for pid in pids)
    names = [thread.name for thread in threading.enumerate()]
    wait_until(
        lambda: (
            not any(name == "llmapi_kit engine process" for name in names)
            or not any(thread.name == "llmapi_kit engine process" for thread in threading.enumerate())
        )
    )


@pytest.fixture(scope="module")
def long_load(tmp_path_factory):
    """The thread of a load that has begun, when it is longer than a step may be, what ends it, and where it ends up."""
    over, made, step_s = tmp_path_factory.mktemp("load") / "over", [], 5

    def load():
        made.append(ProcessEngine(partial(load_for_long, over), name="mock", step_timeout_s=step_s))

    loading = threading.Thread(target=load)
    loading.start()
    yield loading, time.monotonic() + step_s + 1, over, made
    over.touch()
    loading.join(DEADLINE_S)
    for engine in made:
        engine.close()


@pytest.mark.usefixtures("long_load")  # which goes on while this and the next ones wait
def test_a_step_that_never_returns_ends_its_process_and_the_model_comes_back(start, tmp_path, caplog):
    """Its requests, running or queued, waited until their time was over, and the next ones too."""
    engine = start(partial(HangingEngine, tmp_path / "mark"), step_timeout_s=5)
    first = engine.pid

    async def ask_two():
        asked = [collect(engine.generate(GenerationRequest(prompt="hang"))) for _ in range(2)]
        return await asyncio.gather(*asked, return_exceptions=True)

    said = "for 5 s, the limit that step_timeout_s sets"  # a busy machine can hold up the answers, too
    hung, other = asyncio.run(ask_two())
    assert isinstance(hung, EngineUnavailableError)
    assert said in hung.message
    assert hung.retry_after_s
    assert isinstance(other[-1], Finished)
    wait_until(lambda: engine.readiness().ready)
    assert said in caplog.text
    assert engine.pid != first
    assert not psutil.pid_exists(first)
    assert isinstance(asyncio.run(collect(engine.generate(GenerationRequest(prompt="hang"))))[-1], Finished)


def test_a_process_that_is_stopped_is_ended_and_the_model_comes_back(start):
    engine = start(step_timeout_s=2)
    first = engine.pid
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(EngineUnavailableError, match="it had not answered for 2 s"):
        asyncio.run(engine.tokenize("one"))
    wait_until(lambda: engine.readiness().ready)
    assert engine.pid != first
    assert not psutil.pid_exists(first)


def test_a_process_that_does_not_answer_is_not_ready_even_before_it_is_ended(start, monkeypatch):
    monkeypatch.setattr("llmapi_kit.engines.process.engine.SILENT_AFTER_S", 0.5)
    engine = start(step_timeout_s=10)
    os.kill(engine.pid, signal.SIGSTOP)
    wait_until(lambda: not engine.readiness().ready)
    assert "process has not answered for" in engine.readiness().reason
    os.kill(engine.pid, signal.SIGCONT)
    wait_until(lambda: engine.readiness().ready)


def test_a_load_may_take_longer_than_a_step(long_load):
    """What counts is whether the process answers."""
    loading, longer_at, over, made = long_load
    loading.join(max(0, longer_at - time.monotonic()))
    assert loading.is_alive()
    over.touch()
    loading.join(DEADLINE_S)
    (engine,) = made
    first = engine.pid
    assert isinstance(asyncio.run(collect(engine.generate(long_request())))[-1], Finished)
    assert engine.pid == first


def test_all_that_a_process_said_before_its_end_comes_before_the_error(start):
    """Also where the event loop learns of the end before it has read any of it."""
    engine = start(DyingEngine, delays=(1000,))

    async def read_late():
        events = engine.generate(long_request())
        first = await anext(events)
        wait_until(lambda: engine.pid is None)  # and the event loop waits as well
        return [first, *[event async for event in events]]

    *said, error = asyncio.run(read_late())
    assert "".join(event.text for event in said if isinstance(event, Delta)) == "a b c"
    assert "exit code 3" in error.error.message


def test_an_answer_that_is_over_stays_whole_when_its_process_dies(start):
    engine = start(DyingLaterEngine, delays=(1000,))
    events = asyncio.run(collect(engine.generate(long_request())))
    assert [type(event) for event in events if not isinstance(event, Delta)] == [Accepted, Finished]
    assert (engine.stats().num_finished, engine.stats().num_failed) == (1, 0)


def test_an_answer_that_failed_fails_once_when_its_process_dies(start):
    engine = start(DyingFailedEngine, delays=(1000,))
    events = asyncio.run(collect(engine.generate(long_request())))
    assert [type(event) for event in events] == [Accepted, Failed]
    assert events[-1].error.message == "The model failed."
    assert (engine.stats().num_finished, engine.stats().num_failed) == (0, 1)


def test_an_answer_that_is_read_after_its_process_died_is_whole_and_counted_once(start):
    """Its client reads slowly."""
    engine = start(partial(make_mock, delay_s=0), delays=(1000,))

    async def read_later():
        async with aclosing(engine.generate(long_request())) as events:
            first = await anext(events)
            await asyncio.to_thread(wait_until, lambda: engine.stats().num_finished)
            os.kill(engine.pid, signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: not engine._connections)
            return [first, *[event async for event in events]]

    events = asyncio.run(asyncio.wait_for(read_later(), DEADLINE_S))
    assert isinstance(events[-1], Finished)
    assert sum(event.num_tokens for event in events if isinstance(event, Delta)) == 150
    assert (engine.stats().num_finished, engine.stats().num_failed) == (1, 0)


def test_event_loops_that_end_leave_no_connection(start):
    engine = start()
    ours, theirs = psutil.Process(), psutil.Process(engine.pid)

    async def cancel_at_once():
        task = asyncio.create_task(engine.tokenize("one two"))
        await asyncio.sleep(0)
        task.cancel()

    before = ours.num_fds(), theirs.num_fds()
    for _ in range(3):
        asyncio.run(engine.tokenize("one two"))
        asyncio.run(cancel_at_once())
    assert ours.num_fds() == before[0]
    wait_until(lambda: theirs.num_fds() == before[1])


@pytest.mark.parametrize(
    ("make_engine", "asked", "said"),
    [
        (make_mock, Unreadable(), "exit code 1: ZeroDivisionError: read in the wrong process"),
        (UnreadableEngine, "one", "what it said can't be read, ZeroDivisionError: read in the wrong process"),
    ],
    ids=["there", "here"],
)
def test_a_message_that_can_not_be_read_ends_the_process_and_not_the_wait(start, make_engine, asked, said):
    engine = start(make_engine)
    with pytest.raises(EngineUnavailableError, match=said):
        asyncio.run(engine.tokenize(asked))
    wait_until(lambda: engine.readiness().ready)


OWNER = """
import os, sys
from tests.engines.process.engines import make_mock
from llmapi_kit.engines.process.engine import ProcessEngine
engine = ProcessEngine(make_mock, name="mock")
forked = os.fork() if sys.argv[1] == "forks" else 1
if forked:
    print(engine.pid, forked, flush=True)
sys.stdin.read()
"""


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["alone", "forks"])
def test_the_process_never_outlives_its_owner(kind):
    """Nor where a process that the owner forked keeps its files open."""
    owner = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OWNER, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child, forked = map(int, owner.stdout.readline().split())
    process = psutil.Process(child)
    try:
        owner.kill()
        owner.wait(DEADLINE_S)
        assert psutil.wait_procs([process], timeout=DEADLINE_S)[1] == []
    finally:
        if kind == "forks":
            os.kill(forked, signal.SIGKILL)
        owner.stdin.close()
        owner.stdout.close()
