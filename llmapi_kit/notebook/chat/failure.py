"""What went wrong with an answer, in words for the chat: what happened, and what to do."""

from __future__ import annotations

import asyncio

import httpx

from llmapi_kit.errors import (
    AuthenticationError,
    ContextLengthError,
    EngineUnavailableError,
    LlmApiKitError,
    QueueFullError,
    ServerError,
)

KEY = "Pass the right key: kit.chat(url, api_key=…)."
GONE = "It was stopped, or its kernel ended. Launch it again, and press Retry."
BUSY = "It has as much to do as it takes. Press Retry in a moment."
TOO_LARGE = "Begin a new chat with fewer or smaller pictures."
TOO_LONG = "Begin a new chat, edit an earlier question, or ask for fewer tokens."
SLOW = "Press Retry, or ask for less."
ADVICE: tuple[tuple[type[BaseException], str], ...] = (
    (AuthenticationError, KEY),
    (ContextLengthError, TOO_LONG),
    (QueueFullError, BUSY),
    (EngineUnavailableError, "Load the model or launch the server again, and press Retry."),
    (ServerError, GONE),
    (httpx.TimeoutException, SLOW),
    (httpx.HTTPError, GONE),
    (asyncio.TimeoutError, SLOW),
)
STATUS_ADVICE = {401: KEY, 403: KEY, 404: "Choose another model under Settings.", 413: TOO_LARGE, 429: BUSY, 503: BUSY}


def explain(error: BaseException) -> str:
    """What happened, and what to do about it, in a sentence or two."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"The server did not answer in time. {SLOW}"
    if isinstance(error, openai.APIConnectionError):
        return f"The server does not answer. {GONE}"
    if isinstance(error, openai.APIStatusError):
        advice = TOO_LONG if error.code == "context_length_exceeded" else STATUS_ADVICE.get(error.status_code, "")
        return _sentences(f"{_message(error)} (HTTP {error.status_code})", advice)
    if isinstance(error, openai.APIError):
        return _sentences(error.message, "Press Retry.")
    advice = next((text for kind, text in ADVICE if isinstance(error, kind)), "")
    if isinstance(error, LlmApiKitError):
        return _sentences(str(error), "" if isinstance(error, ServerError) and "again" in str(error) else advice)
    return _sentences(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, advice)


def _message(error: BaseException) -> str:
    """What the server says, without the client's own wrapping."""
    body = getattr(error, "body", None)
    told = body.get("message") if isinstance(body, dict) else None
    return str(told or getattr(error, "message", error))


def _sentences(text: str, advice: str) -> str:
    whole = text if text.endswith((".", "!", "?")) else f"{text}."
    return f"{whole} {advice}".strip()
