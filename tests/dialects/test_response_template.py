from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from llmapi_kit.checkpoints.spec import POCKET_DIR
from llmapi_kit.dialects import dialect_of
from llmapi_kit.errors import UnsupportedFieldError
from tests.dialects.replies import TOOLS, Reply, joined

TEMPLATE = {
    "start_anchor": "<|turn>model\n",
    "fields": {
        "reasoning_content": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "optional": False,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<turn|>"], "content": "text"},
    },
}
TOKENS = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<turn|>", "<|image>")
CALL = '<|tool_call>call:get_time{"city": "京都"}<tool_call|>'
CALLED = (("get_time", '{"city": "京都"}'),)


@pytest.fixture
def dialect():
    return dialect_of("{{ messages }}", TEMPLATE, TOKENS)


def read(dialect, text, *, inside=False, parses_calls=True):
    replies = []
    for pieces in ([text], list(text)):
        parser = dialect.parser(tools=TOOLS, parses_calls=parses_calls, starts_in_reasoning=inside)
        replies.append(joined([*map(parser.feed, pieces), parser.flush()]))
    assert replies[0] == replies[1]
    return replies[0]


def test_an_unknown_model_is_read_as_its_tokenizer_says(dialect):
    assert dialect.has_calls is True
    assert set(dialect.markers) == set(TOKENS) - {"<|image>"}
    assert dialect.starts_in_reasoning("<|turn>model\n<|channel>thought\n")
    text = f"<|channel>thought\nHm.\n<channel|>\nLet me look.\n{CALL}\n{CALL}"
    assert read(dialect, text) == Reply("Let me look.", "Hm.", CALLED * 2)


def test_reasoning_that_the_prompt_opened(dialect):
    assert read(dialect, "Hm.<channel|>Yes.", inside=True) == Reply("Yes.", "Hm.")


def test_text_streams_as_it_comes(dialect):
    parser = dialect.parser(tools=TOOLS, parses_calls=True, starts_in_reasoning=False)
    assert parser.feed("Well, ").text == "Well,"
    assert parser.feed("yes").text == " yes"


def test_a_broken_call_is_text_and_reading_goes_on(dialect):
    broken = "<|tool_call>call:get_time{oops<tool_call|>"
    assert read(dialect, f"So: {broken} and {CALL}") == Reply(f"So: {broken} and", "", CALLED)


def test_an_unfinished_call_is_text(dialect):
    assert read(dialect, 'So: <|tool_call>call:get_time{"ci') == Reply('So: <|tool_call>call:get_time{"ci')


def test_calls_that_nobody_asked_for_are_text(dialect):
    assert read(dialect, CALL, parses_calls=False) == Reply(CALL)


def test_calls_can_not_be_forced_that_way(dialect):
    with pytest.raises(UnsupportedFieldError):
        dialect.call_constraint(TOOLS, forced=None, parallel=False, added_tokens={})


def test_a_family_that_is_known_does_without():
    template = (POCKET_DIR / "chat_template.jinja").read_text(encoding="utf-8")
    assert dialect_of(template, TEMPLATE, TOKENS).shipped is None


@pytest.mark.parametrize("template", [{"fields": {}}, {"version": 7}, {"fields": {"content": {"content": "?"}}}])
def test_a_template_that_transformers_refuses_is_left_alone(template, caplog):
    assert dialect_of("{{ messages }}", template).name == "plain"
    assert "can't be used" in caplog.text


def test_transformers_keeps_a_tokenizers_template_where_this_looks_for_it(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(POCKET_DIR)
    tokenizer.response_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert dialect_of(None, getattr(again, "response_template", None), TOKENS).name == "shipped"
