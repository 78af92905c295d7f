"""A public URL by a host of one's own, such as a small rented machine: its sshd listens, and passes on to here.

With ``public_url`` the host's own web server answers the world, with TLS, and passes requests on to ``remote_port`` on
its loopback; without it the port itself is public, where the host's sshd allows that (``GatewayPorts
clientspecified``), and what is sent is not encrypted between client and host. Threads: see `process`.
"""

from __future__ import annotations

import logging
import re
import subprocess
from pathlib import Path

from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels.agent_folder import AgentFolder
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.health import Health
from llmapi_kit.tunnels.openssh import Login, OpenSshTunnel

logger = logging.getLogger(__name__)

HOST_PATTERN = re.compile(
    r"(?:(?P<user>[\w.+-]+)@)?(?P<host>[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:]+\])(?::(?P<port>\d{1,5}))?"
)
ALLOCATED = re.compile(r"Allocated port (\d+) for remote forward")
SUCCESS = re.compile(r"remote forward success for")
DEBUG = re.compile(r"^debug\d: ")
RESOLVE_TIMEOUT_S = 5.0


class SshTunnel(OpenSshTunnel):
    """A forwarding from a host that one can log in to. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._target = Login("")
        self._host_name = ""

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`."""
        return "ssh"

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        self._target = _parse_host(self.settings.host)
        port, public_url = self.settings.remote_port, self.settings.public_url
        if port is not None and not (isinstance(port, int) and 1 <= port <= 65535):
            raise ConfigError(f"remote_port is {port!r}; it must be between 1 and 65535. Leave it out for a free one.")
        if public_url is not None and not re.fullmatch(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", public_url):
            raise ConfigError(f"public_url is {public_url!r}; it must be a URL such as https://llm.example.com.")
        if public_url is not None and port is None:
            raise ConfigError(
                "public_url needs remote_port too: the port on the ssh host that its web server passes requests on to."
            )
        super().prepare()

    def _login(self) -> Login:
        return self._target

    def _listen(self) -> str:
        # Where a web server of the host is in front, nobody else needs to reach the port
        where = "localhost" if self.settings.public_url else "*"
        return f"{where}:{self.settings.remote_port or 0}"

    def _extra_config(self) -> list[str]:
        return ["LogLevel DEBUG1"]  # at no other level is a forwarding of a fixed port confirmed

    def _flags(self) -> list[str]:
        return ["-N", "-T"]  # no shell: the account may have none

    def _spawn(self, folder: AgentFolder, agent: Path) -> subprocess.Popen[str]:
        self._host_name = self._resolve(agent)
        return super()._spawn(folder, agent)

    def _resolve(self, agent: Path) -> str:
        """The host's real name, where `host` is one of the user's ssh configuration."""
        command = [str(agent), "-G", self._target.host]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RESOLVE_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return self._target.host
        found = re.search(r"^hostname (\S+)$", ran.stdout, re.MULTILINE)
        return found[1] if found else self._target.host

    def _heed(self, line: str) -> None:
        super()._heed(line if not DEBUG.match(line) or SUCCESS.search(line) else "")

    def _find_url(self, line: str) -> str | None:
        port = self.settings.remote_port
        if port is not None and SUCCESS.search(line):
            return self.settings.public_url or self._bare_url(port)
        if port is None and (found := ALLOCATED.search(line)):
            return self._bare_url(int(found[1]))
        return None

    def _bare_url(self, port: int) -> str:
        url = f"http://{self._host_name}:{port}"
        logger.warning(
            "%s is not encrypted: whoever is in between can read the key. Have a web server on the host pass on from "
            "https to a remote_port, and give its address as public_url",
            url,
        )
        return url

    def _ask_health(self, public_url: str, timeout_s: float) -> Health:
        health = super()._ask_health(public_url, timeout_s)
        if health.is_ok or health.cause != "silence" or self.settings.public_url is not None:
            return health
        return Health(
            False,
            f"{health.reason} An sshd listens on its own loopback only, unless it has 'GatewayPorts clientspecified'.",
            cause=health.cause,
        )


def _parse_host(host: str | None) -> Login:
    if host is None:
        raise ConfigError(
            'tunnel="ssh" has to know where: tunnel_options={"host": "user@host"}. localhost.run, pinggy and serveo '
            'need no account: tunnel="localhost.run".'
        )
    found = HOST_PATTERN.fullmatch(host)
    if found is None or int(found["port"] or 1) not in range(1, 65536):
        raise ConfigError(
            f"host is {host!r}; it must be user@host, user@host:port or a name of your ssh configuration."
        )
    return Login(found["host"].strip("[]"), int(found["port"]) if found["port"] else None, found["user"])
