# ruff: noqa: RUF001  (the markers are spelled so)
from __future__ import annotations

import json
from itertools import product

import jsonschema
import pytest

from llmapi_kit.dialects.deepseek import DeepSeekCalls
from llmapi_kit.dialects.dialect import PLAIN, Dialect
from llmapi_kit.dialects.hermes import HermesCalls
from llmapi_kit.dialects.llama import LlamaCalls
from llmapi_kit.dialects.mistral import MistralCalls
from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError
from llmapi_kit.sampling.constraints import Constraint
from tests.dialects.grammars import allows, draw, matcher, vocabulary
from tests.dialects.replies import THINK, function, joined

pytestmark = pytest.mark.slow

FORMS = {
    "hermes": HermesCalls(),
    "xml": HermesCalls(is_xml=True),
    "llama": LlamaCalls(),
    "mistral array": MistralCalls(),
    "mistral names": MistralCalls(is_array=False),
    "mistral ids": MistralCalls(is_array=False, has_call_id=True),
    "deepseek v3": DeepSeekCalls(),
    "deepseek v3.1": DeepSeekCalls(is_fenced=False),
}
POINT = {"type": "object", "properties": {"x": {"type": "number"}, "in": {"$ref": "#/$defs/Point"}}, "required": ["x"]}
TOOLS = (
    function(
        "get_weather",
        {
            "city": {"type": "string", "minLength": 1, "maxLength": 8},
            "days": {"type": "integer", "minimum": 0, "maximum": 10},
            "unit": {"enum": ["celsius", "kelvin", 7, None]},
            "note": {"type": ["string", "null", "boolean"]},
            "when": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}, {"type": "array"}]},
            "at": {"$ref": "#/$defs/Point"},
            "also": {"type": "array", "items": {"const": "京都"}, "maxItems": 2},
            "any": {},
        },
        required=["days", "city", "also"],
        **{"$defs": {"Point": POINT}},
    ),
    function("get", {"q": {"type": "string"}}, required=["q"]),
    function("mcp:s/g.et-2"),
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "free", "parameters": {}}},
)
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in TOOLS}
OSLO = '{"days": 3, "city": "Oslo", "also": []}'
TOKENS = ["text", "special", "added"]
BOTH = list(product(FORMS, TOKENS))


def made(form, reasoning=None):
    return Dialect("tested", FORMS[form], reasoning)


def vocabulary_of(dialect, tokens):
    return vocabulary(() if tokens == "text" else dialect.markers, is_special=tokens == "special")


def parsed(dialect, text, *, tools=TOOLS, inside=False):
    parser = dialect.parser(tools=tools, parses_calls=True, starts_in_reasoning=inside)
    return joined([parser.feed(text), parser.flush()])


def check_calls(reply, schemas=SCHEMAS):
    for name, arguments in reply.calls:
        jsonschema.validate(json.loads(arguments), schemas[name])


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_a_required_call_is_read_back_whatever_the_model_draws(form, tokens):
    dialect = made(form, THINK)
    vocab = vocabulary_of(dialect, tokens)
    most_calls = 0
    for seed, (parallel, inside) in enumerate(product([True, False], repeat=2)):
        constraint = dialect.call_constraint(
            TOOLS, forced=None, parallel=parallel, added_tokens=vocab.added_tokens, starts_in_reasoning=inside
        )
        for turn in range(5):
            text = draw(vocab, constraint, 10 * seed + turn)
            reply = parsed(dialect, text, inside=inside)
            assert not reply.text
            assert len(reply.calls) >= 1
            assert parallel or len(reply.calls) == 1
            check_calls(reply)
            most_calls = max(most_calls, len(reply.calls))
    assert most_calls > 1


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_a_forced_call_is_one_call_of_that_function(form, tokens):
    dialect = made(form)
    vocab = vocabulary_of(dialect, tokens)
    for tool in TOOLS:
        name = tool["function"]["name"]
        constraint = dialect.call_constraint(TOOLS, forced=name, parallel=True, added_tokens=vocab.added_tokens)
        for seed in range(4):
            reply = parsed(dialect, draw(vocab, constraint, seed))
            assert [called for called, _ in reply.calls] == [name]
            assert not reply.text
            check_calls(reply)


WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {OSLO}}}\n</tool_call>',
    "xml": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=also>\n[]\n</parameter>\n</function>\n</tool_call>"
    ),
    "llama": f'{{"name": "get_weather", "parameters": {OSLO}}}',
    "mistral array": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {OSLO}}}]',
    "mistral names": f"[TOOL_CALLS]get_weather[ARGS]{OSLO}",
    "mistral ids": f"[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{OSLO}",
    "deepseek v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        f"{OSLO}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek v3.1": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
}
WRITTEN = {form: text.replace(OSLO, '{"city": "Oslo", "days": 3, "also": []}') for form, text in WRITTEN.items()}


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "parameters": {"type": "integer"}},
    "required": ["name", "parameters"],
    "additionalProperties": False,
}
AS_PERSON = Constraint("json_schema", json.dumps(PERSON), "response_format")


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_an_answer_with_a_schema_is_calls_or_follows_it_whatever_the_model_draws(form, tokens):
    dialect = made(form, THINK)
    vocab = vocabulary_of(dialect, tokens)
    num_calls = num_texts = 0
    for seed, (parallel, inside) in enumerate(product([True, False], repeat=2)):
        constraint = dialect.answer_constraint(
            AS_PERSON, TOOLS, parallel=parallel, added_tokens=vocab.added_tokens, starts_in_reasoning=inside
        )
        assert constraint.param == "response_format"
        for turn in range(4):
            reply = parsed(dialect, draw(vocab, constraint, 10 * seed + turn), inside=inside)
            num_calls += bool(reply.calls)
            num_texts += not reply.calls
            if reply.calls:
                assert not reply.text
                assert parallel or len(reply.calls) == 1
            else:
                jsonschema.validate(json.loads(reply.text), PERSON)
    assert allows(vocab, constraint, WRITTEN[form])
    assert num_texts
    assert num_calls or form == "llama"  # drawn names are hardly ever a function's there


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_with_a_schema_is_read_as_text_though_it_looks_like_a_call(form):
    dialect = made(form)
    text = '{"name": "Ada", "parameters": 5}'
    vocab = vocabulary_of(dialect, "special")
    constraint = dialect.answer_constraint(AS_PERSON, TOOLS, parallel=True, added_tokens=vocab.added_tokens)
    assert allows(vocab, constraint, text)
    assert not allows(vocab, constraint, f"Sure. {text}")
    assert (parsed(dialect, text).text, parsed(dialect, text).calls) == (text, ())
    strict = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    held = dialect.answer_constraint(AS_PERSON, strict, parallel=True, added_tokens=vocab.added_tokens)
    assert allows(vocab, held, WRITTEN[form])
    assert not allows(vocab, held, WRITTEN[form].replace("Oslo", "A town with a long name"))


def test_other_constraints_stand_beside_calls_too():
    dialect = made("hermes")
    vocab = vocabulary_of(dialect, "special")
    for kind, source, text in (
        ("regex", "[ab]{2}/", "ab/"),
        ("choice", '["yes", "no"]', "no"),
        ("lark", 'start: r_0 r_0\nr_0: "x" | "{" r_0 "}"', "{x}x"),
        ("json_object", "", '{"a": 1}'),
    ):
        answer = Constraint(kind, source, "guided")
        constraint = dialect.answer_constraint(answer, TOOLS, parallel=True, added_tokens=vocab.added_tokens)
        assert allows(vocab, constraint, text)
        assert allows(vocab, constraint, WRITTEN["hermes"])
        assert not allows(vocab, constraint, text + "?")


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_what_templates_write_is_allowed_and_nothing_around_it(form, tokens):
    dialect = made(form, THINK)
    vocab = vocabulary_of(dialect, tokens)
    options = {"forced": None, "added_tokens": vocab.added_tokens}
    one = dialect.call_constraint(TOOLS, parallel=False, **options)
    text = WRITTEN[form]
    assert allows(vocab, one, text)
    assert allows(vocab, one, f"<think>\nHm, 京都?\n</think>\n\n{text}")
    assert not allows(vocab, one, f"Sure.\n{text}")
    assert not allows(vocab, one, f"{text}\n{text}")
    assert not allows(vocab, one, f"{text}.")
    assert not allows(vocab, one, text.replace("3", "11"))
    assert not allows(vocab, one, text.replace("get_weather", "get_wether"))
    assert not allows(vocab, one, "<think>\nHm.\n</think>\n\n")
    inside = dialect.call_constraint(TOOLS, parallel=False, starts_in_reasoning=True, **options)
    assert allows(vocab, inside, f"Hm.\n</think>\n\n{text}")
    assert not allows(vocab, inside, text)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", WRITTEN["hermes"] + "\n" + WRITTEN["hermes"]),
        ("xml", WRITTEN["xml"] + "\n" + WRITTEN["xml"]),
        ("llama", WRITTEN["llama"] + "; " + WRITTEN["llama"]),
        ("mistral array", WRITTEN["mistral array"][:-1] + WRITTEN["mistral array"].replace("[TOOL_CALLS] [", ", ")),
        ("mistral names", WRITTEN["mistral names"] * 2),
        (
            "deepseek v3.1",
            WRITTEN["deepseek v3.1"].replace("<｜tool▁calls▁end｜>", "")
            + WRITTEN["deepseek v3.1"].replace("<｜tool▁calls▁begin｜>", ""),
        ),
    ],
)
def test_several_calls_stand_as_templates_write_them(form, text, tokens):
    dialect = made(form)
    vocab = vocabulary_of(dialect, tokens)
    for parallel in (True, False):
        constraint = dialect.call_constraint(TOOLS, forced=None, parallel=parallel, added_tokens=vocab.added_tokens)
        assert allows(vocab, constraint, text) == parallel


STRICT = (
    function("get_weather", {"city": {"enum": ["Oslo", "京都"]}}, required=["city"], strict=True),
    function("get", {"q": {"type": "string"}}, required=["q"], strict=False),
)
CALLED = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    "xml": ("<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"),
    "llama": '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}',
    "mistral array": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
    "mistral names": '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}',
    "mistral ids": '[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{"city": "Oslo"}',
    "deepseek v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "deepseek v3.1": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
}


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_strict_functions_are_held_to_their_schema_and_text_is_free(form, tokens):
    dialect = made(form, THINK)
    vocab = vocabulary_of(dialect, tokens)
    constraint = dialect.strict_constraint(STRICT, added_tokens=vocab.added_tokens)
    text = CALLED[form]
    for allowed in ("", "It is 5 < 7, {so} [what]?\n", '{"a": 1}', text, f"Let me look.\n{text}", f"{text}\nSo."):
        assert allows(vocab, constraint, allowed), allowed
    assert allows(vocab, constraint, f"<think>Hm.</think>\n\nLook: {text}")
    assert not allows(vocab, constraint, f"Look: {text}".replace("Oslo", "Rome"))
    assert not allows(vocab, constraint, text.replace("get_weather", "unheard_of"))
    assert allows(vocab, constraint, text.replace("get_weather", "get"))  # which takes no city, but is not strict


@pytest.mark.parametrize("tokens", TOKENS)
def test_a_bare_call_of_a_strict_function_is_held_to_its_schema(tokens):
    dialect = made("llama")
    vocab = vocabulary_of(dialect, tokens)
    constraint = dialect.strict_constraint(STRICT, added_tokens=vocab.added_tokens)
    bare = CALLED["llama"].removeprefix("<|python_tag|>")
    assert allows(vocab, constraint, bare)
    assert allows(vocab, constraint, f"{bare}; {bare}")
    assert not allows(vocab, constraint, bare.replace("Oslo", "Rome"))
    assert not allows(vocab, constraint, bare.replace('{"name"', '{ "type": "function", "name"'))


@pytest.mark.parametrize(("form", "tokens"), BOTH)
def test_whatever_is_drawn_calls_of_strict_functions_follow_their_schema(form, tokens):
    dialect = made(form)
    vocab = vocabulary_of(dialect, tokens)
    constraint = dialect.strict_constraint(STRICT, added_tokens=vocab.added_tokens)
    num_strict = 0
    for seed in range(10):
        reply = parsed(dialect, draw(vocab, constraint, seed, starts=FORMS[form].starts), tools=STRICT)
        check_calls(reply, {"get_weather": STRICT[0]["function"]["parameters"], "get": {"type": "object"}})
        num_strict += sum(name == "get_weather" for name, _ in reply.calls)
    assert num_strict


def test_where_no_function_is_strict_there_is_nothing_to_hold():
    assert made("hermes").strict_constraint(TOOLS, added_tokens={}) is None


def test_a_marker_spelled_in_other_tokens_opens_a_call_too():
    dialect = made("hermes")
    vocab = vocabulary_of(dialect, "special")
    constraint = dialect.strict_constraint(STRICT, added_tokens=vocab.added_tokens)
    spelled = vocab.encode("<tool") + vocab.encode("_call>")
    assert vocab.encode("<tool_call>") != spelled
    checked = matcher(vocab, constraint)
    assert checked.try_consume_tokens(spelled) == len(spelled)
    assert checked.validate_tokens(vocab.encode(" is a tag")) == 0


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"a": {"type": "string", "pattern": "^x"}}, "tools.0.function.parameters.properties.a"),
        ({"a": {"type": "string", "format": "date"}}, "tools.0.function.parameters.properties.a"),
        ({"a": {"anyOf": [{"type": "null"}, {"pattern": "x"}]}}, "tools.0.function.parameters.properties.a"),
        ({"a": {"allOf": [{"type": "string"}, {"maxLength": 3}]}}, "tools.0.function.parameters.properties.a"),
        ({"a": {"enum": ["</parameter>"]}}, "tools.0.function.parameters.properties.a"),
        ({"a": {"enum": ["1", 1]}}, "tools.0.function.parameters.properties.a"),
        ({"a>": {"type": "string"}}, "tools.0.function.parameters"),
    ],
)
def test_what_bare_text_can_not_guarantee_is_refused_by_name(schema, param):
    with pytest.raises(InvalidRequestError, match="can't guarantee") as caught:
        made("xml").call_constraint([function("f", schema)], forced="f", parallel=False, added_tokens={})
    assert caught.value.param == param
    made("hermes").call_constraint([function("f", schema)], forced="f", parallel=False, added_tokens={})


@pytest.mark.parametrize(
    ("schema", "written", "is_allowed"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, "7", True),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, "3", False),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, "three", True),
        ({"anyOf": [{"type": "string"}, {"const": True}]}, "true", True),
        ({"anyOf": [{"type": "string"}, {"const": True}]}, "False", False),
        ({"anyOf": [{"type": "string"}, {"const": True}]}, "Falsehood", True),
        ({"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 1}]}, "[1]", True),
        ({"anyOf": [{"type": "string"}, {"type": "array", "maxItems": 1}]}, "[1, 2]", False),
        ({"type": ["string", "null"]}, "null", True),
        ({"type": ["string", "null"]}, "5", True),
        ({"type": "string", "maxLength": 2}, "京都", True),
        ({"type": "string", "maxLength": 2}, "abc", False),
        ({"type": "string"}, "a\n</parameter", True),
        ({"enum": ["a", 1, None]}, "null", True),
        ({"enum": ["a", 1, None]}, "b", False),
        ({}, "{1}", False),
    ],
)
def test_bare_text_is_allowed_where_it_is_read_back_as_a_value_of_the_schema(schema, written, is_allowed):
    tool = function("f", {"a": schema}, required=["a"])
    dialect = made("xml")
    vocab = vocabulary_of(dialect, "text")
    constraint = dialect.call_constraint([tool], forced="f", parallel=False, added_tokens=vocab.added_tokens)
    text = f"<tool_call>\n<function=f>\n<parameter=a>\n{written}\n</parameter>\n</function>\n</tool_call>"
    assert allows(vocab, constraint, text) == is_allowed
    if is_allowed:
        ((_, arguments),) = parsed(dialect, text, tools=[tool]).calls
        jsonschema.validate(json.loads(arguments), tool["function"]["parameters"])


def test_arguments_that_depend_on_each_other_are_refused_in_bare_text():
    tool = function("f", {"a": {}}, anyOf=[{"required": ["a"]}])
    with pytest.raises(InvalidRequestError, match="anyOf"):
        made("xml").call_constraint([tool], forced="f", parallel=False, added_tokens={})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("schema", "message"),
    [({"x-guidance": {"lenient": True}}, "x-guidance"), ({"$defs": {"\x01": {}}}, "control character")],
)
def test_what_would_be_accepted_and_not_kept_is_refused(form, schema, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        made(form).call_constraint([function("f", **schema)], forced="f", parallel=False, added_tokens={})
    assert caught.value.param == "tools.0.function.parameters"


def test_parameters_may_be_a_reference_to_a_definition():
    tool = {
        "function": {
            "name": "f",
            "parameters": {
                "$ref": "#/$defs/Place",
                "$defs": {"Place": {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}},
            },
        }
    }
    for form in FORMS:
        dialect = made(form)
        vocab = vocabulary_of(dialect, "text")
        constraint = dialect.call_constraint([tool], forced="f", parallel=False, added_tokens=vocab.added_tokens)
        ((_, arguments),) = parsed(dialect, draw(vocab, constraint, 1), tools=[tool]).calls
        assert json.loads(arguments)["x"] == 1


def test_a_schema_that_is_no_objects_is_refused():
    tool = {"function": {"name": "f", "parameters": {"type": "array"}}}
    with pytest.raises(InvalidRequestError) as caught:
        made("hermes").call_constraint([tool], forced="f", parallel=False, added_tokens={})
    assert caught.value.param == "tools.0.function.parameters.type"


@pytest.mark.parametrize("form", FORMS)
def test_properties_that_are_not_declared_are_left_out_unless_allowed(form):
    dialect = made(form)
    vocab = vocabulary_of(dialect, "text")
    open_ended = function("get", {}, additionalProperties={"type": "integer"})
    del open_ended["function"]["parameters"]["properties"]
    options = {"forced": "get", "parallel": False, "added_tokens": vocab.added_tokens}
    closed = dialect.call_constraint([function("get", {})], **options)
    allowing = dialect.call_constraint([open_ended], **options)
    found = set()
    for seed in range(8):
        assert parsed(dialect, draw(vocab, closed, seed)).calls == (("get", "{}"),)
        ((_, arguments),) = parsed(dialect, draw(vocab, allowing, seed), tools=[open_ended]).calls
        found |= set(map(type, json.loads(arguments).values()))
    assert found == {int}


def test_the_constraint_names_the_field_it_comes_from():
    dialect = made("hermes")
    options = {"parallel": False, "added_tokens": {}}
    assert dialect.call_constraint(TOOLS, forced="get", **options).param == "tools.1.function.parameters"
    assert dialect.call_constraint(TOOLS, forced=None, **options).param == "tools"
    assert dialect.call_constraint(TOOLS, forced=None, **options).kind == "lark"


@pytest.mark.parametrize(("tools", "forced"), [(TOOLS, "nothing"), ([], None)])
def test_without_a_function_to_call_no_call_can_be_forced(tools, forced):
    with pytest.raises(InvalidRequestError) as caught:
        made("hermes").call_constraint(tools, forced=forced, parallel=False, added_tokens={})
    assert caught.value.param == "tool_choice"


def test_a_dialect_without_calls_says_so():
    assert not PLAIN.has_calls
    with pytest.raises(UnsupportedFieldError, match="not known"):
        PLAIN.call_constraint(TOOLS, forced=None, parallel=False, added_tokens={})
    with pytest.raises(UnsupportedFieldError, match="not known"):
        PLAIN.strict_constraint(STRICT, added_tokens={})
