"""Steps of third parties, and several of them in a row."""

from __future__ import annotations

import asyncio

import pytest

from llmapi_kit.errors import ConfigError
from llmapi_kit.sessions.steps import Refusal, ReplyFilters, make_step

pytestmark = pytest.mark.kernel


class Doubling:
    """Gives each piece once the next one comes, twice."""

    def __init__(self, mark="+"):
        self._mark = mark

    def reply_filter(self):
        return _Doubled(self._mark)


class _Doubled:
    def __init__(self, mark):
        self._held, self._mark = "", mark

    async def feed(self, piece):
        given, self._held = self._held * 2, piece + self._mark
        return given

    async def end(self):
        return await self.feed("")


class Withdrawing:
    def reply_filter(self):
        return self

    async def feed(self, piece):
        raise Refusal("not this")

    async def end(self):
        return ""


def test_a_step_is_named_by_an_import_string_with_or_without_arguments():
    assert isinstance(make_step("tests.sessions.test_steps:Doubling", "here"), Doubling)
    step = make_step({"step": "tests.sessions.test_steps:Doubling", "mark": "-"}, "here")
    assert step._mark == "-"


@pytest.mark.parametrize("spec", [None, 5, "os", "os:", "a b:c", {"mark": "-"}, {"step": ["x"]}])
def test_what_names_no_step_is_refused(spec):
    with pytest.raises(ConfigError, match=r"^here is .*a step is one of words, redact or 'package\.module:name'"):
        make_step(spec, "here")


def test_filters_pass_on_what_they_hold_back_also_at_the_end():
    async def run():
        filters = ReplyFilters([Doubling("a"), Doubling("b")])
        return [await filters.feed("x"), await filters.feed("y"), await filters.end()]

    assert asyncio.run(run()) == ["", "", "xaxab" * 2 + "yayab" * 2]


def test_a_later_filter_sees_nothing_of_what_an_earlier_one_withdraws():
    async def run():
        filters = ReplyFilters([Withdrawing(), Doubling()])
        with pytest.raises(Refusal):
            await filters.feed("x")
        return await filters.end()

    assert asyncio.run(run()) == ""
