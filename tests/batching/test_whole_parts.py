"""Parts of a prompt that have to be computed in one step, as pictures in some families."""

from __future__ import annotations

import pytest

from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams


def chunks(whole, step_tokens, num_tokens=60):
    """Where the steps of a prompt end."""
    scheduler = Scheduler(2, step_tokens)
    detokenizer = ByteDetokenizer(lambda _: b"")
    params = SamplingParams(temperature=0)
    request = Request("a", list(range(num_tokens)), params, 5, detokenizer, whole=whole)
    scheduler.add(request)
    scheduler.admit()
    ends = []
    while request.num_uncomputed_prompt:
        ((_, item),) = scheduler.schedule()
        scheduler.computed(request, item)
        ends.append(request.num_computed)
    return ends


@pytest.mark.parametrize(
    ("whole", "ends"),
    [
        ([], [20, 40, 60]),
        ([(5, 15)], [20, 40, 60]),
        ([(15, 25)], [15, 35, 55, 60]),
        ([(15, 50)], [15, 50, 60]),  # longer than a step
        ([(0, 60)], [60]),
        ([(10, 20), (30, 45)], [20, 30, 50, 60]),
    ],
)
def test_a_chunk_ends_in_front_of_what_has_to_stay_whole_or_behind_it(whole, ends):
    assert chunks(whole, 20) == ends
