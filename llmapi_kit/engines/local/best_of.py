"""The best of several candidates, once all are complete.

Source: OpenAI API reference, "Completions", `best_of`: the highest log-probability a token wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llmapi_kit.engines.base import GenerationRequest
from llmapi_kit.engines.channel import Channel
from llmapi_kit.types import Delta, Event, Failed, Finished


@dataclass(slots=True)
class _Candidate:
    deltas: list[Delta] = field(default_factory=list)
    finished: Finished | None = None

    def score(self) -> float:
        """Mean log-probability a token; an empty answer has none and comes last."""
        made = [token for delta in self.deltas if delta.num_tokens for token in delta.logprobs]  # no echo of the prompt
        logprobs = [token.logprob for token in made if token.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


async def choose_best(channel: Channel[Event], request: GenerationRequest) -> list[Event]:
    """Wait for `request.best_of` candidates; the events of the best `request.n`, the best one first.

    Fails as soon as one candidate does.
    """
    candidates = [_Candidate() for _ in range(request.best_of)]
    num_left = request.best_of
    while num_left:
        event = await channel.receive()
        if isinstance(event, Failed):
            return [event]
        if isinstance(event, Delta):
            candidates[event.index].deltas.append(event)
        elif isinstance(event, Finished):
            candidates[event.index].finished = event
            num_left -= 1
    ranked = sorted(candidates, key=_Candidate.score, reverse=True)
    discarded = sum(c.finished.num_completion_tokens for c in ranked[request.n :] if c.finished)
    events: list[Event] = []
    for index, candidate in enumerate(ranked[: request.n]):
        if request.sampling.logprobs is None:  # they were made for the comparison only
            candidate.deltas = [replace(delta, logprobs=()) for delta in candidate.deltas]
        events.extend(replace(delta, index=index) for delta in candidate.deltas)
        if candidate.finished is not None:
            hidden = discarded if index == request.n - 1 else 0
            events.append(replace(candidate.finished, index=index, num_discarded_tokens=hidden))
    return events
