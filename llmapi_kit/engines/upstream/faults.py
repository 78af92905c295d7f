"""What went wrong upstream, whose fault it is, and what our own client is told.

One table from HTTP statuses. A key that the upstream refuses is this server's trouble, never its client's 401. Nothing
of the upstream's headers, address or keys gets into a message; what it said of the request does, without keys.
"""

from __future__ import annotations

import email.utils
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import openai

from llmapi_kit.checkpoints.providers import Provider
from llmapi_kit.errors import (
    BodyTooLargeError,
    ContextLengthError,
    InvalidRequestError,
    QueueFullError,
    RequestError,
    RequestTimeoutError,
    UpstreamError,
)

logger = logging.getLogger(__name__)

# Who has to change something: our client, whoever looks after the key (at once, or by waiting), or the upstream. An
# "answer" that can't be read comes from an upstream that works, and would be the same if it were asked for again.
FaultOwner = Literal["client", "key", "rate", "answer", "upstream"]
MAX_MESSAGE, MAX_NAME = 500, 100
DEFAULT_COOL_DOWN_S = 10.0
_KEY_LIKE = re.compile(r"\b(?:sk|gsk|pk|key|api)-[\w*-]{8,}|Bearer\s+\S+", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context.{0,20}(?:length|window|size)|(?:maximum|max).{0,10}context|too many tokens|prompt is too long", re.I
)
# What an error in a stream is called that has a status elsewhere.
STATUSES: Mapping[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
}
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")


class UpstreamFault(Exception):  # noqa: N818 - it carries the error that clients get
    """A request to an upstream failed.

    Attributes:
        error: what our client is told.
        blame: who has to change something.
        wait_s: how long the upstream asks to wait; None where it does not say.
    """

    def __init__(self, error: RequestError, blame: FaultOwner, wait_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.blame = blame
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class FaultTranslator:
    """Makes faults of what one upstream answers.

    Attributes:
        provider: who it is.
        model: its name for the model.
        scrub: takes keys out of a text.
    """

    provider: Provider
    model: str
    scrub: Callable[[str], str]

    def exception(self, exc: Exception) -> UpstreamFault:
        """What a request raised before it was answered."""
        if isinstance(exc, openai.APIStatusError):
            return self.status(exc.status_code, exc.response.headers, exc.body)
        if isinstance(exc, openai.APITimeoutError):
            return self.silent(f"{self.provider.name} can't be reached in time.")
        if isinstance(exc, openai.APIConnectionError):
            return self.broken("can't be reached")
        return self.broken(f"could not be asked ({type(exc).__name__})")

    def status(self, status: int, headers: Mapping[str, str], body: object) -> UpstreamFault:
        """A response whose status says that it failed."""
        name = self.provider.name
        said, param, code = self._details(body)
        wait_s = retry_after_s(headers)
        if status == 402 or (status == 429 and code in _OUT_OF_MONEY):
            return UpstreamFault(self._refused("The account behind its API key has nothing left to spend."), "key")
        if status == 429:
            error: RequestError = QueueFullError(
                f"{name} limits the rate of requests. Try again later.",
                code="upstream_rate_limited",
                retry_after_s=max(1.0, wait_s if wait_s is not None else DEFAULT_COOL_DOWN_S),
            )
            return UpstreamFault(error, "rate", wait_s)
        if status in (401, 403):
            return UpstreamFault(self._refused(f"It refuses this server's API key (HTTP {status})."), "key")
        if status == 404:
            return UpstreamFault(
                UpstreamError(
                    f"{name} knows no model {self.model!r}, or has no such API. Whoever runs this server has to check "
                    "the model's name and the base URL.",
                    code="upstream_not_found",
                ),
                "client",  # no other key and no retry would help
            )
        if status == 413:
            return UpstreamFault(BodyTooLargeError(f"{name} finds the request too large."), "client")
        if status in (400, 422):
            return UpstreamFault(self._bad_request(said, param, code), "client")
        if status < 400:
            return UpstreamFault(
                UpstreamError(
                    f"{name} answers with a redirection (HTTP {status}), which is not followed, as the key would go "
                    "along. Whoever runs this server has to set its final base URL."
                ),
                "client",
            )
        error = UpstreamError(f"{name} failed (HTTP {status}). Try again later.", retry_after_s=wait_s)
        return UpstreamFault(error, "upstream", wait_s)

    def redacted(self, exc: Exception) -> str:
        """What went wrong, for the log: for whoever looks after the key, without the key."""
        if isinstance(exc, openai.APIStatusError):
            return f"HTTP {exc.status_code}: {self._details(exc.body)[0] or 'no reason given'}"
        cause = exc.__cause__
        return type(exc).__name__ + (f" ({type(cause).__name__})" if cause is not None else "")

    def in_stream(self, body: object) -> UpstreamFault:
        """An error that came where a piece of the answer should."""
        body = _inner(body)
        said, param, code = self._details(body)
        kind = body.get("type") if isinstance(body, Mapping) else None
        if (status := _status(body)) is not None:
            return self.status(status, {}, body)
        logger.warning("%s: an error in place of an answer: %s", self.provider.name, said or "no reason given")
        if kind == "invalid_request_error" or code == "context_length_exceeded":
            return UpstreamFault(self._bad_request(said, param, code), "client")
        return self.broken("failed while it answered")

    def unreadable(self, why: str) -> UpstreamFault:
        """The upstream answers in a way that means nothing here."""
        name = self.provider.name
        return UpstreamFault(UpstreamError(f"{name} sent an answer that can't be read: {self.scrub(why)}."), "answer")

    def broken(self, what: str) -> UpstreamFault:
        """The upstream does something else than it should."""
        return UpstreamFault(UpstreamError(f"{self.provider.name} {what}. Try again later."), "upstream")

    def silent(self, message: str) -> UpstreamFault:
        """The upstream takes too long."""
        return UpstreamFault(RequestTimeoutError(message), "upstream")

    def _refused(self, why: str) -> UpstreamError:
        return UpstreamError(
            f"{self.provider.name} does not serve this server. {why} {advice(self.provider)}",
            code="upstream_key_refused",
        )

    def _bad_request(self, said: str, param: str | None, code: str | None) -> InvalidRequestError:
        message = f"{self.provider.name}: {said or 'the request is not valid.'}"
        if code == "context_length_exceeded" or _CONTEXT.search(said):
            return ContextLengthError(message, param=param or "messages")
        return InvalidRequestError(message, param=param, code=code)

    def _details(self, body: object) -> tuple[str, str | None, str | None]:
        """(message, param, code) of an error body, whichever of the usual shapes it has."""
        body = _inner(body)
        if isinstance(body, Mapping):
            said, param, code = body.get("message") or body.get("detail"), body.get("param"), body.get("code")
        else:
            said, param, code = body, None, None
        text = said if isinstance(said, str) and "<html" not in said.lower() else ""
        text = _KEY_LIKE.sub("[key]", self.scrub(text))[:MAX_MESSAGE]
        return text, _name(param), _name(code)


def _name(value: object) -> str | None:
    return value[:MAX_NAME] if isinstance(value, str) else None


def _inner(body: object) -> object:
    """What tells of an error, out of what is put around it."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return body
    return body.get("error") or next(_errors_of_choices(body), body)


def _errors_of_choices(body: Mapping[str, Any]) -> Iterator[Any]:
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and choice.get("error"):
            yield choice["error"]


def _status(body: object) -> int | None:
    """The HTTP status that an error in a stream stands for, if it says one: the response's own was 200 by then."""
    if not isinstance(body, Mapping):
        return None
    for name in ("code", "status", "status_code", "type"):
        value = body.get(name)
        status = STATUSES.get(value) if isinstance(value, str) else value
        if status is None and isinstance(value, str) and value.isascii() and value.isdigit():
            status = int(value)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def advice(provider: Provider) -> str:
    """What to do about a key."""
    variable = f" in {provider.key_variable}" if provider.key_variable else ""
    return f"Whoever runs this server has to check the key{variable}, and load the model again."


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers ask to wait.

    Source: RFC 9110, section 10.2.3: seconds, or a date.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        parsed = email.utils.parsedate_tz(value)
        seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else math.nan
    return max(0.0, seconds) if math.isfinite(seconds) else None


def is_error(body: Any) -> bool:
    """Whether JSON is an error in place of an answer."""
    if not isinstance(body, Mapping):
        return False
    return bool(body.get("error")) or body.get("object") == "error" or any(_errors_of_choices(body))
