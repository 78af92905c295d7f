"""Does a public URL reach our server? One request to its `/healthz`, and a sentence about what came of it.

Knows no provider: a tunnel passes the headers its provider wants and a function that knows its error pages.
Runs in the thread that calls `Tunnel.check()`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import httpx

MAX_BODY_BYTES = 64 * 1024


NAME_NOT_ALLOWED = "host_not_allowed"


@dataclass(frozen=True)
class Health:
    """What asking a public URL showed. All but `is_ok` is set when it is not ok.

    Attributes:
        is_ok: whether our server answered.
        reason: a sentence for a person.
        code: the provider's own, or our server's.
        cause: "answer" where somebody else answered or an error page came, "silence" where nobody did, "dns" where
            the name was not known. The latter two may be this machine's own network.
    """

    is_ok: bool
    reason: str | None = None
    code: str | None = None
    cause: Literal["answer", "silence", "dns"] | None = None


KnownPage = Callable[[str], "tuple[str, str] | None"]
"""Given an answer's headers and body as text: the provider's code and a sentence, if it is its error page."""


def check_health(
    public_url: str,
    *,
    instance: str | None,
    headers: Mapping[str, str],
    known_page: KnownPage,
    timeout_s: float,
    is_local: bool = False,
) -> Health:
    """Ask `public_url`/healthz. Blocks at most about `timeout_s`; never raises for what the network does.

    With `instance` None any server that answers like ours is accepted. One that `is_local` is asked without the proxy
    that the environment may name.
    """
    url = f"{public_url}/healthz"
    deadline = time.monotonic() + timeout_s
    try:
        with (
            httpx.Client(
                timeout=timeout_s, headers=dict(headers), follow_redirects=False, trust_env=not is_local
            ) as client,
            client.stream("GET", url) as response,
        ):
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    break
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer did not end")
    except httpx.TimeoutException:
        return Health(False, f"{url} did not answer within {timeout_s:g} s.", cause="silence")
    except httpx.ConnectError as exc:
        return _not_connected(url, exc)
    # ImportError: a SOCKS proxy in the environment without the package for it. ValueError: a malformed proxy.
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as exc:
        return Health(False, f"{url} can't be asked: {exc or type(exc).__name__}.", cause="silence")
    return _judge(url, response, body[:MAX_BODY_BYTES].decode("utf-8", "replace"), instance, known_page)


def _judge(url: str, response: httpx.Response, body: str, instance: str | None, known_page: KnownPage) -> Health:
    status, answer = response.status_code, _json_object(body)
    if status == 200 and "status" in answer:
        if instance is None or answer.get("instance") == instance:
            return Health(True)
        other = str(answer.get("instance"))[:40]
        return Health(False, f"{url} reaches another server, not this one (its instance is {other!r}).", cause="answer")
    error = answer.get("error")
    if status == 403 and isinstance(error, dict) and error.get("code") == NAME_NOT_ALLOWED:
        return Health(False, f"{url} reaches a server that does not go by this name.", NAME_NOT_ALLOWED, "answer")
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    known = known_page(f"{headers}\n{body}")
    if known is not None:
        code, sentence = known
        return Health(False, f"{url} answered HTTP {status}: {sentence}", code, "answer")
    if status == 200:
        return Health(False, f"{url} answered what this server never does: {body.strip()[:80]!r}.", cause="answer")
    return Health(False, f"{url} answered HTTP {status}, not 200.", cause="answer")


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _not_connected(url: str, exc: BaseException) -> Health:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return Health(False, f"The name in {url} is not known to DNS ({cause.strerror}).", cause="dns")
        cause = cause.__cause__ or cause.__context__
    return Health(False, f"{url} can't be reached: {exc}.", cause="silence")
