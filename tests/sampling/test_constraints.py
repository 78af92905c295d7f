from __future__ import annotations

import subprocess
import sys

import pytest

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import MAX_SOURCE_BYTES, Constraint


def test_equal_constraints_are_one_key():
    assert {Constraint("regex", "a+", "x"), Constraint("regex", "a+", "x")} == {Constraint("regex", "a+", "x")}


@pytest.mark.parametrize(
    ("source", "reason"),
    [("", "empty"), ("é" * (MAX_SOURCE_BYTES // 2) + "a", str(MAX_SOURCE_BYTES + 1)), ("\ud800", "surrogate")],
)
def test_a_source_that_is_empty_or_too_long_or_no_text_is_refused_by_its_field(source, reason):
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        Constraint("regex", source, "guided_regex")
    assert refused.value.param == "guided_regex"


def test_any_json_object_needs_no_source():
    assert Constraint("json_object", "", "response_format").source == ""


def test_constraints_need_neither_torch_nor_llguidance():
    code = (
        "import sys, llmapi_kit, llmapi_kit.sampling.constraints, llmapi_kit.sampling.grammar_source\n"
        "sys.exit(bool({'torch', 'numpy', 'llguidance'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
