"""Each way of pooling, against its definition written out for one row."""

from __future__ import annotations

import math

import pytest
import torch

from llmapi_kit.runners.pooling import pool, pooled

# What becomes of a row's states and their places, counted from 1
DEFINITIONS = {
    "cls": lambda states, places: states[0],
    "lasttoken": lambda states, places: states[-1],
    "max": lambda states, places: states.amax(0),
    "mean": lambda states, places: states.mean(0),
    "mean_sqrt_len_tokens": lambda states, places: states.sum(0) / math.sqrt(len(states)),
    "weightedmean": lambda states, places: (states * places[:, None]).sum(0) / places.sum(),
}


@pytest.mark.parametrize("mode", DEFINITIONS)
def test_each_row_is_pooled_over_its_own_tokens_without_those_of_the_prompt(mode):
    torch.manual_seed(0)
    states = torch.randn(3, 5, 4)
    places = torch.arange(1.0, 6.0)
    spans = [(0, 5), (0, 2), (1, 4)]  # whole, padded, and with a prompt of one token
    mask = torch.tensor([[int(begin <= at < end) for at in range(5)] for begin, end in spans])
    want = [DEFINITIONS[mode](states[row, begin:end], places[begin:end]) for row, (begin, end) in enumerate(spans)]
    torch.testing.assert_close(pool(states, mask, mode), torch.stack(want))


def test_vectors_of_several_ways_stand_one_after_the_other():
    states, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.long)
    both = pooled(states, mask, ("mean", "max"))
    torch.testing.assert_close(both, torch.cat([pool(states, mask, "mean"), pool(states, mask, "max")], -1))
