from __future__ import annotations

import random
import sys
import threading

import pytest

from llmapi_kit.batching import loop
from llmapi_kit.batching.request import Request
from llmapi_kit.errors import EngineUnavailableError, GenerationError, QueueFullError, RequestTimeoutError
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams
from llmapi_kit.types import Delta, Failed, Finished

from .conftest import DEADLINE_S, text_of, token_bytes


def test_greedy_answers_are_the_runners_own_whatever_the_batch(bench):
    b = bench(num_slots=4, step_tokens=16)
    rng = random.Random(0)
    prompts = [[rng.randrange(1, 64) for _ in range(rng.randrange(1, 60))] for _ in range(40)]
    requests = [b.submit(p, max_tokens=1 + i % 12, name=str(i)) for i, p in enumerate(prompts)]
    for i, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        text, end = b.result(request)
        assert text == text_of(b.runner.expected(prompt, 1 + i % 12))
        # Not num_cached_tokens: two short prompts may begin alike, and which slots are free is a matter of timing
        assert (end.reason, end.num_prompt_tokens, end.num_completion_tokens) == ("length", len(prompt), 1 + i % 12)


def test_a_new_request_joins_a_running_batch_and_a_finished_one_leaves_it(bench):
    second_may_come = threading.Event()
    b = bench(num_slots=4, before_step=lambda items: len(b.runner.steps) == 5 and second_may_come.wait(DEADLINE_S))
    long = b.submit([1, 2], max_tokens=60, name="long")
    b.wait_for(lambda: len(b._events.get("long", [])) >= 5)
    short = b.submit([3, 4], max_tokens=3, name="short")
    second_may_come.set()
    b.result(short)
    b.result(long)
    sizes = [len(items) for items in b.runner.steps]
    assert sizes[0] == 1
    assert max(sizes) == 2
    assert sizes[-1] == 1


def test_long_prompts_are_prefilled_in_chunks_beside_running_decodes(bench):
    long_is_there = threading.Event()

    def hold(items):
        assert len(b.runner.steps) != 3 or long_is_there.wait(DEADLINE_S)

    b = bench(num_slots=2, max_length=500, step_tokens=10, before_step=hold)
    running = b.submit([5], max_tokens=50, name="running")
    b.wait_for(lambda: b._events.get("running"))
    long = b.submit(list(range(1, 60)) * 3, max_tokens=2, name="long")
    long_is_there.set()
    b.result(long)
    b.result(running)
    mixed = [items for items in b.runner.steps if len(items) == 2]
    assert len(mixed) >= 177 // 9
    assert all(sum(len(item.tokens) for item in items) <= 10 for items in b.runner.steps)
    assert all(min(len(item.tokens) for item in items) == 1 for items in mixed)  # the stream is never left out


def test_a_slow_prefill_holds_up_running_streams_for_a_bounded_time(bench):
    """A millisecond a token and a stall of 40 ms: chunks beside a stream have 40 tokens, the last one some more."""
    long_is_there = threading.Event()
    pause = threading.Event()

    def compute_slowly(items):
        assert len(b.runner.steps) != 3 or long_is_there.wait(DEADLINE_S)
        pause.wait(0.001 * sum(len(item.tokens) for item in items))

    b = bench(num_slots=2, max_length=1000, step_tokens=512, max_stall_s=0.04, before_step=compute_slowly)
    running = b.submit([5], max_tokens=60, name="running")
    b.wait_for(lambda: b._events.get("running"))
    long = b.submit(list(range(1, 60)) * 10, max_tokens=2, name="long")
    long_is_there.set()
    b.result(long)
    b.result(running)
    beside = [max(len(item.tokens) for item in items) for items in b.runner.steps if len(items) == 2]
    assert [length for length in beside if length > 40] in ([], [max(beside)]), "the last one alone"
    assert max(beside) <= 50
    assert len(beside) >= 590 // 40
    alone = b.submit(list(range(59, 0, -1)) * 10, max_tokens=1, name="alone")
    b.result(alone)
    assert max(len(items[0].tokens) for items in b.runner.steps) == 512  # nobody is held up


def test_requests_of_a_burst_are_computed_in_one_step_where_their_prompts_take_long(bench, monkeypatch):
    """The first one was computed alone, and all others had to take turns beside its answer."""
    pause = threading.Event()

    def compute_slowly(items):
        pause.wait(0.005 * sum(len(item.tokens) for item in items))

    b = bench(num_slots=2, max_length=100, before_step=compute_slowly)
    monkeypatch.setattr(loop, "BURST_GAP_S", DEADLINE_S)  # it ends sooner, as both slots are taken then
    b.result(b.submit([9] * 20, max_tokens=1))  # now it is known how long a prompt takes
    for request in [b.submit([i] * 20, max_tokens=2) for i in (1, 2)]:
        b.result(request)
    assert [len(items) for items in b.runner.steps] == [1, 2, 2]


def test_a_prompt_is_read_to_its_end_where_little_is_missing_and_not_begun_where_there_is_room_for_little(bench):
    has_begun, all_are_there = threading.Event(), threading.Event()

    def hold(items):
        has_begun.set()
        assert all_are_there.wait(DEADLINE_S)

    b = bench(num_slots=5, max_length=1000, step_tokens=512, before_step=hold)
    requests = [b.submit([1], max_tokens=1)]
    assert has_begun.wait(DEADLINE_S)
    requests += [b.submit([i] * length, max_tokens=1) for i, length in enumerate((200, 100, 245, 200), 2)]
    all_are_there.set()
    for request in requests:
        b.result(request)
    steps = [[len(item.tokens) for item in items] for items in b.runner.steps]
    assert steps == [[1], [200, 100], [245], [200]]  # of 256 and a quarter


def test_prompts_that_wait_together_share_smaller_steps_so_that_the_first_is_answered_soon(bench):
    has_begun, all_are_there = threading.Event(), threading.Event()

    def hold(items):
        has_begun.set()
        assert all_are_there.wait(DEADLINE_S)

    b = bench(num_slots=3, max_length=1000, step_tokens=512, before_step=hold)
    first = b.submit([1], max_tokens=1)
    assert has_begun.wait(DEADLINE_S)
    others = [b.submit([i] * 400, max_tokens=1) for i in (2, 3)]
    all_are_there.set()
    for request in (first, *others):
        b.result(request)
    # the first is alone, so is what is left of the last
    assert [sum(len(item.tokens) for item in items) for items in b.runner.steps] == [1, 256, 256, 288]


def test_prompts_that_wait_together_share_a_whole_step_where_those_that_are_left_would_take_turns(bench):
    has_begun, all_are_there, pause = threading.Event(), threading.Event(), threading.Event()

    def compute_slowly(items):
        if len(b.runner.steps) == 1:
            has_begun.set()
            assert all_are_there.wait(DEADLINE_S)
        pause.wait(0.005 if len(items) == 1 else 0)

    b = bench(num_slots=4, max_length=1000, step_tokens=512, max_stall_s=0.001, before_step=compute_slowly)
    b.result(b.submit([9] * 20, max_tokens=1))  # now it is known that it takes longer than `max_stall_s`
    requests = [b.submit([8], max_tokens=1)]
    assert has_begun.wait(DEADLINE_S)
    requests += [b.submit([i] * 150, max_tokens=1) for i in (1, 2, 3)]
    all_are_there.set()
    for request in requests:
        b.result(request)
    assert [sum(len(item.tokens) for item in items) for items in b.runner.steps] == [20, 1, 450]


def test_every_item_of_a_request_tells_how_long_its_prompt_is(bench):
    made = bench(step_tokens=8)
    step, told = made.runner.step, set()

    def recorded(items):
        told.update((item.slot, item.num_prompt_tokens) for item in items)
        return step(items)

    made.runner.step = recorded
    requests = [made.submit(range(1, num + 1), max_tokens=3) for num in (5, 20)]
    for request in requests:
        made.result(request)
    assert sorted(num for _, num in told) == [5, 20]


def test_end_of_turn_token_ends_the_answer_and_is_not_shown(bench):
    b = bench(answer_length=5)
    text, end = b.result(b.submit([9, 8], max_tokens=50))
    assert text == text_of(b.runner.expected([9, 8], 5))
    assert end == Finished("stop", 2, 6)


def test_last_allowed_token_being_end_of_turn_is_a_stop_not_a_length(bench):
    b = bench(answer_length=5)
    _, end = b.result(b.submit([9, 8], max_tokens=6))
    assert end.reason == "stop"


def test_ignore_eos_makes_exactly_max_tokens(bench):
    b = bench(answer_length=3)
    _, end = b.result(b.submit([9, 8], max_tokens=20, ignore_eos=True))
    assert end == Finished("length", 2, 20)


def test_stop_string_over_several_tokens_is_cut_off(bench):
    b = bench()
    ids = b.runner.expected([4, 4], 10)
    stop = text_of(ids[4:6])[1:-1]
    text, end = b.result(b.submit([4, 4], max_tokens=10, stop=(stop,)))
    assert text == (text_of(ids))[: text_of(ids).index(stop)]
    assert end.reason == "stop"


def test_min_tokens_holds_off_the_end_and_stop_strings(bench):
    b = bench(num_slots=1)
    made = b.runner.expected([5, 6], 6)
    early = f"<{made[1]}>"
    assert b.result(b.submit([5, 6], 6, stop=(early,), name="plain"))[1].num_completion_tokens == 2
    text, end = b.result(b.submit([5, 6], 6, stop=(early, f"<{made[4]}>"), min_tokens=3, name="held"))
    assert (text, end.reason) == (text_of(made[:4]), "stop")


def test_what_ended_the_answer_is_part_of_it_where_asked_for(bench):
    b = bench(num_slots=1)
    made = b.runner.expected([5, 6], 6)
    options = {"include_stop_str_in_output": True}
    text, end = b.result(b.submit([5, 6], 6, stop=(f"<{made[2]}>",), name="string", **options))
    assert (text, end.reason) == (text_of(made[:3]), "stop")
    text, end = b.result(b.submit([5, 6], 6, stop_token_ids=(made[2],), name="token", **options))
    assert (text, end.reason) == (text_of(made[:3]), "stop")


def test_stop_token_ends_the_answer(bench):
    b = bench()
    ids = b.runner.expected([6], 10)
    text, end = b.result(b.submit([6], max_tokens=10, stop_token_ids=(ids[3],)))
    assert text == text_of(ids[: ids.index(ids[3])])
    assert end.reason == "stop"


def test_logprobs_stand_on_each_token_and_only_where_asked_for(bench):
    b = bench()
    asked, other = b.submit([1], name="asked", logprobs=2), b.submit([1], name="other")
    b.result(asked)
    b.result(other)
    deltas = [e for e in b.events(asked) if isinstance(e, Delta)]
    assert [d.logprobs[0].token_id for d in deltas] == b.runner.expected([1], 8)
    assert all(len(d.logprobs[0].top) == 2 and d.logprobs[0].logprob < 0 for d in deltas)
    assert deltas[0].logprobs[0].raw == token_bytes(deltas[0].logprobs[0].token_id)
    assert not any(d.logprobs for d in b.events(other) if isinstance(d, Delta))


def test_events_of_a_step_are_handed_over_in_one_call(bench):
    gate = threading.Event()
    b = bench(num_slots=8, before_step=lambda items: gate.wait(DEADLINE_S))
    requests = [b.submit([i + 1], name=str(i)) for i in range(8)]
    gate.set()
    for request in requests:
        b.result(request)
    assert len(b.batches) <= len(b.runner.steps)
    assert max(len({request.id for request, _ in batch}) for batch in b.batches) == 8


def test_aborted_request_frees_its_slot_within_one_step(bench):
    step_may_end = threading.Semaphore(0)
    b = bench(num_slots=1, before_step=lambda items: step_may_end.acquire(timeout=DEADLINE_S))
    first = b.submit([1], max_tokens=100, name="first")
    second = b.submit([2], max_tokens=1, name="second")
    step_may_end.release()
    b.wait_for(lambda: b._events.get("first"))
    num_steps = len(b.runner.steps)
    b.loop.abort(first)
    step_may_end.release(100)
    b.result(second)
    assert b.runner.freed[0] == 0
    of_first = [items for items in b.runner.steps[num_steps:] if items[0].tokens[0] != 2]
    assert len(of_first) <= 1
    assert not any(isinstance(e, Finished | Failed) for e in b.events(first))
    assert b.loop.stats().num_cancelled == 1


def test_aborted_request_leaves_the_queue(bench):
    gate = threading.Event()
    b = bench(num_slots=1, before_step=lambda items: gate.wait(DEADLINE_S))
    running = b.submit([1], name="running")
    waiting = [b.submit([2], name=f"waiting {i}") for i in range(3)]
    b.loop.abort(waiting[1])
    gate.set()
    for request in (running, waiting[0], waiting[2]):
        b.result(request)
    assert b.events(waiting[1]) == []


def test_full_queue_refuses_with_a_time_to_retry(bench):
    gate = threading.Event()
    b = bench(num_slots=2, max_queue=3, before_step=lambda items: gate.wait(DEADLINE_S))
    accepted = [b.submit([1], name=str(i)) for i in range(5)]
    with pytest.raises(QueueFullError) as caught:
        b.submit([1], name="one too many")
    assert caught.value.retry_after_s >= 1
    gate.set()
    for request in accepted:
        assert isinstance(b.result(request)[1], Finished)


def test_request_that_waits_too_long_fails_alone(bench):
    gate = threading.Event()
    b = bench(num_slots=1, queue_timeout_s=0.05, before_step=lambda items: gate.wait(0.01))
    running = b.submit([1], max_tokens=200, name="running")
    waiting = b.submit([2], name="waiting")
    assert isinstance(b.result(waiting)[1].error, RequestTimeoutError)
    gate.set()
    assert isinstance(b.result(running)[1], Finished)


def test_request_that_raises_fails_alone_and_others_are_unchanged(bench):
    gate = threading.Event()
    b = bench(num_slots=8, poison=63, before_step=lambda items: gate.wait(DEADLINE_S))
    good = [b.submit([i + 1, 5], name=str(i)) for i in range(7)]
    bad = b.submit([5, 63], name="bad")
    gate.set()
    error = b.result(bad)[1].error
    assert isinstance(error, GenerationError)
    assert "poison token 63" in error.message
    assert len(b.runner.recovered) == 2  # for the whole step, and for the one request that failed alone
    for i, request in enumerate(good):
        assert b.result(request)[0] == text_of(b.runner.expected([i + 1, 5], 8))
    after = b.submit([9], name="after")
    assert isinstance(b.result(after)[1], Finished)


def test_request_whose_text_can_not_be_made_fails_alone(bench):
    b = bench(num_slots=2)

    def explode(token_id):
        raise KeyError(token_id)

    bad = Request("bad", [1], SamplingParams(temperature=0), 5, ByteDetokenizer(explode))
    good = b.submit([2], name="good")
    b.loop.submit(bad)
    assert isinstance(b.result(bad)[1].error, GenerationError)
    assert isinstance(b.result(good)[1], Finished)


def test_closing_ends_running_and_waiting_requests_with_an_error(bench):
    gate = threading.Event()
    b = bench(num_slots=1, before_step=lambda items: gate.wait(0.01))
    requests = [b.submit([1], max_tokens=10_000, name=str(i)) for i in range(4)]
    assert b.loop.close()
    for request in requests:
        assert isinstance(b.result(request)[1].error, EngineUnavailableError)
    assert b.runner.is_closed
    with pytest.raises(EngineUnavailableError):
        b.submit([1])
    assert not b.loop.readiness().ready


class Abrupt(BaseException):
    pass


def test_death_of_the_thread_ends_every_request_and_shows_in_readiness(bench):
    def die(items):
        if len(b.runner.steps) == 3:
            raise Abrupt("the lights went out")

    b = bench(num_slots=2, before_step=die)
    requests = [b.submit([1], max_tokens=50, name=str(i)) for i in range(5)]
    for request in requests:
        error = b.result(request)[1].error
        assert isinstance(error, EngineUnavailableError)
        assert "the lights went out" in error.message
    readiness = b.loop.readiness()
    assert not readiness.ready
    assert "the lights went out" in readiness.reason
    with pytest.raises(EngineUnavailableError):
        b.submit([1])


def test_many_threads_submit_and_cancel_and_every_request_has_one_end(bench):
    b = bench(num_slots=3, max_queue=1000)
    kept = []

    def work(worker):
        rng = random.Random(worker)
        for i in range(40):
            request = b.submit([worker + 1, i + 1], max_tokens=6, name=f"{worker}/{i}")
            if rng.random() < 0.4:
                b.loop.abort(request)
            else:
                kept.append((request, [worker + 1, i + 1]))

    threads = [threading.Thread(target=work, args=(w,)) for w in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request, prompt in kept:
        assert b.result(request)[0] == text_of(b.runner.expected(prompt, 6))


def test_seeded_sampling_is_the_same_alone_and_in_a_crowd(bench):
    b = bench(num_slots=4)
    params = {"temperature": 2.0, "seed": 11, "max_tokens": 15}
    alone = b.result(b.submit([7], name="alone", **params))[0]
    crowd = [b.submit([i + 1], name=f"crowd {i}", temperature=1.5, top_k=5) for i in range(6)]
    beside = b.submit([7], name="beside", **params)
    assert b.result(beside)[0] == alone
    for request in crowd:
        b.result(request)


def test_stats_count_what_happened(bench):
    b = bench(num_slots=2)
    for i in range(3):
        b.result(b.submit([1, 2, 3], max_tokens=4, name=str(i)))
    stats = b.loop.stats()
    assert (stats.num_finished, stats.num_prompt_tokens, stats.num_completion_tokens) == (3, 9, 12)
    assert (stats.num_running, stats.num_queued, stats.num_slots) == (0, 0, 2)
    assert stats.tokens_per_s > 0


def test_a_busy_thread_gives_way_to_the_engine_soon(bench):
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        b = bench()
        b.result(b.submit([1, 2], max_tokens=1))
        assert sys.getswitchinterval() == pytest.approx(0.0005)
    finally:
        sys.setswitchinterval(before)


def test_a_step_that_goes_on_and_on_is_known_by_when_it_began(bench):
    """Also what is done between steps; each step of requests that are computed alone counts by itself."""
    is_there, gate, began = threading.Event(), threading.Event(), []

    def hold(items):
        began.append(b.loop.step_started())
        is_there.set()
        gate.wait(DEADLINE_S)
        raise RuntimeError("of this step")

    b = bench(num_slots=2, before_step=hold)
    requests = [b.submit([5]), b.submit([6])]
    assert is_there.wait(DEADLINE_S)
    assert b.loop.step_started() == began[0]
    gate.set()
    for each in requests:
        assert isinstance(b.result(each)[1], Failed)
    b.loop.call(lambda: began.append(b.loop.step_started())).result(DEADLINE_S)
    assert None not in began
    assert len(set(began)) == len(began) >= 3
    assert b.loop.close()
    assert b.loop.step_started() is None
