"""A client of the session API as older ones are: the key in the body, no header that says JSON."""

from __future__ import annotations

import json

import httpx

from llmapi_kit.engines.mock import MockEngine

from .conftest import KEY


class SessionClient:
    """Posts to /v1/chat/…

    Args:
        server: a live one.
        apikey: sent in every body; None for none.
    """

    def __init__(self, server, apikey=KEY):
        self.http = httpx.Client(base_url=server.url, timeout=30, trust_env=False)
        self._apikey = apikey

    def post(self, call, body, **options):
        body = body if self._apikey is None else {"apikey": self._apikey, **body}
        return self.http.post(f"/v1/chat/{call}", content=json.dumps(body), **options)

    def start(self, bot_type="mock", **settings):
        answer = self.post("start", {"bot_type": bot_type, "settings": settings}).json()
        assert answer["code"] == 0, answer
        return answer["session"]

    def ask(self, session, content, **fields):
        response = self.post("ask", {"session": session, "content": content, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, session, content, **fields):
        """The events of a stream: objects, and [DONE]."""
        response = self.post("ask", {"session": session, "content": content, "stream": True, **fields})
        assert response.headers["content-type"].startswith("text/event-stream"), response.text
        data = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
        return [item if item == "[DONE]" else json.loads(item) for item in data]

    def end(self, session):
        return self.post("end", {"session": session}).json()


class Endless(MockEngine):
    """Talks on while it is asked to; counts as running meanwhile."""

    def __init__(self):
        super().__init__(num_tokens=100_000, delay_s=0.005)
        self.is_brief = False

    async def generate(self, request):
        engine = MockEngine("brief") if self.is_brief else super()
        async for event in engine.generate(request):
            yield event
