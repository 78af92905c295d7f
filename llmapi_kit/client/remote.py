"""A running server, seen from a client: another kernel, another machine.

Knows nothing of the server's insides; speaks HTTP. Its repr never shows the key, and the key goes to nobody but a
server of llmapi_kit. Blocking; may be used from any thread.
"""

from __future__ import annotations

import functools
import urllib.request
from typing import TYPE_CHECKING, Any

import httpx

from llmapi_kit.errors import AuthenticationError, ConfigError, LlmApiKitError, ServerNotFoundError
from llmapi_kit.loopback import LOOPBACK

if TYPE_CHECKING:
    import ssl

    import openai

# ngrok's free plan puts a page for browsers before the first answer unless this header is sent
TUNNEL_HEADERS = {"ngrok-skip-browser-warning": "1"}
TIMEOUT_S = 10.0


def mask(key: str | None) -> str:
    """A key made recognisable, not usable: its prefix and last four characters."""
    return "none" if key is None else f"{key[:10]}…{key[-4:]}" if len(key) >= 24 else "…"


class RemoteServer:
    """A server that answers at `url`.

    Args:
        url: with or without ``/v1``; ``http://`` is added where it says nothing of the kind.
        api_key: its key; None for a server without one.

    Raises:
        ConfigError: the URL is not valid.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = normalise_url(url)
        self.api_key = api_key

    @property
    def base_url(self) -> str:
        """What OpenAI clients take as ``base_url``."""
        return f"{self.url}/v1"

    def client(self, **options: Any) -> openai.OpenAI:
        """An official OpenAI client for this server.

        Args:
            options: passed on to `openai.OpenAI`.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> with kit.connect(server.url).client(timeout=20) as client:
            ...     [model.id for model in client.models.list()]
            ['mock']
            >>> server.stop()
        """
        import openai

        from llmapi_kit.client.openai_client import OpenAIClient

        if self._has_proxy_in_the_way():
            options.setdefault("http_client", openai.DefaultHttpxClient(trust_env=False))
        return OpenAIClient(**self._client_options(options))

    def async_client(self, **options: Any) -> openai.AsyncOpenAI:
        """The asynchronous one."""
        import openai

        from llmapi_kit.client.openai_client import AsyncOpenAIClient

        if self._has_proxy_in_the_way():
            options.setdefault("http_client", openai.DefaultAsyncHttpxClient(trust_env=False))
        return AsyncOpenAIClient(**self._client_options(options))

    def http_client(self, **options: Any) -> httpx.Client:
        """A plain HTTP client for this server that sends its key; close it when you are done.

        Args:
            options: passed on to `httpx.Client`.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0)
            >>> with kit.connect(server.url).http_client() as client:
            ...     print(client.get("/readyz").json()["ready"])
            True
            >>> server.stop()
        """
        headers = {**TUNNEL_HEADERS, **self._key_header(), **options.pop("headers", {})}
        return httpx.Client(**{"base_url": self.url, "headers": headers, **self._transport_options(), **options})

    def models(self) -> list[str]:
        """Names of its models, the default first.

        Raises:
            ServerNotFoundError: nothing answers at the url.
            AuthenticationError: it refuses the key.
            LlmApiKitError: it answers with another error.

        Examples:
            >>> server = kit.launch(kit.load("mock"), port=0, aliases={"gpt-4o": "mock"})
            >>> kit.connect(server.url).models()
            ['mock', 'gpt-4o']
            >>> server.stop()
        """
        response = self._get("/v1/models", self._key_header())
        if response.status_code == 401 and self.api_key is None:
            raise AuthenticationError(
                f"{self.url} asks for an API key. Pass api_key=…, or set LLMAPI_KIT_API_KEY in the environment."
            )
        if response.status_code == 401:
            raise AuthenticationError(f"{self.url} refuses the key {mask(self.api_key)}. {_message(response)}")
        if response.status_code != 200:
            raise LlmApiKitError(f"{self.url}/v1/models answered {response.status_code}. {_message(response)}")
        return [str(model["id"]) for model in response.json()["data"]]

    def check(self, instance: str | None = None) -> None:
        """Raise unless it answers and takes the key. The key is sent only to a server of llmapi_kit.

        Args:
            instance: which server is meant; another one on the same port is not it.

        Raises:
            ServerNotFoundError: nothing answers at the url, or something else does.
            AuthenticationError: it refuses the key.
        """
        response = self._get("/healthz", {})
        try:
            health = response.json()
            is_ours = response.status_code == 200 and health["status"] == "ok" and isinstance(health["instance"], str)
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise ServerNotFoundError(
                f"{self.url} answers, but not as a server of llmapi_kit (HTTP {response.status_code}). Check the port "
                f"or the URL. {_message(response)}".rstrip()
            )
        if instance is not None and health["instance"] != instance:
            raise ServerNotFoundError(f"Another server answers at {self.url} than the one that was launched there.")
        self.models()

    def _get(self, path: str, headers: dict[str, str]) -> httpx.Response:
        try:
            return httpx.get(
                self.url + path,
                headers={**TUNNEL_HEADERS, **headers},
                timeout=TIMEOUT_S,
                **self._transport_options(),
            )
        except httpx.ProtocolError as exc:
            raise ServerNotFoundError(f"Something answers at {self.url}, but it does not speak HTTP: {exc}.") from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ServerNotFoundError(f"No server answers at {self.url}: {exc or type(exc).__name__}.") from exc

    def _key_header(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def _is_local(self) -> bool:
        return httpx.URL(self.url).host in LOOPBACK

    def _transport_options(self) -> dict[str, Any]:
        """No proxy and no certificates of the environment for this very machine."""
        return {"trust_env": False, "verify": _tls_context()} if self._is_local() else {}

    def _has_proxy_in_the_way(self) -> bool:
        """Whether the environment would send calls to this very machine through a proxy."""
        return self._is_local() and bool(urllib.request.getproxies())

    def _client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        headers = {**TUNNEL_HEADERS, **options.pop("default_headers", {})}
        defaults = {"base_url": self.base_url, "api_key": self.api_key or "none", "default_headers": headers}
        return {**defaults, **options}

    def __repr__(self) -> str:
        return f"RemoteServer({self.url!r}, api_key={mask(self.api_key)!r})"


def normalise_url(url: str) -> str:
    """A server's URL as it was meant: with a scheme, without ``/v1`` and slashes at its end.

    Raises:
        ConfigError: it is not an HTTP URL.
    """
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise ConfigError(f"{url!r} is not a URL: {exc}. Pass one such as http://127.0.0.1:8000.") from exc
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r} is not a server's URL. Pass one such as http://127.0.0.1:8000.")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """The authorities that come with httpx, which would read all of them for each client, in 15 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _message(response: httpx.Response) -> str:
    """What an error says for itself, where it is one of ours."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
