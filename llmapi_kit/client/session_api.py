"""The session API's three calls over HTTP, and its codes as errors. Blocking."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import httpx

from llmapi_kit.client.remote import RemoteServer
from llmapi_kit.errors import (
    AuthenticationError,
    BotTypeError,
    InvalidRequestError,
    LlmApiKitError,
    RequestTimeoutError,
    ServerNotFoundError,
    SessionGoneError,
)

# Beyond what the server was given: for the way there and back
GRACE_S = 15.0
ERRORS: Mapping[int, type[LlmApiKitError]] = {
    -3: InvalidRequestError,
    -4: SessionGoneError,
    -5: BotTypeError,
    -6: RequestTimeoutError,
}


class SessionApi:
    """The calls. Each raises for a code that is not 0, but `post`.

    Args:
        remote: the server.
    """

    def __init__(self, remote: RemoteServer) -> None:
        self._url = remote.url
        self._http = remote.http_client()

    def start(self, bot_type: str, settings: Mapping[str, Any]) -> str:
        """Start a session; returns its id."""
        body: dict[str, Any] = {"bot_type": bot_type}
        if settings:
            body["settings"] = dict(settings)
        return str(_successful(self.post("start", body))["session"])

    def ask(self, session: str, content: str, timeout_s: float) -> str:
        """The reply to what is said."""
        body = {"session": session, "content": content, "timeout": timeout_s}
        return str(_successful(self.post("ask", body, timeout_s))["reply"])

    def end(self, session: str) -> None:
        """End a session."""
        _successful(self.post("end", {"session": session}))

    def post(self, call: str, body: Mapping[str, Any], timeout_s: float = 0.0) -> dict[str, Any]:
        """What a call is answered with, whatever its code.

        Raises:
            ServerNotFoundError: nothing answers.
            LlmApiKitError: something answers, but not as this API does.
        """
        try:
            return _body_of(self._http.post(f"/v1/chat/{call}", json=body, timeout=timeout_s + GRACE_S))
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def stream(self, session: str, content: str, timeout_s: float) -> Generator[str, None, None]:
        """Pieces of the reply as they come. One that was withdrawn ends with the notice on a line of its own."""
        body = {"session": session, "content": content, "timeout": timeout_s, "stream": True}
        shown = ""
        try:
            with self._http.stream("POST", "/v1/chat/ask", json=body, timeout=timeout_s + GRACE_S) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    response.read()
                    _successful(_body_of(response))
                for event in map(_successful, _events(response)):
                    if "reply" in event:
                        if event["reply"] != shown:
                            yield f"\n{event['reply']}" if shown else str(event["reply"])
                        return
                    shown += event["delta"]
                    yield event["delta"]
        except (httpx.HTTPError, ValueError) as exc:
            raise self._unreachable(exc) from exc
        raise self._unreachable("the stream ended early")

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()

    def _unreachable(self, why: Exception | str) -> ServerNotFoundError:
        return ServerNotFoundError(f"No whole answer came from {self._url}: {str(why) or type(why).__name__}.")


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's events. By bytes, as characters in them may count as ends of lines elsewhere."""
    rest = b""
    for chunk in response.iter_bytes():
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: {"):
                yield json.loads(frame.removeprefix(b"data: "))


def _body_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("code"), int):
        raise LlmApiKitError(
            f"{response.url} answered with HTTP {response.status_code} and not as the session API does. Its server has "
            "it on where the setting compat has 'sessions'."
        )
    return body


def _successful(body: dict[str, Any]) -> dict[str, Any]:
    """The same, if it succeeded.

    Raises:
        LlmApiKitError: it did not.
    """
    code, message = body["code"], str(body.get("msg"))
    if "error" in body:  # only where the key is missing or wrong
        raise AuthenticationError(message)
    if code != 0:
        raise ERRORS.get(code, LlmApiKitError)(message)
    return body
