"""From an upstream's chunks to events: text, reasoning, tool calls, logprobs, and how it ended.

A whole answer is read like a chunk that has everything. Believes nothing: a field that can't be read as anything ends
the answer in an error. Runs on the consumer's event loop; knows nothing of connections.

Source: OpenAI API reference, "chat.completion.chunk" and "text_completion"; `reasoning_content` is DeepSeek's, and
`reasoning` what vLLM, Ollama and OpenRouter call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmapi_kit.engines.upstream import fields
from llmapi_kit.engines.upstream.fields import IncompleteError, MalformedError, mapping, sequence
from llmapi_kit.engines.upstream.tool_calls import ToolCallReader
from llmapi_kit.engines.upstream.welm import cut_at_stop
from llmapi_kit.types import Delta, Finished, FinishReason, TokenLogprob

UNKNOWN_ID = -1
# In lower case; other names for the end of a turn, its limit and its filter are those of various providers.
REASONS: Mapping[str, FinishReason] = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "end_turn", "end", "stop_sequence", "stop_token", "finished", "finish"), "stop"
    ),
    **dict.fromkeys(("complete", "completed", "done"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "max_new_tokens", "max_length"), "length"),
    **dict.fromkeys(("model_length", "token_limit", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "content_filtered", "safety", "recitation", "blocklist"), "content_filter"),
    **dict.fromkeys(("prohibited_content", "spii", "sensitive", "refusal"), "content_filter"),
}
NO_REASON = ("", "null", "none")  # what some send in place of null, while the answer goes on
# A piece that says once more all that came in so many pieces is not a piece, but the answer again.
MIN_PIECES_REPEATED = 3


@dataclass(slots=True)
class _Answer:
    """One of n answers, as far as it came.

    Attributes:
        reason: why it ended; None while it has not.
        num_pieces: tokens that came, a piece counting as one where nobody says how many it has.
        texts: the pieces of its text.
        half: of a character, whose other half is to come.
        has_logprobs: whether some came.
        has_deltas: whether its pieces come as `delta`, so that a `message` beside them is the whole of it.
        calls: reads its tool calls.
    """

    reason: FinishReason | None = None
    num_pieces: int = 0
    texts: list[str] = field(default_factory=list)
    half: str = ""
    has_logprobs: bool = False
    has_deltas: bool = False
    calls: ToolCallReader = field(default_factory=ToolCallReader)

    def complete_characters(self, text: str) -> str:
        """A piece without the half character at its end, which comes with the next one."""
        text, self.half = self.half + text, ""
        if fields.ends_in_half(text):
            text, self.half = text[:-1], text[-1]
        return fields.whole_characters(text)

    def is_repeated_by(self, text: str) -> bool:
        """Whether this is all of its text again."""
        return len(self.texts) >= MIN_PIECES_REPEATED and text == "".join(self.texts)


class StreamParser:
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
        self._usage = _Usage()
        self._went_on = False

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended, as far as its upstream can be believed."""
        return all(answer.reason is not None for answer in self._answers)

    @property
    def went_on(self) -> bool:
        """Whether an answer went on after it had ended: this upstream says so in each chunk."""
        return self._went_on

    @property
    def has_usage(self) -> bool:
        """Whether the upstream said how many tokens it took."""
        return bool(self._usage.completion_tokens)

    def read(self, chunk: object, *, is_whole: bool = False) -> Iterator[Delta]:
        """What a chunk, or a whole answer, brings.

        Args:
            chunk: JSON.
            is_whole: nothing comes after it, so an answer that does not say why it ended has ended well.

        Raises:
            MalformedError: it can't be read as one.
        """
        chunk = mapping(chunk, "a chunk")
        groq = chunk.get("x_groq")
        self._usage.read(chunk.get("usage") or (groq.get("usage") if isinstance(groq, Mapping) else None))
        for place, choice in enumerate(sequence(chunk.get("choices"), "choices")):
            if choice is not None:
                yield from self._choice(mapping(choice, "a choice"), place, is_whole=is_whole)

    def finish(self) -> list[Finished]:
        """How the answers ended, with their tokens: the upstream's figures, or the number of pieces without.

        Raises:
            IncompleteError: one has not.
        """
        usage = self._usage
        num_cached = min(usage.prompt_tokens, usage.cached_tokens)
        num_images = min(usage.prompt_tokens, usage.image_tokens)
        tokens = self._shares()
        finished = []
        for index, answer in enumerate(self._answers):
            if answer.reason is None:
                raise IncompleteError("the stream ended before the answer was complete")
            counts = usage.prompt_tokens, tokens[index], num_cached, index
            finished.append(Finished(answer.reason, *counts, num_image_tokens=num_images))
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
        total = self._usage.completion_tokens
        if not total:  # an upstream that does not count may say 0
            return pieces
        shares = [total * count // (sum(pieces) or 1) for count in pieces]
        shares[0] += total - sum(shares)
        return shares

    def _choice(self, choice: Mapping[str, Any], place: int, *, is_whole: bool) -> Iterator[Delta]:
        index = fields.position(choice, place)
        if index is None or index >= len(self._answers):
            raise MalformedError(f"a choice has the index {index}")
        answer = self._answers[index]
        self._usage.read(choice.get("usage"))
        if self._stop:
            choice = cut_at_stop(choice, self._stop)
        reason = _reason(choice)
        delta = self._delta(choice, answer, index, is_last=reason is not None)
        if delta is not None:
            self._went_on = self._went_on or answer.reason is not None
            yield delta
        if answer.reason is None and (reason := reason or ("stop" if is_whole else None)):
            missing = tuple(answer.calls.finish())
            answer.reason = _reason_with_calls(reason, answer.calls.num_calls)
            if missing:
                yield Delta("", 0, (), index, "", missing)

    def _delta(self, choice: Mapping[str, Any], answer: _Answer, index: int, *, is_last: bool) -> Delta | None:
        """What a choice brings to its answer, and what that means for the answer."""
        message = _message(choice, answer)
        text, reasoning = fields.content(message.get("content"))
        text = text or fields.text(choice, "text") or fields.text(message, "refusal")
        text = answer.complete_characters(text)
        reasoning = fields.whole_characters(reasoning or fields.reasoning(message))
        logprobs = self._logprobs(choice)
        calls = tuple(answer.calls.read(message))
        if (is_last or answer.reason is not None) and text and answer.is_repeated_by(text):
            text, reasoning, logprobs = "", "", ()
        if not (text or reasoning or logprobs or calls):
            return None
        num_tokens = len(logprobs) or 1
        answer.num_pieces += num_tokens
        answer.has_logprobs = answer.has_logprobs or bool(logprobs)
        if text:
            answer.texts.append(text)
        if self._wants_logprobs and text and not answer.has_logprobs:
            raise MalformedError("the answer has no logprobs, which were asked for")
        return Delta(text, num_tokens, logprobs if self._wants_logprobs else (), index, reasoning, calls)

    def _logprobs(self, choice: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
        """Those of a choice; nobody minds what is wrong with them where they were not asked for."""
        try:
            return tuple(_logprobs(choice.get("logprobs")))
        except MalformedError:
            if self._wants_logprobs:
                raise
            return ()


@dataclass(slots=True)
class _Usage:
    """The tokens that an upstream says it took: the most it said, as it may say it in every chunk, or in parts.

    Attributes:
        prompt_tokens: of the prompt.
        cached_tokens: of those, from a cache.
        image_tokens: of those, for pictures.
        completion_tokens: of all answers together; None if it did not say.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    completion_tokens: int | None = None

    def read(self, usage: object) -> None:
        """Take what can be read of it."""
        if not isinstance(usage, Mapping):
            return
        details = usage.get("prompt_tokens_details")
        details = details if isinstance(details, Mapping) else {}
        cached, images = details.get("cached_tokens"), details.get("image_tokens")
        self.prompt_tokens = max(self.prompt_tokens, _count(usage, "prompt_tokens", "input_tokens") or 0)
        self.cached_tokens = max(self.cached_tokens, fields.count(cached) or 0)
        self.image_tokens = max(self.image_tokens, fields.count(images) or 0)
        completion = _count(usage, "completion_tokens", "output_tokens")
        if completion is not None:
            self.completion_tokens = max(self.completion_tokens or 0, completion)


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := fields.count(usage.get(name))) is not None), None)


def _message(choice: Mapping[str, Any], answer: _Answer) -> Mapping[str, Any]:
    """Where a choice has its text and calls: in `delta`, in `message`, or, in the older API, in itself.

    A `message` beside deltas, or after them, is the whole answer once more, and is read only if nothing came before.
    """
    delta = mapping(choice.get("delta") or {}, "a delta")
    if any(value for name, value in delta.items() if name != "role"):
        answer.has_deltas = True
        return delta
    if choice.get("message"):
        return {} if answer.has_deltas else mapping(choice["message"], "a message")
    return delta or choice


def _reason(choice: Mapping[str, Any]) -> FinishReason | None:
    """Why an answer ended; None if it has not.

    Raises:
        MalformedError: for no reason known here.
    """
    reason = choice.get("finish_reason")
    said = reason.strip().lower() if isinstance(reason, str) else ""
    if reason is None or (isinstance(reason, str) and said in NO_REASON):
        return None
    known = REASONS.get(said)
    if known is None:
        raise MalformedError(f"it ended for the reason {reason!r:.40}")
    return known


def _reason_with_calls(reason: FinishReason, num_calls: int) -> FinishReason:
    """Some say "stop" after calls, some "tool_calls" without any."""
    if reason == "stop" and num_calls:
        return "tool_calls"
    return "stop" if reason == "tool_calls" and not num_calls else reason


def _logprobs(value: object) -> Iterator[TokenLogprob]:
    """Those of a conversation's chunk, or the four lists of the older API."""
    if not value:
        return
    found = mapping(value, "logprobs")
    for entry in sequence(found.get("content"), "logprobs.content"):
        token = mapping(entry, "a logprob")
        top = [_token(mapping(other, "a logprob")) for other in sequence(token.get("top_logprobs"), "top_logprobs")]
        yield _token(token, tuple(top))
    tokens = sequence(found.get("tokens"), "logprobs.tokens")
    values = sequence(found.get("token_logprobs"), "logprobs.token_logprobs")
    tops = sequence(found.get("top_logprobs"), "logprobs.top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise MalformedError("the lists of logprobs differ in length")
    for text, logprob, others in zip(tokens, values, tops, strict=True):
        entries = [{"token": t, "logprob": v} for t, v in mapping(others or {}, "top_logprobs").items()]
        yield _token({"token": text, "logprob": logprob}, tuple(map(_token, entries)))


def _token(entry: Mapping[str, Any], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    text, logprob, raw = entry.get("token"), entry.get("logprob"), entry.get("bytes")
    if not isinstance(text, str) or not isinstance(logprob, float | int | None):
        raise MalformedError("a logprob has no token or no number")
    if isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw):
        data = bytes(raw)
    else:
        data = text.encode(errors="replace")
    return TokenLogprob(
        UNKNOWN_ID, fields.whole_characters(text), data, None if logprob is None else float(logprob), top
    )
