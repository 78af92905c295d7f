"""The redactor: a reply in pieces is redacted as if it came whole."""

from __future__ import annotations

import asyncio

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmapi_kit.errors import ConfigError, GenerationError
from llmapi_kit.sessions.redactor import Redactor

from .conftest import filtered

pytestmark = pytest.mark.kernel

PATTERNS = [
    r"foo", r"foo\B", r"\bfoo\b", r"(?<=k: )\w+", r"(?<!a)b+", r"abcd|ab", r"ab|abcd", r"\d{2,4}", r"(?i)ab+a", r"^x",
    r"(?m)^x", r"x\Z", r"a.*b", r"a.*b|c", r"(?s)<k>.*?</k>", r"a(?!b)", r"a(?=b)", r"a(?=.*b)", r"(a)(b)?c",
    r"(?=foo)", r"\d{3}-\d{4}", r"(?:ab)+c?", r"(?:a|b.*c)+d", r"x.*?y|x", r"[ab]+c[12]*d", r"(a|b)*\1c",
]  # fmt: skip


LIKELY = ["foo", "k: ", "abab", "<k>", "</k>", "12", "123-4567", "aba", "xy", " "]
PIECE = st.one_of(st.text("abcdxfok <>/:-\n12y", max_size=5), st.sampled_from(LIKELY))


@pytest.mark.slow
@settings(max_examples=400)
@example(r"(?=foo)", ["a foo b f", "oo", " c"], "#")
@given(
    st.sampled_from(PATTERNS),
    st.lists(PIECE, max_size=9),
    st.sampled_from(["#", r"<\g<0>>"]),
)
def test_pieces_are_redacted_as_the_whole(pattern, pieces, replacement):
    out = asyncio.run(filtered(Redactor({pattern: replacement}), pieces))
    assert "".join(out) == regex.sub(pattern, replacement, "".join(pieces))


@given(st.lists(st.text("abc12", max_size=4), max_size=8))
def test_several_patterns_apply_one_after_the_other(pieces):
    out = asyncio.run(filtered(Redactor({"ab": "1", "12": "c", "cc": "-"}), pieces))
    assert "".join(out) == "".join(pieces).replace("ab", "1").replace("12", "c").replace("cc", "-")


def test_a_secret_never_gets_out_in_pieces():
    text = "my key is sk-abcdefgh123 ok"
    for size in range(1, 8):
        out = asyncio.run(filtered(Redactor([r"sk-\w{6,}"]), [text[i : i + size] for i in range(0, len(text), size)]))
        assert "".join(out) == "my key is [redacted] ok"


def test_a_prompt_is_redacted_whole():
    redactor = Redactor({r"(\d{4})-\d{4}": r"\1-****"})
    assert asyncio.run(redactor.rewrite("card 1234-5678, 1234-5678")) == "card 1234-****, 1234-****"


def test_a_clean_reply_lags_by_no_more_than_a_word():
    pieces = ["The ", "sky", " is", " blue", ". Yes"]
    out = asyncio.run(filtered(Redactor([r"sk-\w{6,}"]), pieces))
    assert out == ["The ", "", "sky ", "is ", "blue. ", "Yes"]


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ([], "patterns is a list"),
        ("x", "patterns is a list"),
        (["("], "can't be used"),
        ([5], "can't be used"),
        ({"x": r"\1"}, "can't be used"),
        ({"x": 5}, "can't be used"),
        ({"(?i)x": r"\g<name>"}, "can't be used"),
        (["x*"], "matches an empty text"),
    ],
)
def test_patterns_that_can_not_be_say_why(patterns, why):
    with pytest.raises(ConfigError, match=why):
        Redactor(patterns)


@pytest.mark.slow
def test_a_pattern_that_takes_forever_ends_the_reply_and_lets_nothing_through():
    redactor = Redactor([r"(a|aa)+$b"])
    with pytest.raises(GenerationError, match="took too long"):
        asyncio.run(redactor.rewrite("a" * 60))
    with pytest.raises(GenerationError, match="took too long"):
        asyncio.run(filtered(redactor, ["a" * 30, "a" * 30]))
