"""Reads whole replies and replies in pieces, for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

from llmapi_kit.dialects import Dialect, Reasoning

THINK = Reasoning("<think>", "</think>")


def function(name, properties=None, *, required=(), strict=None, **schema):
    parameters = {"type": "object", "properties": properties or {}, "required": list(required), **schema}
    spec = {"name": name, "parameters": parameters}
    return {"type": "function", "function": spec if strict is None else {**spec, "strict": strict}}


TOOLS = (
    function(
        "get_weather",
        {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"type": ["string", "null"]},
            "near": {"type": "array", "items": {"type": "string"}},
        },
        required=["city"],
    ),
    function("get_time", {"city": {"type": "string"}}),
)


@dataclass(frozen=True)
class Reply:
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def pieces_of(text, cuts=()):
    cuts = sorted(cuts)
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def outputs(form, text, *, pieces=None, tools=TOOLS, reasoning=THINK, inside=False, parses_calls=True):
    """Everything a parser gives, piece by piece, the flush last."""
    dialect = Dialect("tested", form, reasoning)
    parser = dialect.parser(tools=tools, parses_calls=parses_calls, starts_in_reasoning=inside)
    found = [parser.feed(piece) for piece in (pieces if pieces is not None else [text])]
    found.append(parser.flush())
    assert parser.num_calls == len({delta.index for piece in found for delta in piece.tool_calls})
    return found


def joined(found):
    """What a client has in the end. Checks what every stream promises on the way."""
    calls = {}
    for piece in found:
        for delta in piece.tool_calls:
            if delta.index not in calls:
                assert delta.index == len(calls)
                assert delta.id.startswith("call_")
                assert delta.name
                calls[delta.index] = [delta.name, ""]
            else:
                assert not delta.id
                assert not delta.name
            calls[delta.index][1] += delta.arguments
    return Reply(
        "".join(piece.text for piece in found),
        "".join(piece.reasoning for piece in found),
        tuple((name, arguments) for name, arguments in calls.values()),
    )


def read(form, text, **options):
    """The reply, read whole; reading it character by character gives the same."""
    whole = joined(outputs(form, text, **options))
    assert joined(outputs(form, text, pieces=list(text), **options)) == whole
    return whole
