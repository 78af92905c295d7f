"""A server behind an OpenAI-compatible API, asked over HTTP: one of the kit's, or anybody's.

Each answer has a client of its own, on the loop of the thread that streams it. The key is sent to that server only, and
is in no repr and no message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import httpx

from llmapi_kit.errors import ConfigError, LlmApiKitError
from llmapi_kit.notebook.chat.backend import ChatRequest, ModelChoice, can_see
from llmapi_kit.notebook.chat.failure import explain
from llmapi_kit.types import Delta, Finished, ToolCallDelta

if TYPE_CHECKING:
    import openai

    from llmapi_kit.client import RemoteServer

MODELS_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 10.0
# A long prompt on a slow machine may take minutes to its first token; Stop ends the wait.
SILENCE_TIMEOUT_S = 600.0


class HttpBackend:
    """See `llmapi_kit.notebook.chat.backend.Backend`.

    Args:
        remote: finds the server; asked anew for each answer, so that a server launched again is found again.
        base_url: of an API that is not at ``/v1``; None for the server's own.
    """

    def __init__(self, remote: Callable[[], RemoteServer], base_url: str | None = None) -> None:
        self._remote = remote
        self._base_url = base_url

    @property
    def url(self) -> str:
        """See `Backend.url`."""
        return self._base_url or self._remote().base_url

    def models(self) -> list[ModelChoice]:
        """See `Backend.models`."""
        try:
            with self._remote().client(**self._options(MODELS_TIMEOUT_S)) as client:
                return [ModelChoice(model.id, _sees(model)) for model in client.models.list() if _writes(model)]
        except LlmApiKitError:
            raise
        except Exception as exc:
            raise LlmApiKitError(explain(exc)) from exc

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta | Finished, None]:
        """See `Backend.stream`."""
        fields: dict[str, Any] = {"messages": request.messages, "model": request.model, **request.sampling}
        if request.tools:
            fields["tools"] = request.tools
        reader = _ChunkReader()
        async with self._remote().async_client(**self._options(SILENCE_TIMEOUT_S)) as client:
            answer = await client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
            async with answer as chunks:
                async for chunk in chunks:
                    if (delta := reader.read(chunk)) is not None:
                        yield delta
        if reader.finish_reason is None:
            raise LlmApiKitError("The stream ended before the answer did. Press Retry.")
        yield Finished(reader.finish_reason, reader.num_prompt_tokens, reader.num_completion_tokens)

    def _options(self, timeout_s: float) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S), "max_retries": 0}
        return {**options, "base_url": self._base_url} if self._base_url else options


def _sees(model: openai.types.Model) -> bool | None:
    told = _capabilities(model)
    return None if told is None else can_see(told)


def _writes(model: openai.types.Model) -> bool:
    """Whether it may answer: one that only embeds or reranks does not."""
    told = _capabilities(model)
    return not told or "chat" in told or "completions" in told


def _capabilities(model: openai.types.Model) -> list[str] | None:
    """Servers of the kit say what a model can; nobody else does."""
    details = (model.model_extra or {}).get("llmapi_kit")
    told = details.get("capabilities") if isinstance(details, dict) else None
    return told if isinstance(told, list) else None


class _ChunkReader:
    """Chunks of a stream as deltas; what stands in none of them is kept for the end."""

    def __init__(self) -> None:
        self.finish_reason: Any = None
        self.num_prompt_tokens = 0
        self.num_completion_tokens = 0

    def read(self, chunk: openai.types.chat.ChatCompletionChunk) -> Delta | None:
        """A piece of the answer; None where the chunk has none.

        Raises:
            LlmApiKitError: it is an error that the stream ends with.
        """
        if chunk.usage is not None:
            self.num_prompt_tokens = chunk.usage.prompt_tokens
            self.num_completion_tokens = chunk.usage.completion_tokens
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        delta = choice.delta
        reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
        calls = tuple(
            ToolCallDelta(
                call.index,
                call.id or "",
                (call.function and call.function.name) or "",
                (call.function and call.function.arguments) or "",
            )
            for call in delta.tool_calls or ()
        )
        text = delta.content or ""
        if not (text or reasoning or calls):
            return None
        return Delta(text, reasoning=reasoning if isinstance(reasoning, str) else "", tool_calls=calls)


def read_base_url(url: str) -> str | None:
    """The address of an API that is not at ``/v1`` of its host; None for one that is.

    Raises:
        ConfigError: it is not an HTTP URL.
    """
    text = url.strip().rstrip("/")
    try:
        parsed = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as exc:
        raise ConfigError(f"{url!r} is not a URL: {exc}. Pass one such as http://127.0.0.1:8000/v1.") from exc
    return None if parsed.path in ("", "/", "/v1") else str(parsed)
