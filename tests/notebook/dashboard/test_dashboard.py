"""The dashboard's figures and its manners; how it moves in a page is tests/browser/test_card.py's business."""

from __future__ import annotations

import json

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.errors import ConfigError
from llmapi_kit.notebook.dashboard.dashboard import Dashboard
from llmapi_kit.notebook.dashboard.figures import dashboard_html, log_text, usage_text
from llmapi_kit.notebook.dashboard.samples import NUM_KEPT, Sampler


@pytest.fixture
def server():
    yield kit.launch(MockEngine(reply="one two three", name="<m>"), port=0)
    kit.stop_all()


def ask(server):
    with server.client() as client:
        client.completions.create(model="<m>", prompt="a b")


def test_samples_tell_the_speed_since_the_one_before_and_the_first_tokens_that_are_new(server):
    now = [100.0]
    sampler = Sampler(clock=lambda: now[0])
    assert sampler.take(server).tokens_per_s == 0
    ask(server)
    now[0] += 2
    sample = sampler.take(server)
    assert sample.tokens_per_s == 1.5
    assert sample.first_token_s is not None
    assert sample.process_bytes > 1_000_000
    now[0] += 1
    assert sampler.take(server).first_token_s is None
    server.stop()
    now[0] += 1
    assert sampler.take(server).tokens_per_s == 0


def test_only_the_latest_samples_are_kept(server):
    sampler = Sampler()
    for _ in range(NUM_KEPT + 5):
        sampler.take(server)
    assert len(sampler.samples) == NUM_KEPT


def test_html_has_figures_curves_and_the_time_and_is_escaped(server):
    sampler = Sampler(clock=iter([86400.0, 86401.0]).__next__)
    sampler.take(server)
    ask(server)
    sampler.take(server)
    html = dashboard_html(list(sampler.samples), server.requests(), ["<log>"], name="<m>", place="here")
    assert "As of 1970-01-0" in html
    assert "1 requests answered" in html
    assert "<polyline" in html
    assert "<m>" not in html
    assert "<log>" not in html
    assert "GPU" not in html, "this process uses none"


def test_usage_of_today_is_summed_over_models():
    rows = [{"requests": 1, "prompt_tokens": 1000, "completion_tokens": 2}] * 2
    assert usage_text(rows) == "This key today (UTC): 2 requests, 2,000 prompt tokens, 4 tokens made"


def test_log_lines_are_short_and_printable():
    line = {"time": "2026-11-28T09:31:02", "level": "INFO", "message": "POST /v1/completions 200", "model": "m",
            "prompt_tokens": 3, "completion_tokens": 40, "seconds": 0.25}  # fmt: skip
    assert log_text(json.dumps(line)) == "09:31:02 POST /v1/completions 200 · m 3+40 tokens · 250 ms"
    bad = {"time": "2026-11-28T09:31:02", "level": "ERROR", "message": "a\x1b[31m\nb", "error": "OSError: x"}
    assert log_text(json.dumps(bad)) == "09:31:02 ERROR a [31m b · OSError: x"


def test_what_is_no_server_of_this_process_is_refused(server):
    with pytest.raises(ConfigError, match="a server of this process"):
        kit.dashboard(kit.connect(server.url))


def test_a_program_gets_text_and_no_thread(server):
    board = kit.dashboard(server)
    assert not board.is_alive()
    assert "0 requests answered" in repr(board)
    board.close()


class FakeView:
    """What is sent to pages."""

    is_heard = is_visible = True

    def __init__(self):
        from threading import Event

        self.visibility_changed, self.sent = Event(), []

    def send(self, message):
        self.sent.append(message)

    def send_state(self):
        self.sent.append({"kind": "state"})


def test_pages_get_samples_while_they_look_and_everything_when_they_look_again(server):
    board, view = Dashboard(server), FakeView()
    board._look(server, view)
    ask(server)
    board._look(server, view)
    assert [message["kind"] for message in view.sent] == ["sample", "sample"]
    assert "POST /v1/completions 200" in view.sent[1]["log"][-1]
    assert view.sent[1]["usage"].startswith("This key today (UTC): ")
    json.dumps(view.sent)
    view.sent.clear()
    view.is_visible = False
    board._look(server, view)
    assert view.sent == []
    view.is_visible = True
    view.visibility_changed.set()
    board._look(server, view)
    assert view.sent == [{"kind": "state"}]


def test_a_request_that_is_over_can_not_be_cancelled(server):
    with pytest.raises(kit.LlmApiKitError, match="has ended already"):
        Dashboard(server)._cancel({"id": "cmpl-x"})
