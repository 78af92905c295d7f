"""Time limits against a live server: a model that hangs, and a client that stops reading, hold nobody."""

import time

import pytest

from llmapi_kit.engines.mock import MockEngine

pytestmark = pytest.mark.kernel

SHORT = 0.3
LIMITS = {
    "accepted": ("queue_timeout_s", "was not accepted by the model within 0.3 s"),
    "first token": ("first_token_timeout_s", "got no first token within 0.3 s"),
    "end": ("total_timeout_s", "was not complete within 0.3 s"),
}


@pytest.mark.parametrize("place", LIMITS)
def test_an_answer_from_a_hanging_model_ends_in_504(live_server, client_of, gated_engine, place):
    setting, message = LIMITS[place]
    engine = gated_engine(before=place)
    response = client_of(live_server(engine, **{setting: SHORT})).ask()
    assert response.status_code == 504
    assert message in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "timeout"
    assert engine.stats().num_running == 0
    assert engine.stats().num_cancelled == 1


@pytest.mark.parametrize("place", ["first token", "end"])
def test_a_stream_from_a_hanging_model_ends_in_an_error_event(live_server, client_of, gated_engine, events_of, place):
    setting, message = LIMITS[place]
    engine = gated_engine(before=place)
    with client_of(live_server(engine, **{setting: SHORT})).stream() as response:
        *_, last = events_of(response)
    assert message in last["error"]["message"]
    assert engine.stats().num_cancelled == 1


def test_a_stream_slower_than_one_limit_of_a_phase_goes_on(live_server, client_of, events_of):
    """The limit of the first token is not one for those that follow."""
    server = live_server(MockEngine("one two three four five six", delay_s=0.1), first_token_timeout_s=SHORT)
    with client_of(server).stream() as response:
        assert events_of(response)[-1] == "[DONE]"


@pytest.mark.slow
def test_a_client_that_stops_reading_is_dropped(live_server, client_of, stalled_reader, has_stalled, wait_until):
    engine = MockEngine("x" * 20_000, num_tokens=2000)
    server = live_server(engine, stalled_reader_s=0.5)
    with stalled_reader(server, client_of(server).body("x", stream=True)):
        wait_until(lambda: has_stalled(engine))
        wait_until(lambda: engine.stats().num_running == 0)
    assert engine.stats().num_cancelled == 1
    assert client_of(server).ask("still here").status_code == 200


def test_a_quiet_stream_is_kept_alive_by_comments(live_server, client_of, gated_engine):
    engine = gated_engine(before="first token")
    server = live_server(engine, keep_alive_s=0.1)
    with client_of(server).stream() as response:
        started, num_comments = time.monotonic(), 0
        for line in response.iter_lines():
            num_comments += line.startswith(":")
            if num_comments == 3:
                engine.open()
    assert num_comments >= 3
    assert time.monotonic() - started < 15
