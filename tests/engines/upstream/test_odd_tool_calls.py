"""Tool calls as providers send them: numbered or named anyhow, with arguments of any shape."""

from __future__ import annotations

import functools
import json

import pytest

from llmapi_kit.types import Delta

from .conftest import run
from .faulty import chunk, events
from .odd import ARGUMENTS, call, calls, message, read

ONE = [("c1", "f", ARGUMENTS)]
TWO = [("c1", "f", ARGUMENTS), ("c2", "f", '{"b": 2}')]
HALVES = ARGUMENTS[:4], ARGUMENTS[4:]
first, second = functools.partial(call, HALVES[0]), functools.partial(call, HALVES[1])
other = call('{"b": 2}', id="c2")
CALLS = {
    "arguments that are an object": ([calls(call({"a": 1}, id="c1", index=0))], ONE),
    "an empty object before the arguments": (
        [calls(call({}, id="c1", index=0)), calls({"index": 0, "function": {"arguments": ARGUMENTS}})],
        ONE,
    ),
    "arguments that are null": ([calls(call(None, id="c1", index=0))], [("c1", "f", "{}")]),
    "arguments that are empty": ([calls(call("", id="c1", index=0))], [("c1", "f", "{}")]),
    "no arguments": ([calls({"id": "c1", "index": 0, "function": {"name": "f"}})], [("c1", "f", "{}")]),
    "an index that is null": ([calls(first(id="c1", index=None)), calls(second(index=None, name=None))], ONE),
    "an index that is a text": ([calls(first(id="c1", index="0")), calls(second(index="0", name=""))], ONE),
    "no index": ([calls(first(id="c1")), calls(second(name=""))], ONE),
    "an index from 1": ([calls(first(id="c1", index=1)), calls(second(index=1, name=None))], ONE),
    "id and name in each piece": ([calls(first(id="c1", index=0)), calls(second(id="c1", index=0))], ONE),
    "id and name in each piece, no index": ([calls(first(id="c1")), calls(second(id="c1"))], ONE),
    "an empty id later": ([calls(first(id="c1", index=0)), calls(second(id="", name="", index=0))], ONE),
    "another id in each piece": ([calls(first(id="c1", index=0)), calls(second(id="c9", name=None, index=0))], ONE),
    "another id, and the name, in each piece": ([calls(first(id="c1", index=0)), calls(second(id="c9", index=0))], ONE),
    "the name after the id": (
        [calls({"index": 0, "id": "c1", "function": None}), calls(call(index=0))],
        ONE,
    ),
    "arguments before the name": (
        [calls({"index": 0, "id": "c1", "function": {"arguments": HALVES[0]}}), calls(second(index=0))],
        ONE,
    ),
    "no id": ([calls(call(index=0))], [("call_0", "f", ARGUMENTS)]),
    "an id that is a number": ([calls(call(index=0, id=7))], [("7", "f", ARGUMENTS)]),
    "no function around name and arguments": ([calls({"id": "c1", "name": "f", "arguments": {"a": 1}})], ONE),
    "one call in place of a list": ([chunk(tool_calls=call(id="c1"))], ONE),
    "function_call": (
        [chunk(function_call={"name": "f", "arguments": HALVES[0]}), chunk(function_call={"arguments": HALVES[1]})],
        [("call_0", "f", ARGUMENTS)],
    ),
    "several of one index": ([calls(call(id="c1", index=0)), calls({**other, "index": 0})], TWO),
    "several of one index in one chunk": ([calls(call(id="c1", index=0), {**other, "index": 0})], TWO),
    "several of one index, in pieces": (
        [
            calls(first(id="c1", index=0)),
            calls(second(index=0, name=None)),
            calls(call('{"b"', id="c2", index=0)),
            calls(call(": 2}", index=0, name=None)),
        ],
        TWO,
    ),
    "several of one index, their pieces in turn": (
        [
            calls(first(id="c1", index=0)),
            calls(call('{"b"', id="c2", index=0, name="g")),
            calls(second(id="c1", index=0, name=None)),
            calls(call(": 2}", id="c2", index=0, name=None)),
        ],
        [TWO[0], ("c2", "g", '{"b": 2}')],
    ),
    "several of one index, without ids": (
        [calls(call(index=0)), calls(call('{"b": 2}', index=0))],
        [("call_0", "f", ARGUMENTS), ("call_1", "f", '{"b": 2}')],
    ),
    "several without index": ([calls(call(id="c1"), other)], TWO),
    "several without index, chunk by chunk": ([calls(call(id="c1")), calls(other)], TWO),
    "several without index and id": (
        [calls(call(""), call(""))],
        [("call_0", "f", "{}"), ("call_1", "f", "{}")],
    ),
    "several without arguments": (
        [calls(call("", id="c1", index=0)), calls(call("", id="c2", index=0))],
        [("c1", "f", "{}"), ("c2", "f", "{}")],
    ),
    "several of one id": (
        [calls(call(id="c1", index=0)), calls(call('{"b": 2}', id="c1", index=1))],
        [TWO[0], ("call_1", "f", '{"b": 2}')],
    ),
    "indices with a gap": ([calls(call(id="c1", index=1)), calls({**other, "index": 3})], TWO),
    "the call again at the end": (
        [calls(first(id="c1", index=0)), calls(second(index=0, name="")), calls(call(id="c1", index=0))],
        ONE,
    ),
    "the call again in a message at the end": (
        [calls(call(id="c1", index=0)), message(None, tool_calls=[call(id="c1")])],
        ONE,
    ),
}


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call", "tool_use", "TOOL_CALLS"])
@pytest.mark.parametrize("what", CALLS)
def test_tool_calls_are_read_as_what_they_mean(what, reason):
    chunks, expected = CALLS[what]
    text, _, gathered, end = read(*chunks, chunk(finish=reason))
    assert (text, gathered, end.reason) == ("", expected, "tool_calls")
    assert all(isinstance(json.loads(arguments), dict) for _, _, arguments in gathered)


WHOLE_CALLS = {
    "arguments that are an object": [call({"a": 1}, id="c1"), other],
    "one index": [call(id="c1", index=0), {**other, "index": 0}],
    "an index that is a text": [call(id="c1", index="0"), {**other, "index": "1"}],
    "an index that is null": [call(id="c1", index=None), {**other, "index": None}],
}


@pytest.mark.parametrize("what", WHOLE_CALLS)
def test_tool_calls_of_a_whole_answer_are_read_as_what_they_mean(what):
    _, _, gathered, end = read(message(content=None, tool_calls=WHOLE_CALLS[what]), is_whole=True)
    assert (gathered, end.reason) == (TWO, "tool_calls")


def test_tool_calls_of_odd_providers_come_through_the_engine(upstream):
    _, engine = upstream(events(calls(call({"a": 1}, id="c1", index=0)), calls({**other, "index": 0}, finish="stop")))
    _, seen = run(engine)
    pieces = [piece for each in seen if isinstance(each, Delta) for piece in each.tool_calls]
    assert [(p.index, p.id, p.name, p.arguments) for p in pieces] == [(0, *TWO[0]), (1, *TWO[1])]
    assert seen[-1].reason == "tool_calls"
