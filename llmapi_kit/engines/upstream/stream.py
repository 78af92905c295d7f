"""From an upstream's chunks to events: text, reasoning, tool calls, logprobs, and how it ended.

A whole answer is read like a chunk that has everything. Believes nothing: a field of another type than it should have
ends the answer in an error. Runs on the consumer's event loop; knows nothing of connections.

Source: OpenAI API reference, "chat.completion.chunk" and "text_completion"; `reasoning_content` is DeepSeek's, and
`reasoning` what vLLM, Ollama and OpenRouter call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmapi_kit.engines.upstream.welm import cut_at_stop
from llmapi_kit.types import Delta, Finished, FinishReason, TokenLogprob, ToolCallDelta

UNKNOWN_ID = -1
REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # other names for the end of a turn
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "finished": "stop",
    "max_tokens": "length",
}


class MalformedError(ValueError):
    """A chunk is not what it should be."""


@dataclass(slots=True)
class _Answer:
    """One of n answers, as far as it came.

    Attributes:
        reason: why it ended; None while it has not.
        num_pieces: tokens that came, a piece counting as one where nobody says how many it has.
        has_logprobs: whether some came.
        num_calls: tool calls that have begun.
    """

    reason: FinishReason | None = None
    num_pieces: int = 0
    has_logprobs: bool = False
    num_calls: int = 0


class AnswerReader:
    """Reads the chunks of one request.

    Args:
        num_answers: how many are to come.
        wants_logprobs: whether they were asked for.
        stop: texts to cut whole answers at, for an upstream that does not.
    """

    def __init__(self, num_answers: int, *, wants_logprobs: bool = False, stop: Sequence[str] = ()) -> None:
        self._answers = [_Answer() for _ in range(num_answers)]
        self._wants_logprobs = wants_logprobs
        self._stop = stop
        self._usage: Mapping[str, Any] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.reason is not None for answer in self._answers)

    @property
    def has_usage(self) -> bool:
        """Whether the upstream said how many tokens it took."""
        return self._usage is not None

    def read(self, chunk: object) -> Iterator[Delta]:
        """What a chunk, or a whole answer, brings.

        Raises:
            MalformedError: it is none.
        """
        chunk = _mapping(chunk, "a chunk")
        if isinstance(usage := chunk.get("usage"), Mapping):
            self._usage = usage
        for choice in _sequence(chunk.get("choices"), "choices"):
            yield from self._choice(_mapping(choice, "a choice"))

    def finish(self) -> list[Finished]:
        """How the answers ended, with their tokens: the upstream's figures, or the number of pieces without.

        Raises:
            MalformedError: one has not.
        """
        num_prompt = _count(self._usage, "prompt_tokens")
        details = (self._usage or {}).get("prompt_tokens_details")
        num_cached = min(num_prompt, _count(details if isinstance(details, Mapping) else None, "cached_tokens"))
        tokens = self._shares()
        finished = []
        for index, answer in enumerate(self._answers):
            if answer.reason is None:
                raise MalformedError("the stream ended before the answer was complete")
            finished.append(Finished(answer.reason, num_prompt, tokens[index], num_cached, index))
        return finished

    def uncounted(self) -> list[Delta]:
        """For counters: the tokens of each answer that no piece has stood for."""
        return [
            Delta("", missing, index=index)
            for index, (answer, num_tokens) in enumerate(zip(self._answers, self._shares(), strict=True))
            if (missing := num_tokens - answer.num_pieces) > 0
        ]

    def _shares(self) -> list[int]:
        """The tokens of each answer; the upstream gives their sum only."""
        pieces = [answer.num_pieces for answer in self._answers]
        if self._usage is None:
            return pieces
        total = _count(self._usage, "completion_tokens")
        shares = [total * count // (sum(pieces) or 1) for count in pieces]
        shares[0] += total - sum(shares)
        return shares

    def _choice(self, choice: Mapping[str, Any]) -> Iterator[Delta]:
        index = choice.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self._answers):
            raise MalformedError(f"a choice has the index {index!r:.20}")
        answer = self._answers[index]
        if self._stop:
            choice = cut_at_stop(choice, self._stop)
        content = choice.get("delta") or choice.get("message") or choice
        content = _mapping(content, "a delta")
        text = _text(content, "content") or _text(choice, "text") or _text(content, "refusal")
        reasoning = _text(content, "reasoning_content") or _text(content, "reasoning")
        logprobs = tuple(_logprobs(choice.get("logprobs")))
        calls = tuple(self._calls(answer, content.get("tool_calls")))
        if text or reasoning or logprobs or calls:
            if answer.reason is not None:
                raise MalformedError("an answer went on after its end")
            num_tokens = len(logprobs) or 1
            answer.num_pieces += num_tokens
            answer.has_logprobs = answer.has_logprobs or bool(logprobs)
            if self._wants_logprobs and text and not answer.has_logprobs:
                raise MalformedError("the answer has no logprobs, which were asked for")
            yield Delta(text, num_tokens, logprobs if self._wants_logprobs else (), index, reasoning, calls)
        reason = choice.get("finish_reason")
        if reason is not None and answer.reason is None:
            if reason not in REASONS:
                raise MalformedError(f"an answer ended for the reason {reason!r:.40}")
            answer.reason = "tool_calls" if answer.num_calls and reason == "stop" else REASONS[reason]

    def _calls(self, answer: _Answer, value: object) -> Iterator[ToolCallDelta]:
        for position, each in enumerate(_sequence(value, "tool_calls")):
            call = _mapping(each, "a tool call")
            index = call.get("index", position)
            function = _mapping(call.get("function") or {}, "a function")
            if not isinstance(index, int) or not 0 <= index <= answer.num_calls:
                raise MalformedError(f"a tool call has the index {index!r:.20}")
            is_first = index == answer.num_calls
            answer.num_calls += is_first
            name, call_id = _text(function, "name"), _text(call, "id")
            if is_first and not name:
                raise MalformedError("a tool call has no name")
            yield ToolCallDelta(
                index,
                (call_id or f"call_{index}") if is_first else "",
                name if is_first else "",
                _text(function, "arguments"),
            )


def _logprobs(value: object) -> Iterator[TokenLogprob]:
    """Those of a conversation's chunk, or the four lists of the older API."""
    if value is None:
        return
    found = _mapping(value, "logprobs")
    for entry in _sequence(found.get("content"), "logprobs.content"):
        token = _mapping(entry, "a logprob")
        top = [_token(_mapping(other, "a logprob")) for other in _sequence(token.get("top_logprobs"), "top_logprobs")]
        yield _token(token, tuple(top))
    tokens = _sequence(found.get("tokens"), "logprobs.tokens")
    values = _sequence(found.get("token_logprobs"), "logprobs.token_logprobs")
    tops = _sequence(found.get("top_logprobs"), "logprobs.top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise MalformedError("the lists of logprobs differ in length")
    for text, logprob, others in zip(tokens, values, tops, strict=True):
        entries = [{"token": t, "logprob": v} for t, v in _mapping(others or {}, "top_logprobs").items()]
        yield _token({"token": text, "logprob": logprob}, tuple(map(_token, entries)))


def _token(entry: Mapping[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    text, logprob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    if not isinstance(text, str) or not isinstance(logprob, float | int | None):
        raise MalformedError("a logprob has no token or no number")
    if isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw):
        data = bytes(raw)
    else:
        data = text.encode(errors="replace")
    return TokenLogprob(UNKNOWN_ID, text, data, None if logprob is None else float(logprob), top)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MalformedError(f"{what} is {type(value).__name__}, not an object")
    return value


def _sequence(value: object, what: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise MalformedError(f"{what} is {type(value).__name__}, not a list")
    return value


def _text(mapping: Mapping[str, Any], name: str) -> str:
    value = mapping.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MalformedError(f"{name} is {type(value).__name__}, not a text")
    return value


def _count(usage: Mapping[str, Any] | None, name: str) -> int:
    value = (usage or {}).get(name)
    return value if isinstance(value, int) and value >= 0 else 0
