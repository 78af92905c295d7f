"""The official OpenAI clients, which say what is wrong where a server of this kit is not there any more.

They differ from the library's own in their errors only: those are shown in short in a notebook, and a server that does
not answer is a `ServerGoneError`, which is an `openai.APIConnectionError`, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import openai

from llmapi_kit.errors import ServerNotFoundError
from llmapi_kit.short_traceback import render


class ServerGoneError(ServerNotFoundError, openai.APIConnectionError):
    """The server that a client was made for does not answer."""

    def __init__(self, error: openai.APIConnectionError, base_url: str) -> None:
        message = (
            f"No server answers at {base_url.rstrip('/')}: it was stopped, or its kernel has ended. Launch it again "
            "with kit.launch(…), and make the client again where the address is another one then."
        )
        openai.APIConnectionError.__init__(self, message=message, request=error.request)


class OpenAIClient(openai.OpenAI):
    """`openai.OpenAI` for a server of this kit."""

    def request(self, *args: Any, **options: Any) -> Any:
        """See `openai.OpenAI`.

        Raises:
            ServerGoneError: the server does not answer.
            openai.APIError: whatever else the library raises.
        """
        try:
            return super().request(*args, **options)
        except openai.APIError as exc:
            raise _explained(exc, str(self.base_url)) from exc.__cause__


class AsyncOpenAIClient(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` for a server of this kit."""

    async def request(self, *args: Any, **options: Any) -> Any:
        """See `OpenAIClient.request`."""
        try:
            return await super().request(*args, **options)
        except openai.APIError as exc:
            raise _explained(exc, str(self.base_url)) from exc.__cause__


def _explained(error: openai.APIError, base_url: str) -> openai.APIError:
    """The error to raise: one that knows the server, or the same, to be shown in short."""
    is_known = isinstance(error, openai.APITimeoutError | ServerGoneError)
    if isinstance(error, openai.APIConnectionError) and not is_known:
        return ServerGoneError(error, base_url)
    if not hasattr(error, "_render_traceback_"):
        error._render_traceback_ = partial(render, error)  # type: ignore[attr-defined]
    return error
