"""A public URL by Cloudflare's agent: a quick tunnel without an account, or a named one with its token.

A quick tunnel has a random name for as long as its agent runs. What a named one is called and where it leads stands in
Cloudflare's dashboard; the agent tells when it has connected. The token is in the agent's environment, which only this
user can read, never in an argument. Threads: see `process`.

Source of the lines: https://github.com/cloudflare/cloudflared (cmd/cloudflared/tunnel, connection, orchestration).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmapi_kit.errors import ConfigError, TunnelAuthError, TunnelDownError, TunnelError, TunnelLimitError
from llmapi_kit.tunnels.agent_folder import AgentFolder
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.health import Health
from llmapi_kit.tunnels.printed_url import PrintedUrlTunnel
from llmapi_kit.tunnels.secret_store import find_secret

TOKEN_VARIABLE = "TUNNEL_TOKEN"  # noqa: S105 - cloudflared's own variable
QUICK_URL = re.compile(r"https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com")
CONNECTED = "Registered tunnel connection"
ROUTES = re.compile(r'Updated to new configuration config=("(?:[^"\\]|\\.)*")')
DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
# A fresh name that is asked for too soon is remembered as missing for up to half an hour
QUICK_SETTLE_S = 15.0
WHERE_FROM = "https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/downloads/"

_MEANINGS: tuple[tuple[str, type[TunnelError], str], ...] = (
    (
        r"[Tt]unnel token is not valid|Unauthorized: |Invalid tunnel secret",
        TunnelAuthError,
        "Cloudflare does not take the tunnel's token. Copy it again from the dashboard (Networks > Tunnels).",
    ),
    (
        r"429|Too Many Requests|error code: 1015",
        TunnelLimitError,
        "Cloudflare gives out no further quick tunnel now, as too many were asked for from this address. Wait some "
        "minutes, or make a named tunnel and pass its token.",
    ),
    (
        r"failed to request quick Tunnel",
        TunnelDownError,
        "Cloudflare can't be asked for a quick tunnel from here: is this machine online, and does it allow tunnels?",
    ),
    (
        r"Could not lookup srv records|edge discovery|[Ff]ailed to dial|Unable to establish connection with Cloudflare",
        TunnelDownError,
        "Cloudflare's network can't be reached from here: the agent needs DNS, and port 7844 outwards.",
    ),
    (
        r"failed to (unmarshal|parse) quick Tunnel|Error unmarshaling QuickTunnel",
        TunnelDownError,
        "Cloudflare gave out no quick tunnel.",
    ),
)


class CloudflaredTunnel(PrintedUrlTunnel):
    """One cloudflared agent. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._agent = Path()
        self._token = ""
        self._name: str | None = None
        self._is_connected = False
        self._wrong_routes = ""

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`."""
        return "cloudflared"

    @property
    def settle_s(self) -> float:
        """See `Tunnel.settle_s`."""
        return 0.0 if self._token else QUICK_SETTLE_S

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        self._agent = self._check_agent()
        # A secret of the host's, which takes time to ask for, belongs to a domain
        ask_host = self.settings.domain is not None
        found = self.settings.auth_token or find_secret(TOKEN_VARIABLE, ask_host=ask_host)
        self._token = found.get_secret_value().strip() if found else ""
        self.log.hide(self._token)
        domain = self.settings.domain
        if domain is not None and not DOMAIN.fullmatch(domain):
            raise ConfigError(f"domain is {domain!r}; it must be a host name, such as llm.example.com.")
        if domain is not None and not self._token:
            raise ConfigError(
                "A quick tunnel has a random name. For a domain of your own make a named tunnel in Cloudflare's "
                f"dashboard, and give its token as {TOKEN_VARIABLE} in the environment, or as auth_token."
            )

    def _check_agent(self) -> Path:
        given = self.settings.cloudflared_path
        if given is not None:
            path = given.expanduser().absolute()
            if not path.is_file() or not os.access(path, os.X_OK):
                raise ConfigError(f"There is no program at cloudflared_path {path}. Leave it out to have one found.")
            return path
        found = shutil.which("cloudflared")
        if found is None:
            raise TunnelError(
                f"The program cloudflared is not on PATH. Get it from {WHERE_FROM} (on macOS: brew install "
                "cloudflared), or pass its place as cloudflared_path."
            )
        return Path(found).absolute()

    def _find_agent(self) -> Path:
        return self._agent

    def _spawn(self, folder: AgentFolder, agent: Path) -> subprocess.Popen[str]:
        # The user's own configuration, where there is one, keeps a quick tunnel from being opened
        config = folder.write_private("cloudflared.yml", "{}\n")
        common = ["tunnel", "--config", str(config), "--no-autoupdate", "--grace-period", "1s"]
        common += ["--metrics", "127.0.0.1:0"]
        own = ["run"] if self._token else ["--url", f"http://127.0.0.1:{self.port}"]
        return self._launch(
            folder,
            agent,
            [*common, *own],
            drop_variables=[name for name in os.environ if name.startswith("TUNNEL_") and name != TOKEN_VARIABLE]
            + ([] if self._token else [TOKEN_VARIABLE]),
            variables={TOKEN_VARIABLE: self._token} if self._token else None,
        )

    def _find_url(self, line: str) -> str | None:
        if CONNECTED in line:
            self._is_connected = True
        elif self._token and (found := ROUTES.search(line)):
            self._read_routes(found[1])
        elif not self._token and (found := QUICK_URL.search(line)):
            self._name = found[0]
        if self._token and self._name is None and self.settings.domain is not None:
            self._name = f"https://{self.settings.domain}"
        return self._name if self._is_connected else None

    def _read_routes(self, quoted: str) -> None:
        """Where Cloudflare passes requests on to: one of the names must lead to this server."""
        routes = _routes(quoted)
        here = [name for name, service in routes if _port_of(service) == self.port]
        domain = self.settings.domain
        if here and (domain is None or domain in here):
            self._name = f"https://{domain or here[0]}"
        else:
            self._wrong_routes = ", ".join(f"{name} to {service}" for name, service in routes) or "nowhere"

    def _ask_health(self, public_url: str, timeout_s: float) -> Health:
        health = super()._ask_health(public_url, timeout_s)
        if health.is_ok or not self._wrong_routes:
            return health
        return replace(health, reason=f"{health.reason} {self._route_advice()}")

    def _route_advice(self) -> str:
        return (
            f"In Cloudflare's dashboard the tunnel leads {self._wrong_routes}. Set the service of a public "
            f"hostname to http://localhost:{self.port}."
        )

    def _timeout_advice(self) -> str:
        if self._wrong_routes:
            return self._route_advice()
        if self._is_connected:
            return "It has connected, but did not tell its name: pass the public hostname as domain."
        return super()._timeout_advice()

    def _refusal(self, lines: list[str]) -> TunnelError | None:
        text = "\n".join(lines)
        return next((kind(advice) for pattern, kind, advice in _MEANINGS if re.search(pattern, text)), None)


def _routes(quoted: str) -> list[tuple[str, str]]:
    """Host names and services in a logged configuration, which is JSON in a quoted string."""
    try:
        config: Any = json.loads(json.loads(quoted))
        rules = [rule for rule in config.get("ingress", []) if rule.get("hostname")]
        return [(str(rule["hostname"]), str(rule.get("service", ""))) for rule in rules]
    except (ValueError, AttributeError, TypeError):
        return []


def _port_of(service: str) -> int | None:
    found = re.fullmatch(r"http://(?:localhost|127\.0\.0\.1|\[::1\]):(\d+)/?", service)
    return int(found[1]) if found else None
