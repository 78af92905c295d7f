"""Requests that end with their prompt: scoring and embedding, in the same queue and slots as everything else."""

from __future__ import annotations

import pytest
import torch

from llmapi_kit.runners.fake_runner import FakeRunner
from llmapi_kit.types import Delta, Embedded, Finished

from .conftest import text_of, token_bytes

PROMPT = [5, 9, 13, 17, 21, 25, 29]


def direct_logprobs(prompt):
    """Log-probabilities of each token but the first, one step a token."""
    from llmapi_kit.runners.base import StepItem

    runner = FakeRunner()
    rows = [runner.step([StepItem(0, i, [token_id], True)])[0].log_softmax(-1) for i, token_id in enumerate(prompt)]
    return [float(row[token_id]) for row, token_id in zip(rows, prompt[1:], strict=False)]


@pytest.mark.parametrize("step_tokens", [3, 64])
def test_an_echo_with_logprobs_scores_every_token_of_the_prompt(bench, step_tokens):
    b = bench(step_tokens=step_tokens)
    b.result(b.submit(PROMPT, max_tokens=1, name="cached before"))
    options = {"echo": "the prompt", "scores_prompt": True}
    request = b.submit(PROMPT, max_tokens=3, logprobs=2, request_options=options)
    text, end = b.result(request)
    echo = b.events(request)[0]
    assert text == "the prompt" + text_of(b.runner.expected(PROMPT, 3))
    assert [token.token_id for token in echo.logprobs] == PROMPT
    assert echo.logprobs[0].logprob is None
    assert [token.logprob for token in echo.logprobs[1:]] == pytest.approx(direct_logprobs(PROMPT), abs=1e-5)
    assert all(len(token.top) == 2 for token in echo.logprobs[1:])
    assert echo.logprobs[1].raw == token_bytes(PROMPT[1])
    assert (end.num_prompt_tokens, end.num_completion_tokens, end.num_cached_tokens) == (len(PROMPT), 3, 0)


def test_an_echo_without_an_answer_only_scores(bench):
    b = bench()
    options = {"echo": "the prompt", "scores_prompt": True}
    request = b.submit(PROMPT, max_tokens=0, logprobs=0, request_options=options)
    text, end = b.result(request)
    assert (text, end) == ("the prompt", Finished("length", len(PROMPT), 0))
    assert len(b.events(request)[0].logprobs) == len(PROMPT)


def test_scores_are_not_mixed_up_with_what_runs_beside_them(bench):
    b = bench(num_slots=3, step_tokens=4)
    options = {"echo": "", "scores_prompt": True}
    plain = [b.submit([i + 1, i + 2], max_tokens=20, name=f"plain {i}") for i in range(2)]
    scored = [
        b.submit([i + 30, *PROMPT], max_tokens=2, logprobs=0, name=f"scored {i}", request_options=dict(options))
        for i in range(3)
    ]
    for i, request in enumerate(plain):
        assert b.result(request)[0] == text_of(b.runner.expected([i + 1, i + 2], 20))
    for i, request in enumerate(scored):
        prompt = [i + 30, *PROMPT]
        assert b.result(request)[0] == text_of(b.runner.expected(prompt, 2))
        echo = next(e for e in b.events(request) if isinstance(e, Delta))
        assert [t.logprob for t in echo.logprobs[1:]] == pytest.approx(direct_logprobs(prompt), abs=1e-5)


@pytest.mark.parametrize("step_tokens", [3, 64])
def test_an_embedding_is_the_mean_over_the_whole_input_also_where_a_part_was_cached(bench, step_tokens):
    b = bench(step_tokens=step_tokens)
    b.result(b.submit(PROMPT, max_tokens=1, name="cached before"))
    request = b.submit(PROMPT, max_tokens=0, name="embedding", request_options={"is_embedding": True, "index": 4})
    b.wait_for(lambda: b._events.get("embedding"))
    (event,) = b.events(request)
    assert event == Embedded(tuple(float(sum(PROMPT) % 4 == axis) for axis in range(4)), len(PROMPT), 4)
    assert torch.tensor(event.vector).norm() == 1
    b.wait_for(lambda: len(b.runner.freed) == 2)
