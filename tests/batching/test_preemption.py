"""Slots that share less memory than they could fill: who waits, who loses a slot, and that answers stay as they are."""

from __future__ import annotations

import random

import pytest

from llmapi_kit.types import Delta, Embedded, Finished
from tests.batching.conftest import text_of

# Pages for one slot and a half of full length, or for six of a quarter
TIGHT = {"num_slots": 6, "max_length": 32, "page_size": 8, "num_pages": 6}
SAMPLED = {"temperature": 2.0, "logprobs": 2, "frequency_penalty": 0.5}


def prompts(seed, num, longest=20):
    rng = random.Random(seed)
    return [[rng.randrange(1, 64) for _ in range(rng.randrange(1, longest))] for _ in range(num)]


def _submit_six(bench):
    return [bench.submit([i + 1] * 4, max_tokens=28, name=str(i)) for i in range(6)]


def _expected(bench, prompt, max_tokens):
    return text_of(bench.runner.expected(prompt, max_tokens))


@pytest.mark.parametrize("seed", range(12))
def test_answers_are_the_same_whatever_memory_there_is(bench, seed):
    rng = random.Random(seed)
    max_length = rng.choice([24, 64, 100])
    page_size = rng.choice([1, 4, 8, 16])
    least = -(-max_length // page_size)
    tight = bench(
        num_slots=rng.randrange(2, 9),
        max_length=max_length,
        page_size=page_size,
        num_pages=least + rng.randrange(2 * least),
        step_tokens=rng.choice([3, 16, 512]),
    )
    stem = prompts(seed, 1)[0]
    sent = []
    for i, prompt in enumerate(prompts(seed + 1000, 24, longest=max_length // 2)):
        whole = [*stem, *prompt][: max_length - 2] if rng.random() < 0.4 else prompt
        room = max_length - len(whole)
        sent.append((tight.submit(whole, max_tokens=rng.randrange(1, room + 1), name=str(i)), whole))
    for request, prompt in sent:
        text, end = tight.result(request)
        assert isinstance(end, Finished), end
        assert text == _expected(tight, prompt, request.max_new_tokens)
    stats = tight.loop.stats()
    assert (stats.num_finished, stats.num_failed) == (24, 0)
    assert stats.num_prompt_tokens <= sum(len(prompt) for _, prompt in sent)


def test_the_request_that_came_last_is_preempted_and_the_first_never(bench):
    tight = bench(**TIGHT)
    requests = _submit_six(tight)
    for i, request in enumerate(requests):
        assert tight.result(request)[0] == _expected(tight, [i + 1] * 4, 28)
    assert requests[0].num_preemptions == 0
    assert sum(request.num_preemptions for request in requests) == tight.loop.stats().num_preemptions > 0


def test_memory_for_all_slots_preempts_nobody(bench):
    roomy = bench(**{**TIGHT, "num_pages": 24})
    requests = _submit_six(roomy)
    for request in requests:
        roomy.result(request)
    assert roomy.loop.stats().num_preemptions == 0


@pytest.mark.parametrize("num_pages", [6, 24])
def test_seeded_answers_and_their_logprobs_outlive_preemption(bench, num_pages):
    tight = bench(**{**TIGHT, "num_pages": num_pages})
    made = [tight.submit([i + 1] * 4, max_tokens=28, name=str(i), seed=i, **SAMPLED) for i in range(6)]
    for request in made:
        tight.result(request)
    if num_pages < 24:
        assert tight.loop.stats().num_preemptions > 0
    alone = bench(num_slots=1, max_length=32)
    for i, request in enumerate(made):
        again = alone.submit([i + 1] * 4, max_tokens=28, name=str(i), seed=i, **SAMPLED)
        alone.result(again)
        assert _deltas(tight, request) == _deltas(alone, again)


def _deltas(bench, request):
    return [event for event in bench.events(request) if isinstance(event, Delta)]


def test_what_is_lost_is_what_is_computed_again(bench):
    """The start of a preempted request stays in its slot until the pages are needed."""
    tight = bench(num_slots=2, max_length=64, page_size=8, num_pages=9)
    first, second = (tight.submit([i] * 20, max_tokens=30, name=str(i)) for i in (1, 2))
    for request in (first, second):
        tight.result(request)
    assert second.num_preemptions == 1
    assert second.num_cached == 0, "what it found of itself is not the cache's merit"
    computed = sum(len(item.tokens) for step in tight.runner.steps for item in step)
    needed = 2 * (20 + 29)
    assert needed < computed < needed + 29


def test_embeddings_and_scored_prompts_go_together_with_preemption(bench):
    tight = bench(**TIGHT)
    long = _submit_six(tight)
    embedded = tight.submit([5] * 30, max_tokens=0, name="embedded", request_options={"is_embedding": True})
    scored = tight.submit([6] * 30, max_tokens=1, logprobs=0, request_options={"scores_prompt": True, "echo": "six"})
    for request in (*long, scored):
        assert isinstance(tight.result(request)[1], Finished)
    tight.wait_for(lambda: any(isinstance(event, Embedded) for event in tight.events(embedded)))
    (echo, *_) = _deltas(tight, scored)
    assert len(echo.logprobs) == 30


def test_beams_keep_the_memory_that_they_may_need(bench):
    tight = bench(**TIGHT)
    plain = _submit_six(tight)
    beams = tight.submit_beams([7] * 4, 2, max_tokens=8, name="beams")
    for request in (*plain, beams):
        assert isinstance(tight.result(request)[1], Finished)
    assert beams.num_preemptions == 0


def test_a_preempted_request_can_be_aborted(bench):
    tight = bench(**TIGHT)
    requests = _submit_six(tight)
    tight.wait_for(lambda: tight.loop.stats().num_preemptions or tight._has_ended(requests[0]))
    victim = max(requests, key=lambda request: request.num_preemptions)
    tight.loop.abort(victim)
    for request in requests:
        if request is not victim:
            assert isinstance(tight.result(request)[1], Finished)


def test_a_preempted_request_does_not_time_out_in_the_queue(bench):
    """It has begun to answer, and `queue_timeout_s` is for those that have not."""
    requests = []

    def age(items):
        for request in requests:
            if request.num_preemptions:
                request.enqueued_at = -1e9

    tight = bench(**TIGHT, before_step=age)
    requests.extend(_submit_six(tight))
    for request in requests:
        assert isinstance(tight.result(request)[1], Finished)
    assert any(request.num_preemptions for request in requests)


def test_ended_requests_give_up_their_pages_the_longest_unused_first(bench):
    tight = bench(num_slots=4, max_length=32, page_size=8, num_pages=4)
    for i in (1, 2, 3):
        tight.result(tight.submit([i] * 9, max_tokens=2))  # two pages each
    again = tight.submit([3] * 9, max_tokens=2)
    tight.result(again)
    assert again.num_cached == 8
    assert tight.loop.stats().num_preemptions == 0


def test_without_memory_for_a_copy_a_prefix_is_taken_over(bench):
    tight = bench(num_slots=4, max_length=64, page_size=8, num_pages=9)
    stem = [*range(1, 41)]
    tight.result(tight.submit([*stem, *[50] * 20], max_tokens=1))
    tight.result(tight.submit([*[60] * 8], max_tokens=1))
    other = tight.submit([*stem, 51], max_tokens=2)
    assert tight.result(other)[0] == _expected(tight, [*stem, 51], 2)
    assert other.num_cached == 40


def test_the_kv_memory_in_use_is_told_of_what_there_is(bench):
    tight = bench(num_slots=4, max_length=32, page_size=8, num_pages=4)
    tight.result(tight.submit([1] * 16, max_tokens=1))
    assert tight.loop.stats().kv_use == pytest.approx(0.5)
