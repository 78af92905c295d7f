"""Messages as they come: a start, blocks one after the other, what ended them, a stop.

The same writer makes the whole message and the events of a stream, so both say the same.

Source: Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmapi_kit.api.anthropic.body import NAMES, MessagesBody
from llmapi_kit.api.anthropic.errors import failure
from llmapi_kit.api.openai.answer_parts import Part, PartBegan, PartEvent, PartGrew, PartReader
from llmapi_kit.api.openai.generation import Generation, StreamFormat
from llmapi_kit.api.openai.packed_reasoning import packed
from llmapi_kit.api.openai.renamed_error import renamed
from llmapi_kit.errors import RequestError
from llmapi_kit.types import Delta, Finished

# json.dumps would make an encoder for every token
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
STOP_REASONS: Mapping[str, str] = {"tool_calls": "tool_use", "content_filter": "refusal"}


class MessageWriter:
    """Writes one message.

    Args:
        generation: accepted by its engine.
        body: of the request.
    """

    def __init__(self, generation: Generation, body: MessagesBody) -> None:
        self._generation = generation
        self._max_tokens = body.max_tokens
        self._is_thinking_sent = not (body.thinking and body.thinking.display == "omitted")
        self._reader = PartReader()
        self._finished: Finished | None = None

    def message(self) -> dict[str, Any]:
        """The message as it is now."""
        blocks = [self._block(part, part.text) for part in self._reader.parts]
        return {
            "id": self._generation.id,
            "type": "message",
            "role": "assistant",
            "model": self._generation.model,
            "content": blocks,
            **self._end(),
            "usage": self._usage(),
        }

    def begin(self) -> Iterator[dict[str, Any]]:
        """The events before any text."""
        yield {"type": "message_start", "message": self.message()}
        yield {"type": "ping"}

    def read(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The events of a piece of the answer."""
        return self._events(self._reader.read(delta))

    def end(self, finished: Finished) -> Iterator[dict[str, Any]]:
        """The events of its end."""
        self._finished = finished
        return self._events(self._reader.end())

    def stop(self) -> Iterator[dict[str, Any]]:
        """The events after its last block."""
        yield {"type": "message_delta", "delta": self._end(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def _events(self, events: Iterable[PartEvent]) -> Iterator[dict[str, Any]]:
        for event in events:
            part, index = event.part, {"index": event.part.position}
            if isinstance(event, PartBegan):
                yield {"type": "content_block_start", **index, "content_block": self._block(part, "")}
            elif isinstance(event, PartGrew):
                if part.kind != "reasoning" or self._is_thinking_sent:
                    yield {"type": "content_block_delta", **index, "delta": _delta(part, event.piece)}
            else:
                if part.kind == "reasoning":
                    signature = {"type": "signature_delta", "signature": packed(part.text)}
                    yield {"type": "content_block_delta", **index, "delta": signature}
                yield {"type": "content_block_stop", **index}

    def _block(self, part: Part, text: str) -> dict[str, Any]:
        """A part's block, with as much of its text."""
        if part.kind == "text":
            return {"type": "text", "text": text, "citations": None}
        if part.kind == "reasoning":
            thinking = text if self._is_thinking_sent else ""
            return {"type": "thinking", "thinking": thinking, "signature": packed(text) if text else ""}
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": _input(text)}

    def _end(self) -> dict[str, Any]:
        finished = self._finished
        if finished is None:
            return {"stop_reason": None, "stop_sequence": None}
        if finished.stop_string:
            return {"stop_reason": "stop_sequence", "stop_sequence": finished.stop_string}
        reason = STOP_REASONS.get(finished.reason, "end_turn")
        if finished.reason == "length":
            is_context = finished.num_completion_tokens < self._max_tokens
            reason = "model_context_window_exceeded" if is_context else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": None}

    def _usage(self) -> dict[str, Any]:
        """What was used so far; input tokens are those that were computed."""
        if self._finished is None:
            so_far = self._generation.usage_so_far()
            return _usage(so_far["prompt_tokens"], 0, so_far["completion_tokens"])
        usage = self._generation.usage()
        num_cached = usage["prompt_tokens_details"]["cached_tokens"]
        return _usage(usage["prompt_tokens"], num_cached, usage["completion_tokens"])


class MessageStreamFormat(StreamFormat):
    """The frames of a streamed message."""

    opens_at_once = True

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer

    def first(self, index: int) -> bytes:
        """The message is there."""
        return _frames(self._writer.begin())

    def delta(self, delta: Delta) -> bytes:
        """A piece of it."""
        return _frames(self._writer.read(delta))

    def last(self, finished: Finished) -> bytes:
        """The last block is complete."""
        return _frames(self._writer.end(finished))

    def failed(self, error: RequestError) -> bytes:
        """It failed."""
        return frame(failure(renamed(error, NAMES)))

    def end(self) -> bytes:
        """It is complete."""
        return _frames(self._writer.stop())


def frame(event: Mapping[str, Any]) -> bytes:
    """An event as an SSE frame."""
    return f"event: {event['type']}\ndata: {_encode(event)}\n\n".encode()


def _frames(events: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(map(frame, events))


def _delta(part: Part, piece: str) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text_delta", "text": piece}
    if part.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": piece}
    return {"type": "input_json_delta", "partial_json": piece}


def _input(arguments: str) -> dict[str, Any]:
    """The arguments of a call as an object; a text that is none, as one cut off at max_tokens, stands in it whole."""
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"arguments": arguments}


def _usage(num_prompt: int, num_cached: int, num_made: int) -> dict[str, Any]:
    return {
        "input_tokens": num_prompt - num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": num_cached,
        "output_tokens": num_made,
    }
