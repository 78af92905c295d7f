"""How many threads a step gets, as steps take long or not."""

from __future__ import annotations

import itertools

import pytest

from llmapi_kit.runners.thread_choice import EARLY, LONGEST_WAIT, TRIED, ThreadChoice


def run(choice, seconds, num_steps, num_tokens=4):
    """Steps that take some seconds by their number of threads; how many threads each had."""
    used = []
    for _ in range(num_steps):
        used.append(choice.next(num_tokens))
        choice.record(num_tokens, seconds[used[-1]])
    return used


QUIET, BUSY = {1: 2.0, 4: 1.0}, {1: 3.0, 4: 40.0}


def test_all_threads_are_kept_while_they_are_sooner_and_one_is_tried_ever_less_often():
    used = run(ThreadChoice(4), QUIET, 2000)
    tries = [step for step, threads in enumerate(used) if threads == 1]
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert tries[0] == EARLY
    assert gaps == sorted(gaps)
    assert gaps[-1] == LONGEST_WAIT + 1
    assert len(tries) < 2000 / 100


def test_one_thread_is_taken_within_steps_where_others_want_the_cores_and_all_again_afterwards():
    choice = ThreadChoice(4)
    run(choice, QUIET, 1000)
    assert run(choice, BUSY, 20).count(4) < 5
    assert choice.num_threads == 1
    run(choice, QUIET, 1200)  # as many as make the 160 s that were lost a twentieth
    assert choice.num_threads == 4


def test_threads_that_take_a_step_to_wake_are_taken_all_the_same():
    choice = ThreadChoice(4)
    run(choice, BUSY, 20)
    threads_before = 1
    for _ in range(2 * LONGEST_WAIT):
        threads = choice.next(4)
        is_asleep = threads > threads_before
        choice.record(4, 2.1 if is_asleep else QUIET[threads])
        threads_before = threads
    assert choice.num_threads == 4


@pytest.mark.parametrize("disturbed", [0, 1, 2, 3])
def test_more_threads_are_taken_though_one_step_of_a_try_was_disturbed(disturbed):
    choice = ThreadChoice.for_model(10**6, 2)
    run(choice, {1: 1.0}, LONGEST_WAIT)
    run(choice, {2: 1.0}, 1)  # wakes the other thread
    for step in range(TRIED):
        choice.record(4, {2: 1.2 if step == disturbed else 0.6}[choice.next(4)])
    assert choice.num_threads == 2


def test_steps_of_one_try_may_have_different_numbers_of_tokens():
    choice = ThreadChoice.for_model(10**6, 2)
    for num_tokens in (1, 32) * (LONGEST_WAIT + TRIED):
        choice.record(num_tokens, num_tokens * {1: 1.0, 2: 0.99}[choice.next(num_tokens)])
    assert choice.num_threads == 1


@pytest.mark.parametrize("num_good", [0, 1, 4])
def test_threads_that_lose_much_are_rare_even_where_most_of_their_steps_are_sooner(num_good):
    choice = ThreadChoice.for_model(10**6, 4)
    took, num_steps = 0.0, 0
    for _ in range(10_000):
        threads = choice.next(4)
        num_steps += threads > 1
        seconds = 1.0 if threads == 1 else 0.5 if num_steps % (num_good + 1) else 100.0
        choice.record(4, seconds)
        took += seconds
    assert took < 1.25 * 10_000


@pytest.mark.parametrize(("weights_bytes", "first", "most"), [(10**6, 1, 2), (10**9, 16, 16)])
def test_a_small_model_begins_with_one_thread_and_has_two_where_that_is_sooner(weights_bytes, first, most):
    choice = ThreadChoice.for_model(weights_bytes, 16)
    seconds = {1: 2.0, most: 1.0}
    used = run(choice, seconds, 2 * LONGEST_WAIT)
    assert (used[0], used[-1]) == (first, most)
    assert set(used) <= {1, most}


def test_one_slow_step_alone_changes_nothing():
    choice = ThreadChoice(4)
    run(choice, QUIET, 100)
    choice.next(4)
    choice.record(4, 3.5)
    run(choice, QUIET, 10)
    assert choice.num_threads == 4


def test_steps_are_compared_with_those_of_as_many_tokens_only():
    choice = ThreadChoice(4)
    for num_tokens in (1, 32, 0) * 200:
        threads = choice.next(num_tokens)
        choice.record(num_tokens, QUIET[threads] * (num_tokens or 500))
    assert choice.num_threads == 4


def test_one_thread_is_all_there_is_where_no_more_may_be_had():
    assert set(run(ThreadChoice(1), {1: 1.0}, 100)) == {1}
