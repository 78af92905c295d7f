from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmapi_kit.sampling.stop_strings import StopMatcher

pytestmark = pytest.mark.kernel


def feed_all(stops, pieces):
    matcher = StopMatcher(stops)
    shown = []
    for piece in pieces:
        text, is_stopped = matcher.feed(piece)
        shown.append(text)
        if is_stopped:
            return "".join(shown), True
    return "".join(shown) + matcher.flush(), False


def test_stop_string_split_over_pieces_never_shows():
    assert feed_all(["END"], ["abc E", "N", "D more"]) == ("abc ", True)


def test_text_that_only_looked_like_a_stop_comes_out():
    assert feed_all(["END"], ["abc E", "N", "d"]) == ("abc ENd", False)


def test_held_text_comes_out_at_the_end():
    assert feed_all(["END"], ["abc EN"]) == ("abc EN", False)


def test_earliest_of_several_stops_wins():
    assert feed_all(["two", "one"], ["zero one two"]) == ("zero ", True)


def test_the_stop_string_comes_out_where_it_is_included():
    matcher = StopMatcher(["END", "EN"], is_included=True)
    assert [matcher.feed(piece) for piece in ("abc E", "ND more")] == [("abc ", False), ("EN", True)]
    assert StopMatcher(["one", "two"], is_included=True).feed("two one") == ("two", True)


def test_the_stop_string_that_was_met_is_known():
    matcher = StopMatcher(["two", "one"])
    matcher.feed("zero o")
    assert matcher.met == ""
    matcher.feed("ne two")
    assert matcher.met == "one"


def test_without_stops_everything_passes_at_once():
    assert StopMatcher([]).feed("x") == ("x", False)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_any_split_gives_what_a_search_in_the_whole_text_gives(text, stops, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    shown, is_stopped = feed_all(stops, pieces)
    assert is_stopped == bool(found)
    if not found:
        assert shown == text
    elif len(pieces) == 1:
        assert shown == text[: min(found)]
    else:  # in pieces, the stop that is complete first ends the text
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
