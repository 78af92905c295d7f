from __future__ import annotations

import pytest

from llmapi_kit.dialects.base import functions_of
from llmapi_kit.errors import InvalidRequestError

pytestmark = pytest.mark.kernel


def test_functions_keep_their_order_and_say_where_they_stand():
    tools = [
        {"type": "function", "function": {"name": "b", "parameters": {"type": "object"}, "strict": True}},
        {"type": "function", "function": {"name": "a", "parameters": None, "strict": None}},
    ]
    first, second = functions_of(tools)
    assert (first.name, first.is_strict, first.param) == ("b", True, "tools.0.function.parameters")
    assert (second.name, second.is_strict, second.parameters) == ("a", False, {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "function", "function": {}}], "tools.0.function.name"),
        ([{"type": "function", "function": {"name": 5}}], "tools.0.function.name"),
        ([{"function": {"name": "two words"}}], "tools.0.function.name"),
        ([{"type": "function", "function": None}], "tools.0.function.name"),
        ([{"function": {"name": "f"}}, {"function": {"name": "f"}}], "tools.1.function.name"),
        ([{"function": {"name": "f", "parameters": []}}], "tools.0.function.parameters"),
    ],
)
def test_a_tool_that_makes_no_sense_is_refused_by_name(tools, param):
    with pytest.raises(InvalidRequestError) as caught:
        functions_of(tools)
    assert caught.value.param == param
