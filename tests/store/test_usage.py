"""Usage: counted once, whatever fails on the way to the database, and never waited for."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from llmapi_kit.errors import StoreUnavailableError
from llmapi_kit.store.counts import Counts, DayUsage
from llmapi_kit.store.housekeeper import Housekeeper
from llmapi_kit.store.usage import UsageStore

from .conftest import DEADLINE_S, Clock, Held

DAY_S = 86400
NOON = 20_000 * DAY_S + DAY_S // 2  # 2024-10-04
ALL_TIME = (0, 1e12)


@pytest.fixture
def usage(database):
    return UsageStore(database, clock=Clock(NOON))


def totals(usage, owner="me", start=0.0, end=1e12):
    return {(day.date, day.model): day.counts for day in usage.read_sync(owner, start, end)}


def test_counts_are_summed_by_day_and_model_for_each_owner(usage):
    clock = usage._clock
    for _ in range(3):
        usage.count("me", "pocket", Counts(requests=1, prompt_tokens=10, cached_tokens=4, completion_tokens=5))
    usage.count("me", "other", Counts(requests=1, failed=1, images=2))
    usage.count("you", "pocket", Counts(requests=1, cancelled=1, embedding_tokens=7))
    clock.now += 3600
    usage.count("me", "pocket", Counts(requests=1, prompt_tokens=1))
    clock.now += DAY_S
    usage.count("me", "pocket", Counts(requests=1))
    assert asyncio.run(usage.read("me", *ALL_TIME)) == [
        DayUsage("2024-10-04", "other", Counts(requests=1, failed=1, images=2)),
        DayUsage("2024-10-04", "pocket", Counts(4, 0, 0, 31, 12, 15)),
        DayUsage("2024-10-05", "pocket", Counts(requests=1)),
    ]
    assert totals(usage, "you") == {("2024-10-04", "pocket"): Counts(requests=1, cancelled=1, embedding_tokens=7)}
    assert totals(usage, "nobody") == {}


def test_a_range_begins_with_its_first_hour_and_ends_before_its_last(usage):
    for hours in (-1, 0, 1, 2):
        usage._clock.now = NOON + hours * 3600
        usage.count("me", "m", Counts(requests=10 ** (hours + 1)))
    assert totals(usage, start=NOON, end=NOON + 7200) == {("2024-10-04", "m"): Counts(requests=110)}
    assert totals(usage, start=NOON + 1800, end=NOON + 3601) == {("2024-10-04", "m"): Counts(requests=110)}
    assert totals(usage, start=NOON + 7200, end=NOON) == {}


def test_counts_above_two_billion_fit(usage):
    for _ in range(2):
        usage.count("me", "m", Counts(prompt_tokens=2**40))
        usage.settle()
    assert totals(usage) == {("2024-10-04", "m"): Counts(prompt_tokens=2**41)}


def test_what_many_threads_and_servers_count_adds_up(database, open_database, url):
    stores = [UsageStore(database, clock=Clock(NOON)), UsageStore(open_database(url), clock=Clock(NOON))]

    def count(usage):
        for index in range(200):
            usage.count("me", f"m{index % 3}", Counts(requests=1, prompt_tokens=2))
            if index % 20 == 0:
                usage.flush()
        usage.settle()

    threads = [threading.Thread(target=count, args=(usage,)) for usage in stores for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    found = totals(stores[0]).values()
    assert sum(counts.requests for counts in found) == 1200
    assert sum(counts.prompt_tokens for counts in found) == 2400


class Flaky:
    """A database whose next submissions go wrong, each in its own way."""

    def __init__(self, database):
        self._database = database
        self.next = []

    def submit(self, work, *, is_read=False):
        how = self.next.pop(0) if self.next else ""
        if how == "refused":
            raise StoreUnavailableError("The database is closed.")
        future = Future()
        if how == "lost before":
            future.set_exception(StoreUnavailableError("The connection was lost."))
            return future
        done = self._database.submit(work, is_read=is_read)
        if how == "lost after":  # it is committed, and nobody was told
            done.result(DEADLINE_S)
            future.set_exception(StoreUnavailableError("The connection was lost."))
            return future
        return done

    def __getattr__(self, name):
        return getattr(self._database, name)


@pytest.mark.parametrize("how", ["refused", "lost before", "lost after"])
def test_a_batch_that_failed_is_kept_and_counted_once(database, how):
    flaky = Flaky(database)
    usage = UsageStore(flaky, clock=Clock(NOON))
    usage.count("me", "m", Counts(requests=1))
    usage.settle()
    usage.count("me", "m", Counts(requests=10))
    flaky.next = [how, how]
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            usage.settle()
        assert usage.num_unwritten >= 10
        usage.count("me", "m", Counts(requests=100))
    assert totals(usage) == {("2024-10-04", "m"): Counts(requests=211)}
    assert usage.num_unwritten == 0
    usage.settle()
    assert totals(usage) == {("2024-10-04", "m"): Counts(requests=211)}


def test_counting_waits_for_nothing_while_the_database_is_held_up(database):
    usage = UsageStore(database, clock=Clock(NOON))
    held = Held()
    holders = [database.submit(held) for _ in range(10)]
    assert held.begun.wait(DEADLINE_S)
    order = []

    async def run():
        usage.count("me", "m", Counts(requests=1))
        reading = asyncio.create_task(usage.read("me", *ALL_TIME))
        reading.add_done_callback(lambda _: order.append("read"))
        await asyncio.sleep(0)
        for _ in range(100):
            usage.count("me", "m", Counts(requests=1))
        order.append("counted")
        held.release()
        assert (await reading)[0].counts.requests in (1, 101)

    asyncio.run(run())
    assert order == ["counted", "read"]
    assert totals(usage) == {("2024-10-04", "m"): Counts(requests=101)}
    assert [holder.result() for holder in holders] == [None] * 10


def test_old_writers_are_forgotten_and_their_counts_are_not(database):
    clock = Clock(NOON)
    for _ in range(3):
        usage = UsageStore(database, clock=clock)
        usage.count("me", "m", Counts(requests=1))
        usage.settle()
        clock.now += 20 * DAY_S
    num_writers = database.run_sync(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM llmapi_kit_usage_batches").scalar()
    )
    assert num_writers == 2
    assert sum(counts.requests for counts in totals(usage).values()) == 3


def test_the_housekeeper_writes_soon_after_it_is_woken_and_again_after_a_failure(monkeypatch):
    monkeypatch.setattr("llmapi_kit.store.housekeeper.MAX_RETRY_S", 0.0)
    flushed, swept = threading.Semaphore(0), threading.Event()
    outcomes = [StoreUnavailableError("The database is locked."), ZeroDivisionError(), None, None]

    def flush():
        outcome = outcomes.pop(0)
        flushed.release()
        if outcome is not None:
            raise outcome

    keeper = Housekeeper(flush, swept.set, gather_s=0)
    assert swept.wait(DEADLINE_S)
    assert len(outcomes) == 4, "nothing to write until it is woken"
    keeper.wake()
    assert all(flushed.acquire(timeout=DEADLINE_S) for _ in range(3))
    keeper.wake()
    assert flushed.acquire(timeout=DEADLINE_S)
    keeper.stop(DEADLINE_S)
    keeper.stop(DEADLINE_S)
    assert outcomes == []
    assert not keeper._thread.is_alive()
