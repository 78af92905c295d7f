from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmapi_kit.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    MissingDependencyError,
    QueueFullError,
    UnsupportedFieldError,
)
from llmapi_kit.runners import large_stack
from llmapi_kit.sampling.tokenizer import ModelTokenizer
from tests.sampling import vocabularies
from tests.sampling.answers import draw

ENDLESS = json.dumps({"type": "integer", "multipleOf": 9999991})


def lark_chain(length):
    """Each rule is the next one: llguidance recurses as deep."""
    return "start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(length)) + f'\na{length}: "x"'


def nested(depth):
    return '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth


def bomb(name):
    return "\n".join(
        [f"start: {name}0", *(f"{name}{i}: {name}{i + 1} {name}{i + 1}" for i in range(40)), name + '40: "x"']
    )


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible types"),
        ({"enum": []}, "empty"),
        ({"$ref": "#"}, "no text matches"),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "no text matches"),
        ({"$ref": "#/$defs/gone"}, "does not exist"),
        ({"$ref": "https://example.org/schema.json"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "string", "format": "postcode"}, "postcode"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, r"oneOf constraints are not supported\. Use anyOf\.$"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.25}, "between 0 and 0.25"),
        ({"minimum": -2.5, "exclusiveMaximum": -2}, "between -2.5 and -2"),
        ({"const": {"a": ["x\u0001"]}}, r"control character, in 'x\\x01'"),
        ({"properties": {"a\x7f": {}}}, "control character"),
        ({"properties": {"title": {"minProperties": 2}}}, "minProperties"),
        ([], "has to be an object"),
        (False, "has to be an object"),
    ],
)
def test_an_impossible_or_unsupported_schema_is_refused_with_the_reason(compiler, constraint, schema, reason):
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        compiler.compile(constraint("json_schema", json.dumps(schema)))
    assert refused.value.param == "the_field"
    assert refused.value.message.startswith("the_field")


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", "a\\", "backslash"),
        ("regex", "[^\\x00-\\U0010ffff]", "no text matches"),
        ("lark", "start: 1", "Expected value"),
        ("lark", 'foo: "a"', "no start rule"),
        ("lark", "start: start", "no text matches"),
        ("lark", "start: a\na: b\nb: a", "no text matches"),
        ("lark", "start: <|unknown|>", "unknown special token"),
        ("lark", "start: foo\nfoo[temperature=0.1]: /a+/", "temperature is not supported"),
        ("lark", 'start: foo "b"\n  foo[max_tokens=2, stop="a"]: /.*/', "stop is not supported"),
        ("choice", "[]", "list of texts"),
        ("choice", '["a", ""]', "list of texts"),
        ("choice", '["a", 1]', "list of texts"),
        ("choice", json.dumps([str(i) for i in range(10_001)]), "at most 10000"),
        ("json_schema", "{", "not JSON"),
    ],
)
def test_a_broken_pattern_grammar_or_choice_is_refused_with_the_reason(compiler, constraint, kind, source, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        compiler.compile(constraint(kind, source))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", ENDLESS),
        ("json_schema", json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(8000)}})),
        ("json_schema", nested(300)),
        ("json_schema", nested(6000)),
        ("regex", "(" * 5000 + "a" + ")" * 5000),
        ("lark", "start: " + "(" * 5000 + '"a"' + ")" * 5000),
        ("lark", lark_chain(12_000)),
        ("lark", lark_chain(12_000).replace("a", "A").replace("stArt: A0", "start: A0")),
        ("lark", bomb("A")),
    ],
    ids=["endless", "wide", "deep", "deeper", "deep-pattern", "deep-rule", "rule-chain", "terminal-chain", "bomb"],
)
def test_a_hostile_grammar_fails_alone(compiler, constraint, kind, source):
    with pytest.raises(InvalidRequestError) as refused:
        compiler.compile(constraint(kind, source))
    assert len(refused.value.message) < 700
    answer = draw(compiler.compile(constraint("regex", "a+b")), vocabularies.pocket(), vocabularies.POCKET_EOS, 0)
    assert answer.endswith("b")


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a{1000}){1000}"),
        ("regex", "(a|b)*a(a|b){100}x"),
        ("json_schema", json.dumps({"enum": [f"value number {i}" for i in range(8000)]})),
        ("json_schema", json.dumps({"type": "array", "minItems": 10**6, "items": {"type": "string"}})),
        ("lark", bomb("a")),
        ("lark", 'start: start start | "a" start | "b"'),
    ],
    ids=["repeat", "exponential", "enum", "min-items", "bomb", "ambiguous"],
)
def test_a_large_grammar_works_for_as_long_as_it_can(compiler, constraint, kind, source):
    matcher = compiler.compile(constraint(kind, source))
    draw(matcher, vocabularies.pocket(), vocabularies.POCKET_EOS, seed=0, max_tokens=5)


def test_annotations_and_data_are_not_taken_for_a_schema(compiler, constraint):
    schema = {"const": {"minProperties": 5}, "description": "\x1b[1m", "examples": [{"minProperties": 5}]}
    matcher = compiler.compile(constraint("json_schema", json.dumps(schema)))
    text = draw(matcher, vocabularies.pocket(), vocabularies.POCKET_EOS, seed=0)
    assert json.loads(text) == schema["const"]


def test_what_is_known_is_served_while_another_grammar_is_being_compiled(new_compiler, constraint):
    compiler = new_compiler()
    compiler.compile(constraint("regex", "a+"))
    with compiler._turn:  # as a slow one would have
        slow = compiler.submit(constraint("regex", "b+"))
        assert not compiler.compile(constraint("regex", "a+")).is_finished
        assert not slow.done()
    assert not slow.result(timeout=30).is_finished


def test_grammars_that_wait_do_not_pile_up(new_compiler, constraint):
    compiler = new_compiler(max_pending=1)
    with compiler._turn:
        waiting = compiler.submit(constraint("regex", "b+"))
        with pytest.raises(QueueFullError) as refused:
            compiler.compile(constraint("regex", "a+"))
    assert (refused.value.retry_after_s, refused.value.param) == (1, "the_field")
    waiting.result(timeout=30)
    compiler.compile(constraint("regex", "a+"))


def test_the_same_grammar_asked_for_twice_is_tried_once_and_each_error_names_its_own_field(new_compiler, constraint):
    compiler = new_compiler(max_pending=1)
    with compiler._turn:
        asked = [compiler.submit(constraint("regex", "(", param)) for param in ("one", "other")]
    errors = [future.exception(timeout=30) for future in asked]
    assert [error.param for error in errors] == ["one", "other"]
    assert errors[0].__cause__ is errors[1].__cause__


def test_many_threads_may_compile_at_once(new_compiler, constraint):
    compiler = new_compiler(max_pending=40)
    with ThreadPoolExecutor(8) as pool:
        sources = [f"a{{{1 + i % 10}}}b" for i in range(40)]
        matchers = list(pool.map(lambda source: compiler.compile(constraint("regex", source)), sources))
    for source, matcher in zip(sources, matchers, strict=True):
        text = draw(matcher, vocabularies.pocket(), vocabularies.POCKET_EOS, seed=0)
        assert text == "a" * int(source[2:-2]) + "b"


def test_a_grammar_is_compiled_once(new_compiler, constraint):
    compiler = new_compiler()
    first, second = (compiler.compile(constraint("regex", "a+", param)) for param in ("one", "other"))
    assert first is not second
    assert first.grammar is second.grammar
    assert compiler.compile(constraint("choice", '["a+"]')).grammar is not first.grammar


def test_the_grammar_used_least_recently_is_dropped_first(new_compiler, constraint):
    compiler = new_compiler(max_cached=2)
    kept, dropped = (compiler.compile(constraint("regex", source)).grammar for source in ("a", "b"))
    assert compiler.compile(constraint("regex", "a")).grammar is kept
    compiler.compile(constraint("regex", "c"))
    assert compiler.compile(constraint("regex", "a")).grammar is kept
    assert compiler.compile(constraint("regex", "b")).grammar is not dropped


def test_the_cache_is_bounded_by_size_too(new_compiler, constraint):
    compiler = new_compiler(max_cached_bytes=150)
    dropped = compiler.compile(constraint("regex", "a" * 100)).grammar
    kept = compiler.compile(constraint("regex", "b" * 100)).grammar
    assert compiler.compile(constraint("regex", "b" * 100)).grammar is kept
    assert compiler.compile(constraint("regex", "a" * 100)).grammar is not dropped


def test_the_tokenizer_of_the_engine_will_do(new_compiler, constraint):
    compiler = new_compiler(tokenizer=ModelTokenizer(vocabularies.pocket()))
    assert not compiler.compile(constraint("json_object")).is_finished


def test_a_vocabulary_without_bytes_is_refused_clearly(new_compiler, constraint):
    compiler = new_compiler(tokenizer=vocabularies.wordpiece(), eos_ids=[1])
    with pytest.raises(UnsupportedFieldError, match=r"WordPiece.*byte-level BPE") as refused:
        compiler.compile(constraint("json_object"))
    assert refused.value.param == "the_field"


def test_a_slow_tokenizer_is_refused_clearly(new_compiler, constraint):
    class Slow:
        backend_tokenizer = None

    with pytest.raises(UnsupportedFieldError, match="fast tokenizer"):
        new_compiler(tokenizer=Slow()).compile(constraint("json_object"))


def test_a_model_that_can_not_end_is_refused_clearly(new_compiler, constraint):
    with pytest.raises(UnsupportedFieldError, match="which token ends an answer"):
        new_compiler(eos_ids=[10**6]).compile(constraint("json_object"))


def test_a_missing_llguidance_names_the_pip_command(new_compiler, constraint, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    compiler = new_compiler()
    with pytest.raises(MissingDependencyError, match="pip install"):
        compiler.prepare()
    with pytest.raises(UnsupportedFieldError, match="pip install") as refused:
        compiler.compile(constraint("json_object"))
    assert refused.value.param == "the_field"


def test_closing_ends_the_process_and_what_waits(new_compiler, constraint):
    compiler = new_compiler()
    known = compiler.compile(constraint("regex", "a+"))
    hostile = compiler.submit(constraint("json_schema", ENDLESS))
    compiler.close()
    compiler.close()
    assert isinstance(hostile.exception(timeout=30), EngineUnavailableError)
    with pytest.raises(EngineUnavailableError):
        compiler.compile(constraint("regex", "b+"))
    assert draw(known, vocabularies.pocket(), vocabularies.POCKET_EOS, seed=0)


def test_other_threads_keep_their_stack_size(new_compiler, constraint):
    before = threading.stack_size()
    new_compiler().compile(constraint("regex", "a"))
    assert threading.stack_size() == before


@pytest.mark.slow
def test_what_passes_the_trial_fits_the_stack_here(new_compiler, constraint, monkeypatch):
    """The process tries with a quarter of the stack, so the deepest grammar that passes is compiled safely."""
    from llmapi_kit.sampling import trial_program

    assert large_stack.STACK_BYTES >= 4 * trial_program.STACK_BYTES
    compiler = new_compiler()
    lengths = [2**i for i in range(8, 14)]
    passed = []
    for length in lengths:
        try:
            compiler.compile(constraint("lark", lark_chain(length)))
            passed.append(length)
        except InvalidRequestError:
            break
    assert passed
    assert passed != lengths, "the longest chain was to be too deep"
