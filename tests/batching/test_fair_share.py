"""Fair sharing between keys: in which order slots and prompts are given, never how long that takes."""

from __future__ import annotations

import pytest

from llmapi_kit.batching.fair_share import LATELY_S, FairShare
from llmapi_kit.batching.request import Request
from llmapi_kit.batching.scheduler import Scheduler
from llmapi_kit.errors import QueueFullError
from llmapi_kit.sampling.detokenize import ByteDetokenizer
from llmapi_kit.sampling.parameters import SamplingParams

from .conftest import token_bytes


class Slots:
    """A scheduler whose requests are named by their key and a number: a1 is the first of key a."""

    def __init__(self, num_slots, step_tokens=64):
        self.now = 0.0
        self.scheduler = Scheduler(num_slots, step_tokens, has_prefix_cache=False)
        self.scheduler._share = FairShare(num_slots, clock=lambda: self.now)
        self._num = 0

    def add(self, *names, length=3):
        for name in names:
            self._num += 1
            ids = [self._num] * length
            detokenizer = ByteDetokenizer(token_bytes)
            self.scheduler.add(Request(name, ids, SamplingParams(), 9, detokenizer, key_id=name[0]))

    def admit(self):
        before = set(self.scheduler.running)
        self.scheduler.admit()
        return " ".join(request.id for request in self.scheduler.running if request not in before)

    def end(self, *names):
        for request in [each for each in self.scheduler.running if each.id in names]:
            self.scheduler.remove(request)

    @property
    def waiting(self):
        return " ".join(request.id for request in self.scheduler.waiting)

    def step(self):
        """What a step computes: the prompt tokens of each request, by name."""
        plan = self.scheduler.schedule()
        for request, item in plan:
            self.scheduler.computed(request, item)
        return {request.id: len(item.tokens) for request, item in plan}


def test_a_key_alone_is_served_as_it_comes_and_has_every_slot():
    slots = Slots(4)
    slots.add("a1", "a2", "a3", "a4", "a5", "a6")
    assert slots.admit() == "a1 a2 a3 a4"
    slots.end("a2")
    assert slots.admit() == "a5"
    assert slots.waiting == "a6"


def test_keys_that_come_together_take_turns():
    slots = Slots(4)
    slots.add("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert slots.admit() == "a1 b1 c1 a2"
    slots.end("a1", "a2")
    assert slots.admit() == "a3 b2", "the fewest slots first; of equals, the longest without a turn"


def test_the_next_free_slot_goes_to_whoever_holds_the_fewest():
    slots = Slots(4)
    slots.add("a1", "a2", "a3", "a4", "a5", "a6")
    slots.admit()
    slots.add("b1", "b2", "b3")
    assert slots.admit() == ""
    for ended, next_one in (("a1", "b1"), ("a2", "b2"), ("a3", "a5"), ("b1", "b3")):
        slots.end(ended)
        assert slots.admit() == next_one
    assert slots.waiting == "a6"


def test_long_answers_do_not_get_more_of_the_model_than_short_ones():
    """Turns by request would give the key with long answers nearly all slots."""
    slots = Slots(8)
    slots.add(*(f"a{i}" for i in range(1, 10)), *(f"b{i}" for i in range(1, 100)))
    slots.admit()
    for _ in range(20):  # b's end at once, a's never
        slots.end(*(request.id for request in slots.scheduler.running if request.key_id == "b"))
        slots.admit()
        held = [request.key_id for request in slots.scheduler.running]
        assert (held.count("a"), held.count("b")) == (4, 4)


def test_a_slot_is_kept_free_for_each_key_that_was_here_lately():
    slots = Slots(8)
    slots.add("b1", "c1")
    slots.admit()
    slots.end("b1", "c1")
    slots.add(*(f"a{i}" for i in range(1, 10)))
    assert len(slots.admit().split()) == 6
    slots.add("b2")
    assert slots.admit() == "b2", "it waits for nobody"
    assert slots.waiting == "a7 a8 a9"
    slots.end("b2")
    slots.now += LATELY_S + 1
    slots.add("a10")
    assert slots.admit() == "a7 a8", "the others are gone"


def test_no_more_than_a_quarter_is_kept_free_and_a_keys_first_slot_always_is_there():
    slots = Slots(8)
    names = [f"{key}1" for key in "bcdefgh"]
    slots.add(*names)
    slots.admit()
    slots.end(*names)
    slots.add(*(f"a{i}" for i in range(1, 10)))
    assert len(slots.admit().split()) == 6
    slots.add("b2", "b3", "c2", "c3")
    assert slots.admit() == "b2 c2"


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_few_slots_are_all_used(num_slots):
    slots = Slots(num_slots)
    slots.add("b1")
    slots.admit()
    slots.end("b1")
    slots.add("a1", "a2", "a3", "a4")
    assert len(slots.admit().split()) == num_slots


def test_prompts_of_several_keys_are_computed_in_turns():
    """One key's long prompts would hold up another key's short one until all of them were done."""
    slots = Slots(4, step_tokens=10)
    slots.add("a1", "a2", length=25)
    slots.admit()
    assert slots.step() == {"a1": 10}
    slots.add("b1", length=12)
    slots.admit()
    assert slots.step() == {"b1": 10}
    assert slots.step() == {"a1": 10}
    assert slots.step() == {"b1": 2, "a1": 5, "a2": 3}


def test_a_full_queue_still_takes_what_another_key_has_a_share_of(bench):
    b = bench(num_slots=1, max_queue=4)
    b.submit([1, 2], max_tokens=200, name="running", request_options={"key_id": "a"})
    b.wait_for(lambda: b._events.get("running"), "the first token")

    def submit(key_id, number):
        return b.submit([3, number], max_tokens=1, name=f"{key_id}{number}", request_options={"key_id": key_id})

    for number in range(4):
        submit("a", number)
    with pytest.raises(QueueFullError, match="limit is 4"):
        submit("a", 4)
    submit("b", 0)
    submit("b", 1)
    with pytest.raises(QueueFullError):
        submit("b", 2)
    submit("c", 0)
    with pytest.raises(QueueFullError):
        submit("c", 1)
