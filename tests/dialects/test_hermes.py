from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.dialects.hermes import HermesCalls
from tests.dialects.replies import Reply, joined, outputs, read

pytestmark = pytest.mark.kernel

HERMES = HermesCalls()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def call(text):
    return f"<tool_call>\n{text}\n</tool_call>"


@pytest.mark.slow
@given(
    arguments=st.dictionaries(st.text(), JSON),
    name=st.text(min_size=1),
    name_first=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    is_ascii=st.booleans(),
    has_more=st.booleans(),
)
def test_any_call_in_valid_json_is_read_back(arguments, name, name_first, indent, is_ascii, has_more):
    members = {"name": name, "arguments": arguments} if name_first else {"arguments": arguments, "name": name}
    members |= {"id": {"x": ["}"]}} if has_more else {}
    text = call(json.dumps(members, indent=indent, ensure_ascii=is_ascii))
    reply = joined(outputs(HERMES, text, pieces=list(text)))
    ((found_name, found_arguments),) = reply.calls
    assert not reply.text
    assert found_name == name
    assert json.loads(found_arguments) == arguments


def test_arguments_are_the_models_own_text():
    assert read(HERMES, call('{"name": "f", "arguments": {"a" :1.10,\n "b": "\\u4eac 京 }"}}')).calls == (
        ("f", '{"a" :1.10,\n "b": "\\u4eac 京 }"}'),
    )


def test_a_call_begins_as_soon_as_its_name_is_known():
    found = outputs(HERMES, "", pieces=['<tool_call>\n{"name": "get_ti', 'me"', ', "arguments": {"ci', 'ty": "Oslo"}}'])
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [
        [],
        [("get_time", "")],
        [("", '{"ci')],
        [("", 'ty": "Oslo"}')],
        [],
    ]


def test_arguments_before_the_name_wait_for_it():
    found = outputs(HERMES, "", pieces=['<tool_call>{"arguments": {"a": 1}', ', "name": "f"', "}</tool_call>"])
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [[], [("f", '{"a": 1}')], [], []]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "f", "arguments": "{\\"a\\": \\"\\u4eac\\"}"}', '{"a": "京"}'),
        ('{"name": "f", "arguments": [1]}', "[1]"),
    ],
)
def test_arguments_in_other_forms(written, arguments):
    assert read(HERMES, call(written)) == Reply(calls=(("f", arguments),))


def test_a_function_that_is_not_offered_is_passed_on_as_written():
    assert read(HERMES, call('{"name": "unheard_of", "arguments": {}}')).calls == (("unheard_of", "{}"),)


@pytest.mark.parametrize("arguments", ['{"a": 1}', '{"a": 1', '{"a": [1', "12"])
def test_forgotten_closing_braces_end_with_the_tag(arguments):
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}</tool_call>\nSo.'
    assert read(HERMES, text) == Reply("\nSo.", "", (("f", arguments),))


def test_the_closing_tag_within_a_string_is_part_of_it():
    text = call('{"name": "f", "arguments": {"a": "</tool_call>"}}')
    assert read(HERMES, text) == Reply(calls=(("f", '{"a": "</tool_call>"}'),))


def test_a_forgotten_closing_tag_is_no_loss():
    one = '<tool_call>\n{"name": "f", "arguments": {}}\n'
    assert read(HERMES, one + one) == Reply(calls=(("f", "{}"),) * 2)


def test_several_objects_between_one_pair_of_tags_are_several_calls():
    text = call('{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}')
    assert read(HERMES, text) == Reply(calls=(("f", "{}"), ("g", "{}")))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call></tool_call>",
        "<tool_call>\n</tool_call>",
        "<tool_call>{}</tool_call>",
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
        "<tool_call>{'name': 'f'}</tool_call>",
        '<tool_call>["name"]</tool_call>',
        '<tool_call>{"name"',
        '<tool_call>{"arguments": {"a": 1',
    ],
)
def test_a_broken_call_without_a_name_is_text_in_full(text):
    assert read(HERMES, f"See {text}") == Reply(f"See {text}")


def test_what_follows_a_broken_call_is_text():
    text = '<tool_call>{"name": "f", "arguments": {"a": 1}} and that\'s it'
    assert read(HERMES, text) == Reply(" and that's it", "", (("f", '{"a": 1}'),))


def test_an_object_after_a_broken_call_is_text():
    text = '<tool_call>{"name": "f" {"name": "g", "arguments": {}}</tool_call>'
    assert read(HERMES, text) == Reply(' {"name": "g", "arguments": {}}</tool_call>', "", (("f", ""),))


def test_a_stray_brace_after_a_call_is_text():
    text = '<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>'
    assert read(HERMES, text) == Reply("}</tool_call>", "", (("f", '{"a": 1}'),))


@pytest.mark.parametrize(
    ("text", "arguments"),
    [('{"name": "f"', ""), ('{"name": "f", "argu', ""), ('{"name": "f", "arguments": {"a": "x', '{"a": "x')],
)
def test_an_unfinished_call_stays_as_far_as_it_came(text, arguments):
    assert read(HERMES, f"<tool_call>{text}") == Reply(calls=(("f", arguments),))
