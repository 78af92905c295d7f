"""Models that think, whole and streamed, and the options of their templates: the text is scripted, the rest is real."""

from __future__ import annotations

import json

import openai
import pytest
import torch
from transformers import AutoTokenizer

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.config import load_settings
from llmapi_kit.dialects import dialect_of
from llmapi_kit.engines.local.engine import LocalEngine
from llmapi_kit.runners.fake_runner import FakeRunner
from llmapi_kit.sampling.grammar_compiler import GrammarCompiler
from llmapi_kit.sampling.tokenizer import ModelTokenizer
from llmapi_kit.types import EngineInfo

from .conftest import serving

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
THINKS = (
    "{# <think> </think> #}"
    + TURN
    + "{% if tools %}<tools>{{ tools | tojson }}</tools>{# <tool_call> arguments #}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENS = "{# <think> </think> #}" + TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
HELLO = [{"role": "user", "content": "Hello!"}]
DIGIT = {"type": "json_schema", "json_schema": {"name": "digit", "schema": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


class ScriptedRunner(FakeRunner):
    """Says one text, whatever it was asked."""

    def __init__(self, token_ids, vocab_size):
        super().__init__(num_slots=4, max_length=600, vocab_size=vocab_size)
        self._script = token_ids

    def _logits(self, slot):
        num_made = len(self._tokens[slot]) - self._prompt_length[slot]
        logits = torch.zeros(self.vocab_size)
        logits[self._script[min(num_made, len(self._script) - 1)]] = 9.0
        return logits


@pytest.fixture
def saying(tmp_path):
    """A client of a server whose model has a template and says a text."""
    opened = []

    def make(template, text):
        tokenizer = AutoTokenizer.from_pretrained(POCKET_DIR)
        tokenizer.chat_template = template
        dialect = dialect_of(template)
        codec = ModelTokenizer(tokenizer, markers=dialect.markers)
        ids = codec.encode(text + "<|im_end|>", add_special_tokens=False)
        info = EngineInfo(id="scripted", context_length=600, created=1)
        settings = load_settings(prefix_cache="off")  # the script starts over where a prompt ends
        runner = ScriptedRunner(ids, len(tokenizer))
        grammars = GrammarCompiler(codec, runner.vocab_size, codec.eos_ids)
        engine = LocalEngine(info, runner, codec, dialect=dialect, grammars=grammars, settings=settings)
        manager = serving(tmp_path, engine)
        opened.append(manager)
        client = manager.__enter__().client(max_retries=0)
        opened.append(client)

        def create(**body):
            return client.chat.completions.create(**{"model": "scripted", "messages": HELLO, "temperature": 0, **body})

        return create

    yield make
    for each in reversed(opened):
        each.__exit__(None, None, None)


def streamed(chunks):
    """(reasoning, content, calls as name and arguments, finish reason) of a stream."""
    reasoning, content, calls, reason = "", "", {}, None
    for chunk in chunks:
        delta = chunk.choices[0].delta
        reasoning += (delta.model_extra or {}).get("reasoning_content") or ""
        content += delta.content or ""
        for call in delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = name + (call.function.name or ""), arguments + (call.function.arguments or "")
        reason = chunk.choices[0].finish_reason or reason
    return reasoning, content, calls, reason


@pytest.mark.parametrize(
    ("template", "text"),
    [(THINKS, "<think>\nHm, 2 and 2.\n</think>\n\nIt is 4."), (OPENS, "Hm, 2 and 2.\n</think>\n\nIt is 4.")],
    ids=["the model opens", "the prompt opens"],
)
def test_reasoning_comes_apart_from_the_answer_and_is_counted(saying, template, text):
    create = saying(template, text)
    answer = create()
    message = answer.choices[0].message
    assert (message.model_extra["reasoning_content"], message.content) == ("Hm, 2 and 2.", "It is 4.")
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    assert streamed(create(stream=True)) == ("Hm, 2 and 2.", "It is 4.", {}, "stop")


def test_thinking_can_be_switched_off_where_the_template_has_a_switch(saying):
    create = saying(THINKS, "It is 4.")
    with_thoughts = create().usage.prompt_tokens
    for body in ({"reasoning_effort": "none"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}):
        answer = create(**body)
        assert answer.choices[0].message.content == "It is 4."
        assert answer.usage.prompt_tokens > with_thoughts  # the closed block stands in the prompt
    assert create(reasoning_effort="high").usage.prompt_tokens == with_thoughts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"extra_body": {"chat_template_kwargs": {"colour": "red"}}}, "chat_template_kwargs.colour"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs.messages"),
        ({"tools": [TOOL]}, "tools"),
    ],
)
def test_what_the_template_does_not_read_is_refused_by_name(saying, body, param):
    with pytest.raises(openai.BadRequestError) as caught:
        saying(OPENS, "x")(**body)
    assert caught.value.param == param


def test_a_call_after_reasoning_comes_out_with_all_three_kinds_in_order(saying):
    call = '{"name": "get_weather", "arguments": {"city": "京都"}}'
    text = f"<think>\nAsk.\n</think>\n\nI look.\n<tool_call>\n{call}\n</tool_call>"
    create = saying(THINKS, text)
    answer = create(tools=[TOOL]).choices[0]
    assert (answer.message.model_extra["reasoning_content"], answer.message.content) == ("Ask.", "I look.")
    (call,) = answer.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "京都"}
    expected = ("Ask.", "I look.", {0: ("get_weather", '{"city": "京都"}')}, "tool_calls")
    assert streamed(create(tools=[TOOL], stream=True)) == expected


def test_the_assistants_last_message_can_be_gone_on_with_and_echoed(saying):
    create = saying(TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", " is 4.")
    begun = [*HELLO, {"role": "assistant", "content": "The sum"}]
    plain = create(messages=begun, extra_body={"continue_final_message": True})
    assert plain.choices[0].message.content == " is 4."
    echoed = create(messages=begun, extra_body={"continue_final_message": True, "echo": True})
    assert echoed.choices[0].message.content == "The sum is 4."
    assert echoed.usage == plain.usage
    closed = create(messages=begun, extra_body={"add_generation_prompt": False})
    assert closed.usage.prompt_tokens > plain.usage.prompt_tokens


@pytest.mark.parametrize(
    ("template", "text", "thought"),
    [(THINKS, "<think>Hm.</think>4", "Hm."), (OPENS, "Hm.</think>4", "Hm."), (THINKS, "4", None)],
)
def test_a_schema_holds_the_answer_and_not_the_reasoning_before_it(saying, template, text, thought):
    answer = saying(template, text)(response_format=DIGIT, max_tokens=60).choices[0].message
    assert (answer.content, getattr(answer, "reasoning_content", None)) == ("4", thought)


def test_thinking_is_not_asked_for_by_what_switches_it_off(saying):
    plain = saying("{% for m in messages %}{{ m.content }}{% endfor %}", "It is 4.")
    for extra in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "minimal"}):
        assert plain(extra_body=extra).choices[0].message.content == "It is 4."
