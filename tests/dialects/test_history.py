# ruff: noqa: RUF001  (the markers are spelled so)
from __future__ import annotations

import json

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.dialects import HistoryForm, dialect_of, messages_for_template
from llmapi_kit.dialects.history import history_form
from llmapi_kit.errors import InvalidRequestError
from tests.dialects.replies import TOOLS, joined
from tests.dialects.templates import FAMILIES

ARGUMENTS = '{"city": "京都", "days": 3}'
POCKET = (POCKET_DIR / "chat_template.jinja").read_text(encoding="utf-8")
TEMPLATES = {**FAMILIES, "pocket": POCKET}


def rendered(family, messages):
    """A conversation as transformers renders it, without what it does to messages before."""
    options = {"chat_template": TEMPLATES[family], "add_generation_prompt": False, "eos_token": "</s>"}
    return render_jinja_template(conversations=[messages], **options)[0][0]


def call(arguments=ARGUMENTS, call_id="call_0123456789abcdef", name="get_weather"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversation(*calls, content=None):
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": content, "tool_calls": list(calls)},
        *({"role": "tool", "tool_call_id": made["id"], "content": "7 degrees"} for made in calls),
        {"role": "assistant", "content": "It is 7 degrees.", "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "Thank "}, {"type": "text", "text": "you."}]},
    ]


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_template_writes_the_calls_of_a_history_as_its_dialect_reads_them(family):
    dialect = dialect_of(TEMPLATES[family])
    messages = messages_for_template(conversation(call()), dialect.history)
    whole = rendered(family, messages)
    assert "7 degrees" in whole
    assert "Thank you." in whole
    turn = rendered(family, messages[:2]).removeprefix(rendered(family, messages[:1]))
    for frame in ("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"):
        turn = turn.removeprefix(frame)
    for frame in ("<|im_end|>\n", "<|eot_id|>", "</s>", "<｜end▁of▁sentence｜>"):
        turn = turn.removesuffix(frame)
    parser = dialect.parser(tools=TOOLS, parses_calls=True, starts_in_reasoning=False)
    reply = joined([parser.feed(turn), parser.flush()])
    assert not reply.text
    ((name, arguments),) = reply.calls
    assert (name, json.loads(arguments)) == ("get_weather", json.loads(ARGUMENTS))


@pytest.mark.parametrize("family", ["qwen3", "pocket"])
def test_a_turn_that_comes_back_renders_to_what_the_model_wrote(family):
    # so that the cached prefix of the conversation is still its prefix
    written = (
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city":"京都" , "days": 3}}\n</tool_call>'
    )
    dialect = dialect_of(TEMPLATES[family])
    parser = dialect.parser(tools=TOOLS, parses_calls=True, starts_in_reasoning=False)
    reply = joined([parser.feed(written), parser.flush()])
    calls = [call(arguments, f"call_{i}", name) for i, (name, arguments) in enumerate(reply.calls)]
    messages = messages_for_template(conversation(*calls, content=reply.text), dialect.history)
    assert f"<|im_start|>assistant\n{written}<|im_end|>" in rendered(family, messages)


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("hermes", HistoryForm()),
        ("qwen3", HistoryForm(has_text_arguments=True)),
        ("qwen xml", HistoryForm()),
        ("llama", HistoryForm()),
        ("mistral", HistoryForm(call_id_length=9)),
        ("ministral", HistoryForm(has_text_arguments=True)),
        ("deepseek v3", HistoryForm(has_text_arguments=True, needs_none=True)),
        ("deepseek r1", HistoryForm()),
        ("deepseek v3.1", HistoryForm(has_text_arguments=True)),
        ("pocket", HistoryForm(has_text_arguments=True)),
    ],
)
def test_a_template_tells_what_it_wants_of_history(family, form):
    assert history_form(TEMPLATES[family]) == form
    assert dialect_of(TEMPLATES[family]).history == form


def test_arguments_become_objects_and_results_get_their_functions_name():
    given = conversation(call(), call("", "other", "get_time"))
    before = json.dumps(given)
    _, assistant, first, second, plain, thanks = messages_for_template(given)
    assert assistant["content"] == ""
    assert [made["function"]["arguments"] for made in assistant["tool_calls"]] == [{"city": "京都", "days": 3}, {}]
    assert (first["name"], second["name"]) == ("get_weather", "get_time")
    assert "tool_calls" not in plain
    assert thanks["content"] == "Thank you."
    assert json.dumps(given) == before


def test_other_keys_and_other_parts_stay():
    picture = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    given = [{"role": "assistant", "content": "a", "reasoning_content": "b"}, {"role": "user", "content": picture}]
    assert messages_for_template(given) == given


def test_arguments_that_are_given_as_an_object_become_text_where_text_is_wanted():
    form = HistoryForm(has_text_arguments=True)
    (_, message, *_) = messages_for_template(conversation(call({"city": "京都"})), form)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "京都"}'


def test_ids_get_the_length_that_a_template_insists_on():
    messages = messages_for_template(conversation(call(), call(call_id="abcDEF123")), HistoryForm(call_id_length=9))
    long, short = (made["id"] for made in messages[1]["tool_calls"])
    assert len(long) == 9
    assert long.isalnum()
    assert short == "abcDEF123"
    assert [message["tool_call_id"] for message in messages[2:4]] == [long, short]


@pytest.mark.parametrize("arguments", ["{oops", "[1]", '"text"', "null", "[" * 100_000])
@pytest.mark.parametrize("form", [HistoryForm(), HistoryForm(has_text_arguments=True)])
def test_arguments_that_are_no_json_object_are_refused_by_name(arguments, form):
    with pytest.raises(InvalidRequestError, match="JSON") as caught:
        messages_for_template(conversation(call(), call(arguments, "other")), form)
    assert caught.value.param == "messages.1.tool_calls.1.function.arguments"


def test_a_call_of_no_function_is_refused_by_name():
    with pytest.raises(InvalidRequestError) as caught:
        messages_for_template(conversation({"id": "x", "type": "custom", "custom": {}}))
    assert caught.value.param == "messages.1.tool_calls.0.function.name"


@pytest.mark.parametrize("call_id", ["unheard_of", None])
def test_a_result_without_its_call_is_refused_by_name(call_id):
    messages = conversation(call())
    messages[2]["tool_call_id"] = call_id
    with pytest.raises(InvalidRequestError, match="tool_call_id") as caught:
        messages_for_template(messages)
    assert caught.value.param == "messages.2.tool_call_id"
