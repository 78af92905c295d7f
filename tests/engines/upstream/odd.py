"""Chunks that are not as OpenAI's, and what a `StreamParser` makes of them."""

from __future__ import annotations

from llmapi_kit.engines.upstream.stream_parser import StreamParser

from .faulty import chunk

END = chunk(finish="stop")
ARGUMENTS = '{"a": 1}'


def message(finish="stop", **fields):
    """A whole answer."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}]}


def choice(**fields):
    return {"choices": [{"index": 0, **fields}]}


def call(arguments=ARGUMENTS, *, name="f", **fields):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def calls(*entries, finish=None):
    return chunk(tool_calls=list(entries), finish=finish)


def read(*chunks, is_whole=False, **options):
    """(text, reasoning, calls as (id, name, arguments), the end) of an answer's chunks."""
    reader = StreamParser(1, **options)
    deltas = [delta for each in chunks for delta in reader.read(each, is_whole=is_whole)]
    gathered = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        if piece.index == len(gathered):
            gathered.append((piece.id, piece.name, piece.arguments))
        else:
            call_id, name, arguments = gathered[piece.index]
            assert (piece.id, piece.name) == ("", "")
            gathered[piece.index] = (call_id, name, arguments + piece.arguments)
    text, reasoning = ("".join(getattr(delta, name) for delta in deltas) for name in ("text", "reasoning"))
    return text, reasoning, gathered, reader.finish()[0]
