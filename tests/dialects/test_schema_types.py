from __future__ import annotations

import pytest

from llmapi_kit.dialects.schema_types import types_of

pytestmark = pytest.mark.kernel

ROOT = {
    "$defs": {
        "Point": {"type": "object"},
        "Alias": {"$ref": "#/$defs/Point"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "Nest": {"anyOf": [{"$ref": "#/$defs/Nest"}]},
    }
}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"const": True}, {"boolean"}),
        ({"enum": ["a", 1, None, 1.5, [], {}]}, {"string", "integer", "null", "number", "array", "object"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"oneOf": [{"type": "string"}, {"title": "anything"}]}, set()),
        ({"allOf": [{"type": ["string", "null"]}, {"title": "x"}, {"type": "string"}]}, {"string"}),
        ({"allOf": [{"title": "x"}]}, set()),
        ({"$ref": "#/$defs/Point"}, {"object"}),
        ({"$ref": "#/$defs/Alias"}, {"object"}),
        ({"$ref": "#/$defs/Loop"}, set()),
        ({"$ref": "#/$defs/Nest"}, set()),
        ({"$ref": "#/$defs/Missing"}, set()),
        ({}, set()),
    ],
)
def test_the_types_that_a_schema_allows(schema, types):
    assert types_of(schema, ROOT) == types
