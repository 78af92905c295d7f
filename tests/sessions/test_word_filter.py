"""The word filter: what it finds, and that nothing gets out in pieces."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.errors import ConfigError
from llmapi_kit.sessions.steps import Refusal
from llmapi_kit.sessions.word_filter import WordFilter

from .conftest import filtered

pytestmark = pytest.mark.kernel


def is_refused(words, text):
    try:
        assert asyncio.run(WordFilter(words).rewrite(text)) == text
    except Refusal:
        return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        "a Bomb!", "BOMB", "bomb", "the\nbomb", "\uff42\uff4f\uff4d\uff42",
        "b\u200bo\u00admb", "x-bomb-y", "中bomb文", "bomb1? bomb.",
    ],
)  # fmt: skip
def test_a_word_is_found_however_it_is_written(text):
    assert is_refused(["bomb"], text)


@pytest.mark.parametrize("text", ["bombs", "abomb", "bomb1", "bo mb", "b.o.m.b", "", "bom"])
def test_a_word_within_another_is_none(text):
    assert not is_refused(["bomb"], text)


def test_a_word_of_a_script_without_spaces_is_found_anywhere():
    assert is_refused(["敏感"], "这是敏感词语")
    assert not is_refused(["敏感"], "这是敏锐感觉")


def test_words_of_several_parts_match_across_any_white_space():
    assert is_refused(["red  button"], "the RED\n\t button")
    assert not is_refused(["red button"], "the redbutton")


def test_an_accent_may_come_as_a_character_of_its_own():
    for text in ("une épée", "une e\u0301pe\u0301e"):
        assert is_refused(["épée"], text)
    assert not is_refused(["epee"], "une épée")
    assert not is_refused(["cafe"], "un cafe\u0301")


def test_the_longer_of_two_words_counts_too():
    assert is_refused(["ab cd", "ab"], "ab!")
    assert is_refused(["abc def"], "abc abc def")
    assert is_refused(["aab"], "x aab")


def test_words_come_from_a_file_too(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("\ufeff# not these\n\nbomb\r\n敏感\n", "utf-8")
    words = WordFilter(["gun"], file=str(file))
    for text in ("bomb", "敏感", "gun"):
        with pytest.raises(Refusal) as caught:
            asyncio.run(words.rewrite(text))
        assert caught.value.notice == words.notice
    assert asyncio.run(words.rewrite("not these")) == "not these"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "needs words"),
        ({"words": [" "]}, "needs words"),
        ({"words": "bomb"}, "list of texts"),
        ({"words": ["x" * 201]}, "201 characters"),
        ({"words": ["x"], "notice": ""}, "notice"),
        ({"file": "/no/such/file"}, "can't be read"),
    ],
)
def test_a_filter_that_can_not_be_says_why(arguments, why):
    with pytest.raises(ConfigError, match=why):
        WordFilter(**arguments)


def test_a_clean_reply_is_hardly_held_back():
    pieces = ["Good", " morn", "ing, ", "every", "one"]
    assert asyncio.run(filtered(WordFilter(["bomb", "morning star"]), pieces)) == [
        "Good", " ", "morning, ", "every", "one", "",
    ]  # fmt: skip


WORDS = ["ab", "aab", "b c", "敏感", "épé"]


@given(st.lists(st.text("abcxy é\u0301p敏感\u200b\nA", max_size=4), max_size=12))
def test_pieces_are_judged_as_the_whole_and_nothing_forbidden_gets_out(pieces):
    step = WordFilter(WORDS, notice="no")
    whole = "".join(pieces)
    out = []

    async def run():
        reply = step.reply_filter()
        for piece in pieces:
            out.append(await reply.feed(piece))  # noqa: PERF401 - what came before a refusal counts
        out.append(await reply.end())

    if is_refused(WORDS, whole):
        with pytest.raises(Refusal):
            asyncio.run(run())
        assert whole.startswith("".join(out))
        # also if the client takes what it got for a text of its own
        assert not is_refused(WORDS, "".join(out))
    else:
        asyncio.run(run())
        assert "".join(out) == whole


def test_a_long_text_takes_time_in_proportion():
    words = WordFilter([f"word{i}x" for i in range(20_000)] + ["a" * 199])
    text = "a" * 5_000 + "word" * 20_000
    assert asyncio.run(words.rewrite(text)) == text
