"""One at a time in a session, in order; and a time limit."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from llmapi_kit.errors import QueueFullError, RequestTimeoutError
from llmapi_kit.sessions import locks
from llmapi_kit.sessions.locks import Deadline, SessionLocks

pytestmark = pytest.mark.kernel


def test_who_comes_first_is_served_first_and_no_lock_stays_behind():
    async def run():
        held, order = SessionLocks(), []

        async def work(session, i):
            async with held.hold(session):
                await asyncio.sleep(0)
                order.append((session, i))

        await asyncio.gather(*(work(session, i) for i in range(20) for session in "ab"))
        return held, order

    held, order = asyncio.run(run())
    for session in "ab":
        assert [i for name, i in order if name == session] == list(range(20))
    assert len(held) == 0


def test_who_gives_up_waiting_leaves_the_line():
    async def run():
        held = SessionLocks()
        async with held.hold("a"):
            waiter = asyncio.create_task(held.hold("a").__aenter__())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait({waiter})
            assert len(held) == 1
        async with held.hold("a"):
            pass
        return held

    assert len(asyncio.run(run())) == 0


def test_a_line_has_an_end(monkeypatch):
    monkeypatch.setattr(locks, "MAX_WAITING", 1)

    async def run():
        held = SessionLocks()
        async with held.hold("a"), held.hold("b"):
            with pytest.raises(QueueFullError, match="1 asks wait"):
                await held.hold("a").__aenter__()

    asyncio.run(run())


def test_a_deadline_stops_what_it_covers_with_an_error_and_the_task_lives_on():
    async def run():
        with pytest.raises(RequestTimeoutError, match=r"No reply within 0\.01 s"):
            with Deadline(0.01, "No reply"):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        return task.cancelling() if hasattr(task, "cancelling") else 0  # Python 3.11+

    assert asyncio.run(run()) == 0


def test_a_deadline_that_was_lifted_or_left_stops_nothing():
    async def run():
        with Deadline(0.01, "x") as deadline:
            deadline.lift()
            await asyncio.sleep(0.03)
        with Deadline(0.01, "x"):
            pass
        await asyncio.sleep(0.03)

    asyncio.run(run())


def test_lifting_too_late_is_a_timeout_though_somebody_swallowed_the_stop():
    async def run():
        with Deadline(0.01, "x") as deadline:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            with pytest.raises(RequestTimeoutError):
                deadline.lift()

    asyncio.run(run())


def test_a_cancellation_from_outside_stays_one():
    async def run():
        async def work():
            with Deadline(60, "x"):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(run())
