from __future__ import annotations

import pytest

from llmapi_kit.errors import ConfigError
from llmapi_kit.notebook.chat.conversation import Conversation, ToolCall

pytestmark = pytest.mark.kernel


@pytest.fixture
def conversation():
    return Conversation()


def say(conversation, *texts):
    for number, text in enumerate(texts):
        conversation.add(conversation.last(), ("user", "assistant")[number % 2], text)


def texts(conversation):
    return [message.content for message in conversation.path()]


def test_another_answer_is_a_branch_and_the_first_is_not_lost(conversation):
    say(conversation, "q", "a1", "next")
    question, answer, _ = conversation.path()
    conversation.add(question, "assistant", "a2")
    assert texts(conversation) == ["q", "a2"]
    conversation.show(answer)
    assert texts(conversation) == ["q", "a1", "next"]
    assert [each.content for each in answer.siblings()] == ["a1", "a2"]


def test_beginning_anew_keeps_the_old_conversation_as_a_branch(conversation):
    say(conversation, "first", "answer")
    old = conversation.path()[0]
    conversation.begin_anew()
    assert texts(conversation) == []
    say(conversation, "second")
    assert [each.content for each in conversation.path()[0].siblings()] == ["first", "second"]
    conversation.show(old)
    assert texts(conversation) == ["first", "answer"]


def test_model_is_told_one_branch_only_with_the_system_prompt_first(conversation):
    say(conversation, "q1", "a1")
    first = conversation.last()
    conversation.add(first.parent, "assistant", "a2")
    told = conversation.to_openai(first, "Be brief.")
    assert [(each["role"], each["content"]) for each in told] == [
        ("system", "Be brief."),
        ("user", "q1"),
        ("assistant", "a1"),
    ]


def test_an_answer_without_a_word_is_not_told(conversation):
    say(conversation, "q1", "", "q2")
    assert [each["role"] for each in conversation.to_openai(conversation.last())] == ["user", "user"]


def test_calls_are_told_with_their_results(conversation):
    say(conversation, "q", "")
    conversation.last().tool_calls.append(ToolCall("c1", "add", '{"a": 1}', "done", "2"))
    _, answer, result = conversation.to_openai(conversation.last())
    assert answer["content"] is None
    assert answer["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "2"}


def test_unknown_message_is_refused_by_its_id(conversation):
    with pytest.raises(ConfigError, match="no message 'x1'"):
        conversation.get("x1")
