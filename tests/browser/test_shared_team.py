"""A server that is shared with a team, end to end: an ssh tunnel, a key for each, Chromium pages and the openai SDK."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from functools import partial

import httpx
import openai
import pytest

from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.tunnels import watcher
from llmapi_kit.tunnels.backoff import Backoff
from llmapi_kit.types import Accepted, Delta, Finished
from tests.api.conftest import KEY, serving, wait_until
from tests.tunnels.ssh_host import SshHost, make_keys

from .chat_page import ChatPage
from .chromium import new_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DEADLINE_S = 60.0
ON_PAGES = ("page-1", "page-2", "invited")
WITH_SDK = tuple(f"sdk-{number}" for number in range(1, 6))


class EndlessEngine(MockEngine):
    """Says word0, word1, … until it is told to end."""

    def __init__(self):
        super().__init__()
        self.ends = threading.Event()

    async def generate(self, request):
        yield Accepted(1)
        num_words = 0
        while not self.ends.is_set():
            yield Delta(f"word{num_words} ")
            num_words += 1
            await asyncio.sleep(0.05)
        yield Finished("stop", 1, num_words)


class SdkStream:
    """An answer that streams to the openai library, on a thread of its own.

    Attributes:
        words: that came so far.
        error: what ended it; None while it streams, and for an answer that is whole.
    """

    def __init__(self, url, api_key):
        self.words = []
        self.error = None
        self._thread = threading.Thread(target=self._read, args=(url, api_key))
        self._thread.start()
        wait_until(lambda: self.words or self.is_over, DEADLINE_S)

    @property
    def is_over(self):
        return not self._thread.is_alive()

    def wait_for_the_end(self):
        self._thread.join(DEADLINE_S)
        assert self.is_over

    def wait_for_more(self):
        """Until another word comes, which shows that it goes on."""
        before = len(self.words)
        wait_until(lambda: len(self.words) > before or self.is_over, DEADLINE_S)
        assert len(self.words) > before, self.error

    def _read(self, url, api_key):
        with (
            httpx.Client(trust_env=False) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, http_client=http) as client,
        ):
            question = [{"role": "user", "content": "Go on!"}]
            try:
                for chunk in client.chat.completions.create(model="mock", messages=question, stream=True):
                    self.words += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            except (openai.OpenAIError, httpx.HTTPError) as exc:
                self.error = exc


@pytest.fixture
def engine():
    made = EndlessEngine()
    yield made
    made.ends.set()


@pytest.fixture
def ssh_host(tmp_path):
    with SshHost(make_keys(tmp_path / "ssh"), tmp_path) as host:
        yield host


@pytest.fixture
def server(engine, ssh_host, tmp_path, monkeypatch):
    """A server with a tunnel whose URL stays the same."""
    monkeypatch.setattr(watcher, "Backoff", partial(Backoff, first_s=0.05))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))  # no ssh configuration but the test's
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
    with serving(tmp_path / "home", engine) as made:
        # The second address of loopback is none of the names that a server is local by
        made.open_tunnel(
            "ssh",
            host=f"127.0.0.2:{ssh_host.port}",
            identity_file=ssh_host.keys.identity,
            host_key=ssh_host.keys.host_key,
            remote_port=port,
        )
        yield made


@pytest.fixture
def pages(server, chromium):
    """A tab for each of those who come with a browser, all signed in through the tunnel, one by an invitation."""
    url = server.public_url
    with contextlib.ExitStack() as profiles:
        pages = {name: ChatPage(profiles.enter_context(new_profile(chromium)), url) for name in ON_PAGES}
        for name in ON_PAGES[:-1]:
            pages[name].sign_in(server.keys.create(name).api_key)
        link = server.invite("invited").url
        assert link.startswith(f"{url}/#")
        pages["invited"].goto(link.removeprefix(f"{url}/"))
        pages["invited"].button("Open the chat").click()
        pages["invited"].question.wait_for()
        yield pages


def wait_for_word(page, number):
    """Until the first word of a page's answer is there, of which it has so many before."""
    page.answers.nth(number).get_by_text("word0 ").wait_for()


def wait_for_more_words(page, number):
    def num_words():
        return len(page.answers.nth(number).inner_text().split())

    before = num_words()
    wait_until(lambda: num_words() > before, DEADLINE_S)


def names_on(server):
    return sorted(request.key for request in server.requests() if request.state == "running")


def test_eight_keys_stream_through_a_tunnel_that_is_cut_and_a_revoked_one_ends_alone(engine, server, ssh_host, pages):
    url = server.public_url
    keys = {name: server.keys.create(name).api_key for name in WITH_SDK}
    everybody = sorted(["owner", *ON_PAGES, *WITH_SDK])

    local = SdkStream(server.url, KEY)
    streams = {name: SdkStream(url, key) for name, key in keys.items()}
    for page in pages.values():
        page.ask("Go on!")
    for page in pages.values():
        wait_for_word(page, 0)
    wait_until(lambda: names_on(server) == everybody, DEADLINE_S)

    ssh_host.cut()
    for stream in streams.values():
        stream.wait_for_the_end()
        assert stream.words
        assert stream.error is not None, "half an answer was taken for a whole one"
    for page in pages.values():
        page.wait_for_answers(1)
    local.wait_for_more()
    wait_until(lambda: ssh_host.num_logins == 2 and server.public_url == url, DEADLINE_S)

    streams = {name: SdkStream(url, key) for name, key in keys.items()}
    for page in pages.values():
        page.ask("Go on again!")
    for page in pages.values():
        wait_for_word(page, 1)
    wait_until(lambda: names_on(server) == everybody, DEADLINE_S)

    server.keys.revoke("sdk-1")
    server.keys.revoke("page-1")
    revoked = streams.pop("sdk-1")
    revoked.wait_for_the_end()
    assert "was revoked" in str(revoked.error)
    page = pages.pop("page-1")
    page.locator(".message.assistant", has_text="was revoked").wait_for()
    for stream in (local, *streams.values()):
        stream.wait_for_more()
    for page in pages.values():
        wait_for_more_words(page, 1)
    assert names_on(server) == sorted({*everybody} - {"sdk-1", "page-1"})

    engine.ends.set()
    for stream in (local, *streams.values()):
        stream.wait_for_the_end()
        assert stream.error is None
    for page in pages.values():
        page.wait_for_answers(2)
    assert local.words == [f"word{number} " for number in range(len(local.words))]
