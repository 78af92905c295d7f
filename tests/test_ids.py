"""Ids are as long as asked for and unique, also where a notebook seeds Python's random numbers."""

import random

import pytest

from llmapi_kit.ids import random_hex

pytestmark = pytest.mark.kernel


def test_ids_have_the_length_asked_for_and_no_two_are_alike():
    ids = {random_hex(16) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in ids)


def test_a_seeded_notebook_makes_no_two_ids_alike():
    made = []
    for _ in range(2):
        random.seed(0)
        made.append(random_hex(24))
    assert made[0] != made[1]
