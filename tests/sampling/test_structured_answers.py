"""What a grammar lets through is right, whatever the vocabulary: drawn at random, token by token."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings

from llmapi_kit.errors import InvalidRequestError
from llmapi_kit.sampling.constraints import Constraint
from tests.sampling import vocabularies
from tests.sampling.answers import allowed_ids, codec_of, draw
from tests.sampling.schemas import schemas

STRICT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "in full"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog", None]},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "parent", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "pattern": "^[a-z]{1,8}$"}},
}


def check(schema, text):
    jsonschema.Draft202012Validator(schema).validate(json.loads(text, parse_float=Decimal))


def accepts(matcher, text):
    """Whether a text may be the whole answer, as the pocket model would write it."""
    ids = vocabularies.pocket().encode(text, add_special_tokens=False)
    for token_id in ids:
        if token_id not in allowed_ids(matcher):
            return False
        matcher.accept(token_id)
    return matcher.may_end


@pytest.mark.slow
@settings(max_examples=80)
@given(schema=schemas())
def test_finished_answers_are_valid_under_random_schemas(compiler, schema):
    matcher = compiler.compile(Constraint("json_schema", json.dumps(schema), "response_format"))
    for seed in range(2):
        text = draw(matcher.clone(), vocabularies.pocket(), vocabularies.POCKET_EOS, seed)
        if text is not None:
            check(schema, text)


@pytest.mark.slow
def test_answers_are_valid_with_every_kind_of_vocabulary(any_compiler, constraint):
    compiler, tokenizer, eos_ids = any_compiler
    matcher = compiler.compile(constraint("json_schema", json.dumps(STRICT)))
    texts = [draw(matcher.clone(), tokenizer, eos_ids, seed, max_tokens=2000) for seed in range(30)]
    finished = [text for text in texts if text is not None]
    assert len(finished) > 20
    for text in finished:
        check(STRICT, text)
        assert list(json.loads(text)) == STRICT["required"], "properties come in the schema's order"


def test_any_json_object(any_compiler, constraint):
    compiler, tokenizer, eos_ids = any_compiler
    matcher = compiler.compile(constraint("json_object"))
    texts = [draw(matcher.clone(), tokenizer, eos_ids, seed, max_tokens=2000) for seed in range(20)]
    assert all(isinstance(json.loads(text), dict) for text in texts if text is not None)
    assert sum(text is not None for text in texts) > 10


@pytest.mark.parametrize(
    "pattern", [r"(yes|no), [0-9]{1,3}( [a-z]{1,6})?\.", r"a/b\\/c\n?", "^[ø-ÿ]{2}$", "(?i)true", "x{3,}"]
)
def test_an_answer_matches_the_whole_pattern(any_compiler, constraint, pattern):
    compiler, tokenizer, eos_ids = any_compiler
    if tokenizer is vocabularies.metaspace() and "ø" in pattern:
        with pytest.raises(InvalidRequestError, match="none of the model's tokens"):
            compiler.compile(constraint("regex", pattern))
        return
    matcher = compiler.compile(constraint("regex", pattern))
    for seed in range(10):
        text = draw(matcher.clone(), tokenizer, eos_ids, seed)
        assert text is not None
        assert re.fullmatch(pattern, text), text


def test_an_answer_is_exactly_one_of_the_choices(any_compiler, constraint):
    compiler, tokenizer, eos_ids = any_compiler
    choices = ["yes", "yes, very", "no", 'q"u', "a|b", "/s/", "#c", "$x{2}", "n\nl", "b\\s", "<s>", "<|im_end|>"]
    matcher = compiler.compile(constraint("choice", json.dumps(choices)))
    drawn = {draw(matcher.clone(), tokenizer, eos_ids, seed) for seed in range(200)}
    assert drawn <= set(choices)
    assert len(drawn) > 8


def test_an_answer_follows_a_grammar(any_compiler, constraint):
    compiler, tokenizer, eos_ids = any_compiler
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)* // a comment with "quotes" and <s>\nNUMBER: /[1-9][0-9]?/'
    matcher = compiler.compile(constraint("lark", grammar))
    for seed in range(10):
        text = draw(matcher.clone(), tokenizer, eos_ids, seed)
        assert text is None or re.fullmatch(r"[1-9][0-9]?(\+[1-9][0-9]?)*", text)


def test_a_model_that_writes_nothing_but_spaces_still_comes_to_an_end(compiler, constraint):
    codec = codec_of(vocabularies.pocket())
    blank = [i for i in range(vocabularies.POCKET_LOGITS) if codec.token_bytes(i).isspace()]
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"const": 1}, "maxItems": 2}}}
    matcher = compiler.compile(constraint("json_schema", json.dumps(schema | {"additionalProperties": False})))
    for _ in range(400):
        if matcher.is_finished:
            break
        allowed = allowed_ids(matcher)
        blanks = np.intersect1d(allowed, blank)
        matcher.accept(int(blanks[0] if len(blanks) else allowed[-1]))
    assert matcher.is_finished


def test_json_may_be_compact_or_spaced_or_indented_but_not_wider(compiler, constraint):
    matcher = compiler.compile(constraint("json_object"))
    value = {"a": [1, {"b": None}]}
    for text in (json.dumps(value), json.dumps(value, separators=(",", ":")), json.dumps(value, indent=4)):
        assert accepts(matcher.clone(), text), text
    for text in ('{"a":  1}', ' {"a":1}', '{"a":\n\n1}', '{"a":\n' + " " * 21 + "1}"):
        assert not accepts(matcher.clone(), text), text


def test_text_that_spells_a_special_token_is_spelled(compiler, constraint):
    schema = {"const": "<|im_end|><tool_call>"}
    text = draw(
        compiler.compile(constraint("json_schema", json.dumps(schema))),
        vocabularies.pocket(),
        vocabularies.POCKET_EOS,
        seed=0,
    )
    assert text == '"<|im_end|><tool_call>"'


def test_special_tokens_come_only_where_a_grammar_names_them(compiler, constraint):
    added = set(codec_of(vocabularies.pocket()).added_tokens.values())
    anything = compiler.compile(constraint("regex", r"(?s:.+)"))
    assert not added & set(allowed_ids(anything))
    named = compiler.compile(constraint("lark", 'start: <tool_call> "x" <|im_start|> /(?s:.*)/ </tool_call>'))
    tokenizer = vocabularies.pocket()
    for expected in ("<tool_call>", "x", "<|im_start|>"):
        [token_id] = allowed_ids(named)
        assert tokenizer.decode([token_id]) == expected
        named.accept(int(token_id))
    assert added & set(allowed_ids(named)) == {tokenizer.convert_tokens_to_ids("</tool_call>")}


@pytest.mark.parametrize("reference", ["<|im_end|>", "<|endoftext|>", "<[2]>", "<[0-1]>", "<[*]>", "<[^5]>"])
def test_a_grammar_can_not_name_a_token_that_ends_the_answer(compiler, constraint, reference):
    with pytest.raises(InvalidRequestError, match="ends the answer") as refused:
        compiler.compile(constraint("lark", f'start: "a" {reference} "b"'))
    assert refused.value.param == "the_field"


def test_an_end_token_that_is_ordinary_text_still_only_ends(new_compiler, constraint):
    end = vocabularies.pocket().encode("b", add_special_tokens=False)[0]
    matcher = new_compiler(eos_ids=[end]).compile(constraint("regex", "a[bc]"))
    assert end not in allowed_ids(matcher)
    matcher.accept(vocabularies.pocket().encode("a", add_special_tokens=False)[0])
    assert end not in allowed_ids(matcher)
    matcher.accept(vocabularies.pocket().encode("c", add_special_tokens=False)[0])
    assert matcher.is_finished


def test_a_property_can_not_be_written_twice_past_its_schema(compiler, constraint):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": {"type": "string"},
    }
    matcher = compiler.compile(constraint("json_schema", json.dumps(schema)))
    assert accepts(matcher.clone(), '{"a":1,"b":"x"}')
    assert not accepts(matcher.clone(), '{"a":1,"a":"x"}')
    assert not accepts(matcher.clone(), r'{"a":1,"\u0061":"x"}')


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("date", "2024-02-29"),
        ("time", "12:00:00Z"),
        ("date-time", "2024-02-29T12:00:00Z"),
        ("duration", "P1D"),
        ("email", "a@example.org"),
        ("hostname", "example.org"),
        ("ipv4", "192.0.2.1"),
        ("ipv6", "2001:db8::1"),
        ("uuid", "12345678-1234-1234-1234-123456789abc"),
    ],
)
def test_the_formats_of_strict_schemas_are_kept(compiler, constraint, kind, text):
    matcher = compiler.compile(constraint("json_schema", json.dumps({"type": "string", "format": kind})))
    assert accepts(matcher.clone(), f'"{text}"')
    assert not accepts(matcher.clone(), '"something else"')
