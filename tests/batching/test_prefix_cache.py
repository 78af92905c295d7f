from __future__ import annotations

import random
import threading

from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.batching.prefix_cache import PrefixCache, common_prefix
from llmapi_kit.types import Finished

from .conftest import DEADLINE_S, text_of

SYSTEM = list(range(1, 61))


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix_is_what_a_walk_finds(a, b):
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    assert common_prefix(a, b) == length


def fill(cache, tokens, salt=""):
    placement = cache.place(tokens, salt)
    cache.extend(placement.slot, tokens[placement.num_cached :])
    return placement


def test_a_conversation_goes_on_in_its_own_slot():
    cache = PrefixCache(3)
    first = fill(cache, [1, 2, 3, 4])
    cache.release(first.slot)
    second = cache.place([1, 2, 3, 4, 5, 6], "")
    assert (second.slot, second.num_cached, second.copy_from) == (first.slot, 4, None)


def test_the_last_prompt_token_is_always_computed():
    cache = PrefixCache(2)
    cache.release(fill(cache, [1, 2, 3]).slot)
    assert cache.place([1, 2, 3], "").num_cached == 2


def test_a_shared_system_prompt_is_copied_and_its_first_owner_keeps_it():
    cache = PrefixCache(3)
    first = fill(cache, SYSTEM + [70] * 100)
    second = fill(cache, SYSTEM + [80] * 100)
    assert (second.num_cached, second.copy_from) == (60, first.slot)
    cache.release(first.slot)
    cache.release(second.slot)
    third = cache.place([*SYSTEM, 90], "")
    assert third.copy_from in (first.slot, second.slot)
    assert third.slot not in (first.slot, second.slot)


def test_another_salt_sees_nothing():
    cache = PrefixCache(2)
    cache.release(fill(cache, SYSTEM, salt="anna").slot)
    assert cache.place(SYSTEM, "ben").num_cached == 0


def test_the_longest_unused_slot_is_given_up_first():
    cache = PrefixCache(2)
    a, b = fill(cache, [1, 1, 1]), fill(cache, [2, 2, 2])
    cache.release(b.slot)
    cache.release(a.slot)
    assert cache.place([3, 3, 3], "").slot == b.slot


def test_of_slots_that_were_not_used_for_long_those_beside_busy_ones_are_given_up_first():
    """Runners compute neighbouring slots together, and 8 requests in 32 slots were in 6 places."""
    cache = PrefixCache(8)
    slots = [fill(cache, [i, i, i]).slot for i in range(8)]
    for slot in slots:
        if slot != 2:
            cache.release(slot)
    assert cache.place([9, 9], "").slot == 1, "not 0, which was not used for longer"
    assert cache.place([9, 9], "").slot == 0, "6 and 7 were used lately"


def test_all_busy_is_none():
    cache = PrefixCache(1)
    fill(cache, [1])
    assert cache.place([2], "") is None


def test_switched_off_it_finds_nothing():
    cache = PrefixCache(2, is_enabled=False)
    cache.release(fill(cache, SYSTEM).slot)
    assert cache.place(SYSTEM, "").num_cached == 0


def prefilled(runner):
    return sum(len(item.tokens) for items in runner.steps for item in items if len(item.tokens) > 1)


def test_the_second_turn_computes_only_what_is_new(bench):
    b = bench(num_slots=3)
    prompt = SYSTEM[:40]
    b.result(b.submit(prompt, max_tokens=6, name="one"))
    turn = prompt + b.runner.expected(prompt, 6) + [33, 34]
    text, end = b.result(b.submit(turn, max_tokens=5, name="two"))
    assert text == text_of(b.runner.expected(turn, 5))
    assert end == Finished("length", 48, 5, 45)  # the last token of the first answer was never computed
    assert prefilled(b.runner) == 40 + 3


def test_prompts_that_come_together_and_begin_alike_are_computed_once(bench):
    gate = threading.Event()
    b = bench(num_slots=8, step_tokens=16, before_step=lambda items: gate.wait(DEADLINE_S))
    prompts = [[*SYSTEM, i + 1] for i in range(8)]
    requests = [b.submit(prompt, max_tokens=4, name=str(i)) for i, prompt in enumerate(prompts)]
    gate.set()
    for prompt, request in zip(prompts, requests, strict=True):
        assert b.result(request)[0] == text_of(b.runner.expected(prompt, 4))
    computed = sum(len(item.tokens) for items in b.runner.steps for item in items)
    assert computed <= len(SYSTEM) + 8 * (1 + MIN_REST + 4)


MIN_REST = 32  # how much of a shared prefix a request may compute itself rather than wait for


def test_random_conversations_give_what_they_give_without_a_cache(bench):
    rng = random.Random(5)
    b = bench(num_slots=3, max_length=400, step_tokens=24, max_queue=500)
    systems = [SYSTEM, SYSTEM[:35], [9] * 50]
    conversations = [list(rng.choice(systems)) for _ in range(12)]
    for turn in range(4):
        asked = []
        for i, conversation in enumerate(conversations):
            conversation.extend(rng.randrange(1, 64) for _ in range(rng.randrange(1, 9)))
            asked.append(b.submit(conversation, max_tokens=5, name=f"{turn}/{i}"))
        for conversation, request in zip(conversations, asked, strict=True):
            text, _ = b.result(request)
            assert text == text_of(b.runner.expected(conversation, 5))
            conversation.extend(b.runner.expected(conversation, 5))
    assert b.loop._scheduler.cache.num_hit_tokens > 0


def test_an_aborted_request_leaves_a_valid_prefix_behind(bench):
    pause = threading.Event()
    b = bench(num_slots=1, max_length=500, step_tokens=8, before_step=lambda items: pause.wait(0.002))
    first = b.submit(SYSTEM * 3, max_tokens=100, name="first")
    b.wait_for(lambda: b._events.get("first"))
    b.loop.abort(first)
    text, end = b.result(b.submit([*SYSTEM * 3, 5], max_tokens=5, name="second"))
    assert text == text_of(b.runner.expected([*SYSTEM * 3, 5], 5))
    assert end.num_cached_tokens >= 180
