"""The events of a streamed response, each with its number.

The order is that of OpenAI: a response is created and in progress; each item is added, its content comes in pieces and
is done, the item is done; then the response is completed, incomplete or failed.

Source: OpenAI API reference, "Responses": streaming events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmapi_kit.api.openai.answer_parts import Part, PartBegan, PartEnded, PartEvent, PartGrew, PartReader
from llmapi_kit.api.openai.generation import Generation, StreamFormat
from llmapi_kit.api.openai.renamed_error import renamed
from llmapi_kit.api.responses.body import NAMES
from llmapi_kit.api.responses.response import UNFINISHED, Output, fail, finish, logprobs, status_of
from llmapi_kit.api.responses.tools import offered_name
from llmapi_kit.errors import RequestError
from llmapi_kit.types import Delta, Finished, TokenLogprob, ToolCallDelta

# json.dumps would make an encoder for every token
_quote = json.JSONEncoder(ensure_ascii=False).encode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# By kind of a part, what the events of its pieces are called.
PIECES: Mapping[str, str] = {
    "reasoning": "response.reasoning_text",
    "text": "response.output_text",
    "call": "response.function_call_arguments",
}
# By status of a response, the event that ends its stream. OpenAI has none of its own for a cancelled one.
END_EVENTS: Mapping[str, str] = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.incomplete",
}


class EventWriter:
    """Writes the events of one response.

    Args:
        response: as it is created; it is kept up to date.
        output: how its items are written.
        is_silent: write no events, and only keep the response up to date.

    Attributes:
        frames: every event so far, as an SSE frame each; its place is its number.
    """

    def __init__(self, response: dict[str, Any], output: Output, *, is_silent: bool = False) -> None:
        self.response = response
        self.frames: list[bytes] = []
        self._output = output
        self._reader = PartReader()
        self._finished: Finished | None = None
        self._is_silent = is_silent
        self._templates: dict[int, tuple[str, str, str]] = {}

    def begin(self) -> bytes:
        """The response is there."""
        kinds = ["response.queued"] if self.response["status"] == "queued" else ["response.in_progress"]
        return b"".join(self._of_response(kind) for kind in ("response.created", *kinds))

    def work(self) -> bytes:
        """A response that was queued is worked on."""
        self.response["status"] = "in_progress"
        return self._of_response("response.in_progress")

    def read(self, delta: Delta) -> bytes:
        """A piece of the answer."""
        return self._write(self._reader.read(delta))

    def end(self, finished: Finished) -> bytes:
        """The answer's last item is done; an answer without any is an empty text."""
        self._finished = finished
        status = status_of(finished)
        ends = self._reader.end() if self._reader.parts else (*self._reader.begin("text"), *self._reader.end())
        return self._write(ends, status)

    def complete(self, usage: Mapping[str, Any]) -> bytes:
        """The response is complete."""
        if self._finished is None:
            raise RuntimeError("the answer has no end")
        finish(self.response, self._output, self._reader.parts, self._finished, usage)
        return self._of_response(END_EVENTS[self.response["status"]])

    def fail(self, error: RequestError) -> bytes:
        """The response failed."""
        if self.response["status"] not in UNFINISHED and self.frames:
            self.frames.pop()  # it was complete, but could not be kept, and nobody was told yet
        fail(self.response, self._output, self._reader.parts, renamed(error, NAMES))
        return self._of_response("response.failed")

    def cancel(self) -> bytes:
        """Whoever asked for the response gave it up."""
        parts = self._reader.parts
        self.response |= {
            "status": "cancelled",
            "output": [self._output.item(part, "incomplete" if part.is_open else "completed") for part in parts],
        }
        return self._of_response(END_EVENTS["cancelled"])

    def replay(self, response: Mapping[str, Any]) -> None:
        """All events of a response that came whole, as if it had been streamed in one piece an item."""
        self.begin()
        for index, item in enumerate(response["output"]):
            if item["type"] == "message":
                self._write(self._reader.begin("text"))
            self.read(_delta(item, index))
        self._write(self._reader.end(), response["status"])
        self.response = dict(response)
        self._of_response(END_EVENTS[response["status"]])

    def _of_response(self, kind: str) -> bytes:
        return self._event(kind, {"response": self.response})

    def _write(self, events: Iterable[PartEvent], status: str = "completed") -> bytes:
        if self._is_silent:
            for _ in events:
                pass
            return b""
        return b"".join(self._frames(event, status) for event in events)

    def _frames(self, event: PartEvent, status: str) -> bytes:
        if isinstance(event, PartGrew) and not event.logprobs:
            return self._grown(event.part, event.piece)
        return b"".join(self._event(kind, body) for kind, body in self._told(event, status))

    def _grown(self, part: Part, piece: str) -> bytes:
        """The event of a token, as `_told` has it. What stays the same in each is built once a part."""
        if part.position not in self._templates:
            ((kind, body),) = self._told(PartGrew(part, ""), "")
            data = _encode({"type": kind, "sequence_number": 0, **body})
            before, _, after = data.partition('"delta":""')
            head, _, rest = before.partition('"sequence_number":0')
            start = f'event: {kind}\ndata: {head}"sequence_number":'
            self._templates[part.position] = (start, f'{rest}"delta":', f"{after}\n\n")
        start, middle, end = self._templates[part.position]
        self.frames.append(f"{start}{len(self.frames)}{middle}{_quote(piece)}{end}".encode())
        return self.frames[-1]

    def _told(self, event: PartEvent, status: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(type, body) of the events that tell of something that happened to a part."""
        part = event.part
        where = {"item_id": self._output.item_id(part), "output_index": part.position}
        if part.kind != "call":
            where["content_index"] = 0
        if isinstance(event, PartGrew):
            yield f"{PIECES[part.kind]}.delta", {**where, "delta": event.piece, **self._logprobs(part, event.logprobs)}
        elif isinstance(event, PartBegan):
            yield "response.output_item.added", {"output_index": part.position, "item": self._output.opened(part)}
            if part.kind != "call":
                yield "response.content_part.added", {**where, "part": self._output.content(part)}
        elif isinstance(event, PartEnded):
            yield f"{PIECES[part.kind]}.done", {**where, **self._whole(part)}
            if part.kind != "call":
                yield "response.content_part.done", {**where, "part": self._output.content(part)}
            item = self._output.item(part, status)
            yield "response.output_item.done", {"output_index": part.position, "item": item}

    def _whole(self, part: Part) -> dict[str, Any]:
        if part.kind == "call":
            return {"name": self._output.function(part)["name"], "arguments": part.text}
        return {"text": part.text, **self._logprobs(part, part.logprobs)}

    def _logprobs(self, part: Part, tokens: Iterable[Any]) -> dict[str, Any]:
        return {"logprobs": logprobs(list(tokens))} if part.kind == "text" else {}

    def _event(self, kind: str, body: Mapping[str, Any]) -> bytes:
        if self._is_silent:
            return b""
        data = _encode({"type": kind, "sequence_number": len(self.frames), **body})
        self.frames.append(f"event: {kind}\ndata: {data}\n\n".encode())
        return self.frames[-1]


class ResponseStreamFormat(StreamFormat):
    """The frames of a streamed response."""

    opens_at_once = True

    def __init__(self, writer: EventWriter, generation: Generation) -> None:
        self._writer = writer
        self._generation = generation

    def first(self, index: int) -> bytes:
        """The response is there."""
        if self._writer.frames:
            return self._writer.work()
        return self._writer.begin()

    def delta(self, delta: Delta) -> bytes:
        """A piece of the answer."""
        return self._writer.read(delta)

    def last(self, finished: Finished) -> bytes:
        """The last item is done."""
        return self._writer.end(finished)

    def failed(self, error: RequestError) -> bytes:
        """The response failed."""
        return self._writer.fail(error)

    def end(self) -> bytes:
        """The response is complete."""
        if self._writer.response["status"] == "in_progress":
            return self._writer.complete(self._generation.usage())
        return self._writer.frames[-1]


def _delta(item: Mapping[str, Any], index: int) -> Delta:
    """What would have brought an item in one piece."""
    if item["type"] == "function_call":
        name = offered_name(item.get("namespace"), item["name"])
        return Delta("", tool_calls=(ToolCallDelta(index, item["call_id"], name, item["arguments"]),))
    text = "".join(part["text"] for part in item["content"])
    if item["type"] == "reasoning":
        return Delta("", reasoning=text)
    return Delta(text, logprobs=tuple(_token(entry) for part in item["content"] for entry in part["logprobs"]))


def _token(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple(_token(other) for other in entry.get("top_logprobs", ()))
    return TokenLogprob(-1, entry["token"], bytes(entry["bytes"]), entry["logprob"], top)
