"""How long to wait before the next try."""

from __future__ import annotations

import pytest

from llmapi_kit.tunnels.backoff import JITTER, Backoff


@pytest.mark.parametrize(("num_before", "middle_s"), [(0, 1), (1, 2), (4, 16), (8, 256), (9, 300), (5000, 300)])
def test_waits_double_up_to_the_longest_and_vary_a_little(num_before, middle_s):
    backoff = Backoff(first_s=1, longest_s=300)
    for _ in range(num_before):
        backoff.next_s()
    assert middle_s * (1 - JITTER) <= backoff.next_s() <= middle_s * (1 + JITTER)


def test_two_that_failed_at_one_moment_do_not_come_back_at_one_moment():
    assert len({Backoff().next_s() for _ in range(20)}) > 1


def test_after_a_reset_the_first_wait_comes_again():
    backoff = Backoff(first_s=1, longest_s=300)
    backoff.slow_down()
    assert backoff.next_s() > 200
    backoff.reset()
    assert backoff.next_s() < 2
