from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.dialects.hermes import HermesCalls
from tests.dialects.replies import Reply, function, joined, outputs, read

pytestmark = pytest.mark.kernel

XML = HermesCalls(is_xml=True)
KINDS = function(
    "f",
    {
        "text": {"type": "string"},
        "number": {"type": "number"},
        "whole": {"type": "integer"},
        "flag": {"type": "boolean"},
        "some": {"type": ["string", "null"]},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "list": {"type": "array"},
        "point": {"$ref": "#/$defs/Point"},
        "unit": {"enum": ["m", "km"]},
        "anything": {},
    },
    **{"$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}}}},
)


def block(name="f", **values):
    parts = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<function={name}>\n{parts}</function>"


def call(name="f", **values):
    return f"<tool_call>\n{block(name, **values)}\n</tool_call>"


def arguments_of(**values):
    reply = read(XML, call(**values), tools=[KINDS])
    assert not reply.text
    return json.loads(reply.calls[0][1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("text", "5", "5"),
        ("text", "null", "null"),
        ("text", "\nsecond line\n", "\nsecond line\n"),
        ("text", 'say "hi" \\ <b>京都</b> </param', 'say "hi" \\ <b>京都</b> </param'),
        ("text", "", ""),
        ("number", "5", 5),
        ("number", "2.50", 2.5),
        ("number", "five", "five"),
        ("whole", " 7 ", 7),
        ("whole", "7.0", 7),
        ("whole", "7.5", "7.5"),
        ("flag", "true", True),
        ("flag", "False", False),
        ("some", "null", None),
        ("some", "None", None),
        ("some", "12", "12"),
        ("maybe", "12", 12),
        ("maybe", "null", None),
        ("list", '["a", {"b": "</parameter>"}]', ["a", {"b": "</parameter>"}]),
        ("point", '{"x": 1.5}', {"x": 1.5}),
        ("unit", "km", "km"),
        ("anything", '{"a": 1}', {"a": 1}),
        ("anything", "12", "12"),
        ("undeclared", "12", "12"),
        ("number", "NaN", "NaN"),
        ("list", "[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_has_the_type_that_its_schema_says(key, written, value):
    assert arguments_of(**{key: written}) == {key: value}


@given(text=st.text(), other=st.text())
def test_any_text_is_read_back(text, other):
    if "</parameter>" in text + other:
        return
    written = call(text=text, some=other)
    ((_, arguments),) = joined(outputs(XML, written, tools=[KINDS], pieces=list(written))).calls
    assert json.loads(arguments) == {"text": text, "some": None if other.strip() in ("null", "None") else other}


def test_several_calls_and_text_before_them():
    assert read(XML, f"Let me look.\n\n{call(text='a')}\n{call(whole='1')}", tools=[KINDS]) == Reply(
        "Let me look.", "", (("f", '{"text": "a"}'), ("f", '{"whole": 1}'))
    )


def test_a_call_without_parameters_has_an_empty_object():
    assert read(XML, call("get_time")).calls == (("get_time", "{}"),)


def test_the_outer_tag_may_be_forgotten():
    assert read(XML, block("get_time", city="Oslo")) == Reply(calls=(("get_time", '{"city": "Oslo"}'),))


def test_the_functions_own_closing_tag_may_be_forgotten():
    text = call("get_time", city="Oslo").replace("</function>\n", "")
    assert read(XML, text) == Reply(calls=(("get_time", '{"city": "Oslo"}'),))


def test_json_between_the_tags_is_read_too():
    text = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert read(XML, text) == Reply(calls=(("get_time", '{"city": "Oslo"}'),))
    assert read(HermesCalls(), call("get_time", city="Oslo")) == Reply(calls=(("get_time", '{"city": "Oslo"}'),))


def test_texts_stream_as_they_come():
    pieces = ["<tool_call><function=get_time>", "<parameter=city>\nOs", 'lo "', "\n", "</parameter>", "</function>"]
    found = outputs(XML, "", pieces=pieces)
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [
        [("get_time", "")],
        [("", '{"city": "Os')],
        [("", 'lo \\"')],
        [],
        [("", '"')],
        [("", "}")],
        [],
    ]


def test_an_unfinished_call_stays_as_far_as_it_came():
    text = "<tool_call>\n<function=get_time>\n<parameter=city>\nOs"
    assert read(XML, text) == Reply(calls=(("get_time", '{"city": "Os'),))


def test_what_is_no_parameter_breaks_the_call_off_visibly():
    text = "<tool_call><function=get_time><parameter=city>Oslo</parameter> or so</function>"
    assert read(XML, text) == Reply(" or so</function>", "", (("get_time", '{"city": "Oslo"'),))


@pytest.mark.parametrize("text", ["<function=", "<function=\n>", "<function=a<b>", f"<function={'x' * 300}>"])
def test_a_function_without_a_name_is_text(text):
    assert read(XML, text) == Reply(text)
