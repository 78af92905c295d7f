from __future__ import annotations

import pytest

from llmapi_kit.dialects.mistral import MistralCalls
from tests.dialects.replies import Reply, outputs, read

pytestmark = pytest.mark.kernel

MISTRAL = MistralCalls()
ARGUMENTS = '{"city": "Os]lo"}'
OBJECT = f'{{"name": "get_time", "arguments": {ARGUMENTS}}}'
CALLED = (("get_time", ARGUMENTS),)


@pytest.mark.parametrize(
    "text",
    [
        f"[TOOL_CALLS] [{OBJECT}]",
        f"[TOOL_CALLS][{OBJECT}]\n",
        f'[TOOL_CALLS] [{{"name": "get_time", "arguments": {ARGUMENTS}, "id": "abcdefghi"}}]',
        f'[TOOL_CALLS] [{{"arguments": {ARGUMENTS}, "name": "get_time"}}]',
        f"[TOOL_CALLS]{OBJECT}",
        f"[TOOL_CALLS]get_time[ARGS]{ARGUMENTS}",
        f"[TOOL_CALLS] get_time[CALL_ID]abcdefghi[ARGS] {ARGUMENTS}",
        f"[TOOL_CALLS]get_time{ARGUMENTS}",
    ],
)
def test_every_generation_of_the_format_is_read(text):
    assert read(MISTRAL, text) == Reply(calls=CALLED)


@pytest.mark.parametrize(
    "text",
    [
        f"[TOOL_CALLS] [{OBJECT}, {OBJECT}]",
        f"[TOOL_CALLS]get_time[ARGS]{ARGUMENTS}[TOOL_CALLS]get_time[ARGS]{ARGUMENTS}",
    ],
)
def test_several_calls(text):
    assert read(MISTRAL, f"Let me look. {text}") == Reply("Let me look.", "", CALLED * 2)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS] [1, 2]",
        "[TOOL_CALLS] is a marker",
        "[TOOL_CALLS]get_time[ARGS]",
        '[TOOL_CALLS][{"name"',
        "see [TOOL_CA",
        "a[1] = [x]",
    ],
)
def test_what_is_no_call_is_text_in_full(text):
    assert read(MISTRAL, text) == Reply(text)


def test_what_follows_a_broken_array_is_text():
    assert read(MISTRAL, f"[TOOL_CALLS] [{OBJECT}, oops]") == Reply(", oops]", "", CALLED)


def test_arguments_stream_as_they_come():
    found = outputs(MISTRAL, "", pieces=["[TOOL_CALLS]get_ti", 'me[ARGS]{"ci', 'ty": "Oslo"}'])
    assert [[(d.name, d.arguments) for d in piece.tool_calls] for piece in found] == [
        [],
        [("get_time", '{"ci')],
        [("", 'ty": "Oslo"}')],
        [],
    ]
