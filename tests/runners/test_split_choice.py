"""Whether a step of few rows is computed in a call for each, as either way takes long or not."""

from __future__ import annotations

import pytest

from llmapi_kit.runners.split_choice import FIRST_WAIT, LONGEST_WAIT, MOST_ROWS, TRIED, SplitChoice


def run(choice, seconds, num_steps, num_rows=2):
    """Steps that take some seconds, by whether they are split; which were."""
    used = []
    for _ in range(num_steps):
        used.append(choice.next(num_rows))
        choice.record(num_rows, seconds[used[-1]])
    return used


SPLIT_IS_SOONER, WHOLE_IS_SOONER = {True: 30.0, False: 55.0}, {True: 30.0, False: 20.0}


def test_a_split_that_is_sooner_is_taken_after_one_try_and_kept():
    used = run(SplitChoice(), SPLIT_IS_SOONER, 2000)
    assert used[: FIRST_WAIT + 1] == [False] * FIRST_WAIT + [True]
    assert used[FIRST_WAIT:].count(False) < 2000 / 100


def test_one_that_is_not_is_tried_a_step_at_a_time_and_ever_less_often():
    used = run(SplitChoice(), WHOLE_IS_SOONER, 4 * LONGEST_WAIT)
    tries = [step for step, is_split in enumerate(used) if is_split]
    assert tries[:2] == [FIRST_WAIT, FIRST_WAIT + 1 + 2 * FIRST_WAIT]
    assert len(tries) < len(used) / 400


def test_it_changes_with_the_machine_and_back():
    choice = SplitChoice()
    run(choice, SPLIT_IS_SOONER, 100)
    run(choice, WHOLE_IS_SOONER, 2 * LONGEST_WAIT)
    assert not choice.next(2)
    choice.record(2, WHOLE_IS_SOONER[False])
    run(choice, SPLIT_IS_SOONER, 2 * LONGEST_WAIT)
    assert run(choice, SPLIT_IS_SOONER, TRIED + 2).count(True) >= TRIED


@pytest.mark.parametrize("slow", range(TRIED))
def test_one_disturbed_step_of_a_try_does_not_decide_it(slow):
    choice = SplitChoice()
    run(choice, SPLIT_IS_SOONER, FIRST_WAIT)
    for step in range(TRIED):
        assert choice.next(2)
        choice.record(2, 70.0 if step == slow else 30.0)
    assert choice.next(2)


def test_each_number_of_rows_has_its_own():
    choice = SplitChoice()
    run(choice, SPLIT_IS_SOONER, 100, num_rows=2)
    run(choice, WHOLE_IS_SOONER, 50, num_rows=4)
    assert (choice.next(2), choice.next(4)) == (True, False)


@pytest.mark.parametrize("num_rows", [1, MOST_ROWS + 1, 32])
def test_one_row_and_many_are_never_split(num_rows):
    assert not any(run(SplitChoice(), SPLIT_IS_SOONER, 100, num_rows))
