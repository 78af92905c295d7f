"""The page in examples/javascript, in a real Chromium and from an origin of its own."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading

import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import KEY, Recorder, serving, wait_until
from tests.browser.lab import new_page

from .test_programs import EXAMPLES, ODD

pytestmark = pytest.mark.slow

# What the page asks for, by the button that is clicked
WAYS = {
    "Ask with EventSource": ["/chat-sse/token", "/chat-sse"],
    "Ask with fetch": ["/v1/chat/completions"],
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the page and says nothing."""

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def website():
    """The page's own server; yields its origin."""
    handler = functools.partial(Quiet, directory=EXAMPLES / "javascript")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def open_example(chromium, tmp_path):
    """Opens the page before a server with these engines and settings; gives the page and the server."""
    with contextlib.ExitStack() as stack:

        def make(engine, *, is_allowed=True, **settings):
            origin = stack.enter_context(website())
            if is_allowed:
                settings["cors_origins"] = origin
            server = stack.enter_context(serving(tmp_path, engine, **settings))
            lab = stack.enter_context(new_page(chromium))
            lab.page.goto(origin)
            fill(lab, server)
            lab.urls = []
            lab.page.on("request", lambda request: lab.urls.append(request.url))
            return lab, server

        yield make


def fill(lab, server):
    """Say whom to ask."""
    lab.page.get_by_label("Server").fill(server.url)
    lab.page.get_by_label("API key").fill(KEY)


def ask(lab, way):
    """Ask and wait for the end; returns what the page shows of the answer, and of a problem."""
    lab.page.get_by_role("button", name=way, exact=True).click()
    lab.page.locator("output[aria-busy=false]").wait_for(state="attached")
    return lab.page.locator("output").inner_text(), lab.page.get_by_role("alert").inner_text()


def test_the_page_shows_the_answer_and_asks_once(open_example):
    expected = ODD.replace("\x01", "")
    lab, server = open_example(MockEngine(expected))
    for way in WAYS:
        lab.urls.clear()
        assert ask(lab, way) == (expected, "")
        paths = [url.removeprefix(server.url).partition("?")[0] for url in lab.urls]
        assert paths == WAYS[way]
        assert [url for url in lab.urls if KEY in url] == []
    assert lab.errors == []


def test_a_website_that_is_not_named_gets_nothing(open_example):
    lab, _ = open_example(MockEngine("secret"), is_allowed=False)
    for way in WAYS:
        answer, problem = ask(lab, way)
        assert answer == ""
        assert problem
        assert "CORS policy" in lab.errors[-2], lab.errors


def test_a_wrong_key_is_told_to_the_reader(open_example):
    lab, _ = open_example(MockEngine("secret"))
    lab.page.get_by_label("API key").fill("sk-llmapi-wrong-0123456789")
    for way in WAYS:
        answer, problem = ask(lab, way)
        assert answer == ""
        assert problem.startswith("The API key is wrong.")


def test_a_page_that_is_left_stops_the_model(open_example):
    engine = MockEngine("word", num_tokens=100_000, delay_s=0.01, context_length=200_000)
    lab, server = open_example(engine)
    for num_left, way in enumerate(WAYS, 1):
        lab.page.get_by_role("button", name=way, exact=True).click()
        lab.page.locator("output", has_text="word word").wait_for()
        lab.page.reload()
        wait_until(lambda num_left=num_left: engine.stats().num_cancelled == num_left)
        fill(lab, server)


def test_a_stream_that_is_cut_off_is_not_answered_a_second_time(open_example):
    """Chromium connects again by itself: it is told to stop, and the engine is asked once."""
    engine = Recorder("word", num_tokens=100_000, delay_s=0.01, context_length=200_000)
    lab, server = open_example(engine)
    statuses = []
    lab.page.on("response", lambda response: statuses.append((response.request.method, response.status)))
    script = """async ([url, key]) => {
        const { getToken } = await import("./client.js");
        const token = await getToken(url, key);
        window.source = new EventSource(`${url}/chat-sse?${new URLSearchParams({ prompt: "a", token })}`);
        window.numPieces = 0;
        source.onmessage = () => { window.numPieces += 1; };
    }"""
    lab.page.evaluate(script, [server.url, KEY])
    lab.page.wait_for_function("() => window.numPieces > 3")
    cut_connections(server)
    lab.page.wait_for_function("() => window.source.readyState === EventSource.CLOSED")
    assert ("GET", 204) in statuses
    assert len(engine.requests) == 1


def cut_connections(server):
    """Close what uvicorn has open, as a proxy between would."""

    def cut():
        for connection in list(server._thread._server.server_state.connections):
            connection.transport.abort()

    server._thread.call_soon(cut)
