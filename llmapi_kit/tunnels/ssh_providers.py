"""Public URLs by providers that are used with ssh alone and need no account: localhost.run, pinggy and serveo.

Each prints the URL when one logs in. The provider ends TLS, so it can read what passes, keys included, as ngrok and
Cloudflare can. Threads: see `process`.
"""

from __future__ import annotations

import re

from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.openssh import Login, OpenSshTunnel
from llmapi_kit.tunnels.secret_store import find_secret

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
PINGGY_TOKEN = "PINGGY_TOKEN"  # noqa: S105 - a variable's name


class ProviderTunnel(OpenSshTunnel):
    """What the providers share: a session in which the URL is printed.

    Attributes:
        name: of the kind.
        pattern: finds the URL in a line.
    """

    name: str
    pattern: re.Pattern[str]

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`."""
        return self.name

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        domain = self.settings.domain
        if domain is not None and not DOMAIN.fullmatch(domain):
            raise ConfigError(f"domain is {domain!r}; it must be a host name, such as my-name.example.com.")
        super().prepare()

    def _listen(self) -> str:
        return f"{self.settings.domain}:80" if self.settings.domain else "80"

    def _find_url(self, line: str) -> str | None:
        found = self.pattern.search(ANSI.sub("", line))
        return found[1].rstrip("/.,") if found else None


class LocalhostRunTunnel(ProviderTunnel):
    """https://localhost.run: a name that changes now and then, or with a key of an account one that stays."""

    name = "localhost.run"
    pattern = re.compile(r"tunneled with tls termination,\s*(https://\S+)")

    def _login(self) -> Login:
        has_key = self.settings.identity_file is not None
        return Login("localhost.run", user=None if has_key else "nokey", is_stranger=True)


class PinggyTunnel(ProviderTunnel):
    """https://pinggy.io: for an hour at a time, or with a token for as long as wanted.

    The token is the user's name for ssh; it stands in the private configuration.
    """

    name = "pinggy"
    pattern = re.compile(r"^\s*(https://(?!dashboard\.)\S+)\s*$")

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._token = ""

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        found = self.settings.auth_token or find_secret(PINGGY_TOKEN, ask_host=False)
        self._token = found.get_secret_value().strip() if found else ""
        if self._token and not re.fullmatch(r"[\w.+-]+", self._token):
            raise ConfigError(f"pinggy's token (auth_token or {PINGGY_TOKEN}) has characters that no token has.")
        self.log.hide(self._token)
        super().prepare()

    def _login(self) -> Login:
        if self._token:
            return Login("pro.pinggy.io", 443, self._token, is_stranger=True)
        return Login("free.pinggy.io", 443, is_stranger=True)

    def _listen(self) -> str:
        return "0"


class ServeoTunnel(ProviderTunnel):
    """https://serveo.net: a name of its own choice, or with a key that it knows the one asked for."""

    name = "serveo"
    pattern = re.compile(r"Forwarding HTTP traffic from\s+(https://\S+)")

    def _login(self) -> Login:
        return Login("serveo.net", is_stranger=True)
