"""What the events of a request must be like, whatever is asked and of whom."""

# ruff: noqa: S101 - asserts are how a test speaks

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.errors import RequestError
from llmapi_kit.types import Accepted, Delta, Event, Failed, Finished


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    """All events of a request. Asserts that nothing comes after the end."""
    seen = [event async for event in events]
    after = [event async for event in events]
    assert after == [], f"events came after the end: {after}"
    return seen


def answers_of(events: Sequence[Event], n: int = 1) -> list[str]:
    """The text of each answer."""
    texts = [""] * n
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] += event.text
    return texts


def check_events(request: GenerationRequest, events: Sequence[Event], *, counts_tokens: bool = True) -> None:
    """Assert that the events of a request that was accepted are what they have to be.

    One `Accepted` first. Then pieces of each answer and the end of each, in any mixture, with nothing for an answer
    after its end; or one `Failed`, last. Numbers add up, and limits are kept.

    Args:
        request: what was asked.
        events: all that came.
        counts_tokens: whether the engine knows how many tokens a piece has, and the prompt before it is computed.
    """
    assert events, "there were no events"
    assert isinstance(events[0], Accepted), f"the first event is {events[0]!r}, not Accepted"
    assert not any(isinstance(event, Accepted) for event in events[1:]), "there are several Accepted"
    ends: dict[int, Finished] = {}
    num_tokens = [0] * request.n
    for position, event in enumerate(events[1:], 1):
        if isinstance(event, Failed):
            assert position == len(events) - 1, "events came after Failed"
            assert isinstance(event.error, RequestError), f"Failed has {event.error!r}, which is not a RequestError"
            return
        assert isinstance(event, Delta | Finished), f"{event!r} has no place in an answer"
        assert 0 <= event.index < request.n, f"{event!r} is of answer {event.index}, and n is {request.n}"
        assert event.index not in ends, f"{event!r} came after the end of answer {event.index}"
        if isinstance(event, Delta):
            assert event.num_tokens >= 0, f"{event!r} stands for {event.num_tokens} tokens"
            num_tokens[event.index] += event.num_tokens
        else:
            ends[event.index] = event
    assert sorted(ends) == list(range(request.n)), f"of {request.n} answers, {sorted(ends)} came to an end"
    for index, end in ends.items():
        _check_end(request, events[0], end, num_tokens[index], answers_of(events, request.n)[index], counts_tokens)


def _check_end(
    request: GenerationRequest, accepted: Accepted, end: Finished, num_tokens: int, text: str, counts_tokens: bool
) -> None:
    limit = request.sampling.max_tokens
    assert end.reason in ("stop", "length", "tool_calls"), f"{end!r} has no reason that is known"
    assert 0 <= end.num_cached_tokens <= max(end.num_prompt_tokens, 0), f"{end!r}: more cached than there are"
    assert end.num_completion_tokens >= 0, f"{end!r}: fewer than no tokens"
    for stop in request.sampling.stop:
        assert stop not in text, f"the stop string {stop!r} is in the answer {text!r}"
    if not counts_tokens:
        return
    assert end.num_prompt_tokens == accepted.num_prompt_tokens, f"{end!r}, after {accepted!r}"
    num_unseen = end.num_completion_tokens - num_tokens  # the end-of-turn token has no text, and no piece
    assert num_unseen in ((0,) if end.reason == "length" else (0, 1)), f"{end!r}, after pieces of {num_tokens} tokens"
    if limit is not None:
        assert end.num_completion_tokens <= limit, f"{end!r}, and max_tokens is {limit}"
