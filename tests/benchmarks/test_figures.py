"""The arithmetic of the reports."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.figures import best, median, percentile, ratio, shown
from benchmarks.steadiness import Steadiness


@pytest.mark.parametrize("percent", [0, 50, 90, 99, 100])
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_percentiles_are_numpys(size, percent):
    values = list(np.random.default_rng(size).random(size))
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_median_leaves_out_what_is_missing():
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None]) is None


def test_ratio_of_nothing_is_none():
    assert ratio(6, 3) == 2
    assert ratio(None, 3) is None
    assert ratio(6, None) is None
    assert ratio(6, 0) is None


def test_best_is_the_highest_or_the_lowest_that_is_there():
    values = {"a": 3.0, "b": None, "c": 5.0}
    assert best(values, is_higher_better=True) == "c"
    assert best(values, is_higher_better=False) == "a"
    assert best({"b": None}, is_higher_better=True) is None


def test_numbers_are_shown_with_three_digits():
    assert [shown(value) for value in (None, 1.234, 12.34, 1234.5)] == ["-", "1.23", "12.3", "1,234"]


def test_an_unsteady_machine_is_called_so():
    steadiness = Steadiness()
    steadiness.times_s = [0.02] * 10
    assert "was steady" in steadiness.sentence()
    steadiness.times_s = [0.02] * 5 + [0.3] * 5
    assert "Don't trust" in steadiness.sentence()
