"""`LLMClient`: the client of the session API, in both of the forms that older programs use."""

from __future__ import annotations

import contextlib
import json
import math
import weakref
from collections.abc import Generator, Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

from llmapi_kit.client.remote import mask
from llmapi_kit.client.session_api import SessionApi
from llmapi_kit.errors import ConfigError, LlmApiKitError, SessionGoneError

AnswerT = TypeVar("AnswerT")

TIMEOUT_S = 30.0
# Finds a server and checks it; by name, because it is above this module
CONNECT = ("llmapi_kit.kit", "connect")
REQUEST_FAILED, SESSION_INVALID = -1, -4


class LLMClient(Generic[AnswerT]):
    """Talks to a bot in a session. Blocking; for one thread at a time.

    There are two forms, told apart by the name of the argument that says which bot. With ``bot=`` a question is
    answered, or an error is raised; the session starts with the first question, and again if it has expired:

        with LLMClient(host="127.0.0.1:8000", bot="chatgpt") as client:
            print(client.ask("Hello!"))

    With ``bot_type``, or no bot at all, nothing is raised: `start_session` says whether it worked, and `ask` gives a
    code, 0 for success, and the reply or what went wrong:

        client = LLMClient("http://127.0.0.1:8000", "chatgpt", "sk-llmapi-…", "Be brief.")
        if client.start_session():
            code, reply = client.ask("Hello!", timeout=60)
            client.end_session()

    Args:
        host: of the server, with or without ``http://``; None for the newest one on this machine.
        bot_type: which bot, in the older form.
        apikey: the server's key; for a server of this machine it is found by itself, else in ``LLMAPI_KIT_API_KEY``.
        system: what the conversation begins with.
        bot: which bot, in the newer form.
        settings: more of the session's settings, such as ``model`` or ``temperature``.
    """

    @overload
    def __init__(
        self: LLMClient[str],
        host: str | None = None,
        *,
        bot: str,
        apikey: str | None = None,
        system: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: LLMClient[tuple[int, str]],
        host: str | None = None,
        bot_type: str = "mock",
        apikey: str | None = None,
        system: str | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> None: ...
    def __init__(
        self,
        host: str | None = None,
        bot_type: str | None = None,
        apikey: str | None = None,
        system: str | None = None,
        *,
        bot: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if bot is not None and bot_type is not None:
            raise ConfigError("LLMClient takes bot=, or bot_type in the older form, not both.")
        self._raises = bot is not None
        self._host = host
        self._apikey = apikey
        self.bot_type = bot or bot_type or "mock"
        self.system = system
        self.settings = dict(settings or {})
        self.session_id: str | None = None
        self._connected: SessionApi | None = None

    def start_session(self) -> bool:
        """Start a session, in place of one that there is.

        Returns:
            Whether it worked; the newer form raises instead.
        """
        try:
            with contextlib.suppress(LlmApiKitError):
                self._end()
            self._start()
        except LlmApiKitError:
            if self._raises:
                raise
            return False
        return True

    def ask(self, prompt: str, timeout: float = TIMEOUT_S) -> AnswerT:
        """Say something.

        Args:
            prompt: what.
            timeout: seconds that the server may take, 5 to 120.

        Returns:
            The reply; in the older form the code and the reply, or the code and what went wrong.
        """
        return cast(AnswerT, self._ask_anew(prompt, timeout) if self._raises else self._code_and_reply(prompt, timeout))

    def stream(self, prompt: str, timeout: float = TIMEOUT_S) -> Generator[str, None, None]:
        """Say something and get the reply piece by piece; in both forms an error is raised.

        A reply that the server withdraws ends with its notice, on a line of its own.
        """
        if self.session_id is None:
            self._start()
        session = str(self.session_id)
        try:
            yield from self._api.stream(session, prompt, timeout)
        except SessionGoneError:  # comes before any piece
            if not self._raises:
                raise
            self._start()
            yield from self._api.stream(str(self.session_id), prompt, timeout)

    def end_session(self) -> None:
        """End the session, if there is one. That it is gone already, or the server, is not an error."""
        with contextlib.suppress(LlmApiKitError):
            self._end()

    def embedding_similarity(self, a: str | Sequence[float], b: str | Sequence[float]) -> float:
        """The cosine of the angle between two vectors: 1 for the same direction, -1 for the opposite one.

        Args:
            a: a vector, the JSON of one as an embedding bot replies, or a text, which this client's bot is asked for.
            b: the same.

        Raises:
            LlmApiKitError: a text could not be embedded, or the lengths differ.
        """
        first, second = self._vector(a), self._vector(b)
        if len(first) != len(second):
            raise ConfigError(f"The vectors have {len(first)} and {len(second)} dimensions; they can't be compared.")
        norms = math.hypot(*first) * math.hypot(*second)
        return sum(x * y for x, y in zip(first, second, strict=True)) / norms if norms else 0.0

    def close(self) -> None:
        """End the session and let the connection go."""
        self.end_session()
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def __enter__(self) -> LLMClient[AnswerT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _api(self) -> SessionApi:
        if self._connected is None:
            module, name = CONNECT
            self._connected = SessionApi(getattr(import_module(module), name)(self._host, self._apikey))
            weakref.finalize(self, self._connected.close)
        return self._connected

    def _start(self) -> None:
        settings = {"system": self.system, **self.settings} if self.system else self.settings
        self.session_id = self._api.start(self.bot_type, settings)

    def _end(self) -> None:
        session, self.session_id = self.session_id, None
        if session is not None:
            self._api.end(session)

    def _ask_anew(self, prompt: str, timeout: float) -> str:
        """Ask, in a new session where there is none or it has expired."""
        if self.session_id is not None:
            try:
                return self._api.ask(self.session_id, prompt, timeout)
            except SessionGoneError:
                pass
        self._start()
        return self._api.ask(str(self.session_id), prompt, timeout)

    def _code_and_reply(self, prompt: str, timeout: float) -> tuple[int, str]:
        if self.session_id is None:
            return SESSION_INVALID, "Session invalid: there is none; call start_session() first."
        try:
            answer = self._api.post(
                "ask", {"session": self.session_id, "content": prompt, "timeout": timeout}, timeout_s=timeout
            )
        except LlmApiKitError as exc:
            return REQUEST_FAILED, str(exc)
        return answer["code"], str(answer["msg"] if answer["code"] else answer["reply"])

    def _vector(self, given: str | Sequence[float]) -> list[float]:
        if not isinstance(given, str):
            return [float(x) for x in given]
        with contextlib.suppress(ValueError, TypeError):
            return [float(x) for x in json.loads(given)]
        reply = self._ask_anew(given, TIMEOUT_S)
        try:
            return [float(x) for x in json.loads(reply)]
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"The bot {self.bot_type!r} replies with no vector. Use bot='gpt-embedding'.") from exc

    def __repr__(self) -> str:
        host, key = self._host or "newest server of this machine", mask(self._apikey)
        return f"LLMClient({host!r}, {self.bot_type!r}, session={self.session_id!r}, apikey={key!r})"
