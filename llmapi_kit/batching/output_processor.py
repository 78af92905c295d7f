"""From chosen tokens to events: text, stop conditions, log-probabilities.

Knows nothing of slots, steps or models. Engine thread only; what it remembers of an answer is in the `Request`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Protocol

from llmapi_kit.batching.beam_search import BeamSearch, Hypothesis
from llmapi_kit.batching.request import Request
from llmapi_kit.sampling.detokenize import Detokenizer
from llmapi_kit.sampling.sampler import Sampled
from llmapi_kit.types import Delta, Event, Finished, FinishReason, TokenLogprob


class TokenBytes(Protocol):
    """The bytes that a token adds to a text."""

    def __call__(self, token_id: int, *, skip_special_tokens: bool = True, begins_text: bool = False) -> bytes:
        """Empty for a special token that is skipped; `begins_text` where nothing stands before it."""
        ...


class OutputProcessor:
    """Writes the answers of one model.

    Args:
        eos_ids: tokens that end an answer.
        token_bytes: see `BatchingLoop`.
    """

    def __init__(self, eos_ids: frozenset[int], token_bytes: TokenBytes) -> None:
        self._eos_ids = eos_ids
        self._token_bytes = token_bytes

    def ending_ids(self, request: Request) -> frozenset[int]:
        """Tokens that end this request's answer."""
        own = frozenset(request.params.stop_token_ids)
        return own if request.params.ignore_eos else own | self._eos_ids

    def advance(self, request: Request, choice: Sampled) -> list[Event]:
        """Take the next token. The last event is a `Finished` if it ends the answer."""
        events = [] if request.echo is None else self.begin(request)
        request.output_ids.append(choice.token_id)
        params = request.params
        ends = choice.token_id in params.stop_token_ids or (choice.token_id in self._eos_ids and not params.ignore_eos)
        reason: FinishReason | None = "stop" if ends else None
        text, is_stopped = "", False
        if ends and params.include_stop_str_in_output:
            text = request.stops.flush() + request.detokenizer.feed(choice.token_id)
        elif not ends:
            text = request.detokenizer.feed(choice.token_id)
            if len(request.output_ids) > params.min_tokens:
                text, is_stopped = request.stops.feed(text)
            is_complete = is_stopped or (request.matcher is not None and request.matcher.is_finished)
            reason = "stop" if is_complete else "length" if request.is_at_limit else None
        if reason is not None and not is_stopped:
            tail, is_stopped = request.stops.feed(request.detokenizer.flush())
            text += tail
            if is_stopped:
                reason = "stop"
            else:
                text += request.stops.flush()
        if not ends or text:
            logprobs = () if ends or choice.logprob is None else (self._chosen_logprob(request, choice),)
            events.append(Delta(text, 0 if ends else 1, logprobs, request.index))
        if reason is not None:
            events.append(self.finished(request, reason))
        return events

    def begin(self, request: Request) -> list[Event]:
        """The echo of the prompt, once."""
        if request.echo is None:
            return []
        text, request.echo = request.echo, None
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.scores_prompt:
            logprobs = tuple(self._prompt_logprobs(request))
        return [Delta(text, 0, logprobs, request.index)]

    def finished(self, request: Request, reason: FinishReason) -> Finished:
        """The end of an answer."""
        num_prompt, num_made = len(request.prompt_ids), len(request.output_ids)
        return Finished(
            reason,
            num_prompt,
            num_made,
            request.num_cached,
            request.index,
            stop_string=request.stops.met,
            num_image_tokens=request.num_image_tokens,
        )

    def hypotheses(self, request: Request, beams: BeamSearch[Request]) -> list[Event]:
        """All events of a beam search that is over; the answers come whole."""
        events: list[Event] = []
        num_prompt, num_images = len(request.prompt_ids), request.num_image_tokens
        for index, (best, detokenizer) in enumerate(zip(beams.answers(), request.detokenizers, strict=True)):
            text = self._text(best, detokenizer)
            num_shown = len(best.token_ids) - best.is_ended
            reason: FinishReason = "stop" if best.is_ended else "length"
            events += [
                Delta(text, num_shown, (), index),
                Finished(
                    reason, num_prompt, len(best.token_ids), request.num_cached, index, num_image_tokens=num_images
                ),
            ]
        return events

    def _text(self, hypothesis: Hypothesis, detokenizer: Detokenizer) -> str:
        shown = hypothesis.token_ids[:-1] if hypothesis.is_ended else hypothesis.token_ids
        return "".join(map(detokenizer.feed, shown)) + detokenizer.flush()

    def _prompt_logprobs(self, request: Request) -> Iterator[TokenLogprob]:
        begins_text = True
        for i, token_id in enumerate(request.prompt_ids):
            if i == 0:
                yield self._entry(request, token_id, None, begins_text=True)
            else:
                yield self._logprob(request, request.prompt_scores[i], begins_text=begins_text)
            begins_text = begins_text and not self._is_shown(request, token_id)

    def _chosen_logprob(self, request: Request, choice: Sampled) -> TokenLogprob:
        before = chain(request.context_ids, islice(request.output_ids, len(request.output_ids) - 1))
        is_first = not any(self._is_shown(request, token_id) for token_id in before)
        return self._logprob(request, choice, begins_text=is_first)

    def _is_shown(self, request: Request, token_id: int) -> bool:
        return bool(self._token_bytes(token_id, skip_special_tokens=request.params.skip_special_tokens))

    def _logprob(self, request: Request, choice: Sampled, *, begins_text: bool) -> TokenLogprob:
        own = self._entry(request, choice.token_id, choice.logprob, begins_text=begins_text)
        top = tuple(self._entry(request, *candidate, begins_text=begins_text) for candidate in choice.top)
        return TokenLogprob(own.token_id, own.text, own.raw, own.logprob, top)

    def _entry(self, request: Request, token_id: int, logprob: float | None, *, begins_text: bool) -> TokenLogprob:
        skip = request.params.skip_special_tokens
        raw = self._token_bytes(token_id, skip_special_tokens=skip, begins_text=begins_text)
        return TokenLogprob(token_id, raw.decode("utf-8", errors="replace"), raw, logprob)
