"""What every tunnel through ssh shares: the system's ``ssh`` as the agent, set up by a private configuration file.

The system's program rather than a library in this process, because then the user's own ssh configuration, keys,
agents and jump hosts work unchanged, and no byte of an answer waits for a busy kernel's interpreter. All that it is
told stands in a file that only this user can read, so its arguments name no account and no token.

What it may not do, whatever the user's configuration says: ask for anything, forward an agent or X11, share its
connection with another ssh (which would keep the tunnel open after it was stopped), or stay without its forwarding.
Threads: see `process`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from llmapi_kit.errors import ConfigError, TunnelError
from llmapi_kit.tunnels import ssh_errors
from llmapi_kit.tunnels.agent_folder import AgentFolder
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.printed_url import PrintedUrlTunnel

KNOWN_HOSTS = "known_hosts"
KEY_PATTERN = re.compile(r"(ssh|ecdsa|sk)-[\w@.-]+ [A-Za-z0-9+/]+=*( [^\n]*)?")
# A program to ask for passwords would show a window, or wait for nobody
ASKING_VARIABLES = ("SSH_ASKPASS", "DISPLAY", "WAYLAND_DISPLAY")
CONNECT_TIMEOUT_S = 10
# A connection that is gone without a word is noticed after this, three times
ALIVE_INTERVAL_S = 10


@dataclass(frozen=True, slots=True)
class Login:
    """Where and how to log in.

    Attributes:
        host: a host name, or a name of the user's ssh configuration.
        port: None for the configuration's.
        user: None for the configuration's.
        is_stranger: whether there is no account: then none of the user's keys is shown, and an empty password is sent
            where one is asked for.
    """

    host: str
    port: int | None = None
    user: str | None = None
    is_stranger: bool = False


class OpenSshTunnel(PrintedUrlTunnel):
    """A remote forwarding to the server's port. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._ssh = Path()

    @abstractmethod
    def _login(self) -> Login:
        """Where to log in. After `prepare`."""

    @abstractmethod
    def _listen(self) -> str:
        """What the host is to listen on, as in ``RemoteForward``."""

    def _extra_config(self) -> list[str]:
        """Further lines of the configuration."""
        return []

    def _flags(self) -> list[str]:
        """Arguments besides the configuration and the host."""
        return ["-T"]

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        found = shutil.which("ssh")
        if found is None:
            raise TunnelError(
                f"A tunnel of kind {self.kind!r} needs the program ssh, and it is not on PATH. Install OpenSSH's "
                "client, such as with: apt-get install openssh-client."
            )
        self._ssh = Path(found)
        identity = self.settings.identity_file
        if identity is not None and not identity.expanduser().is_file():
            raise ConfigError(f"There is no private key at identity_file {identity}.")
        if self.settings.host_key is not None and not KEY_PATTERN.fullmatch(self.settings.host_key.strip()):
            raise ConfigError(
                "host_key is not a public key. It is one line such as 'ssh-ed25519 AAAA…', which "
                "'ssh-keyscan HOST' shows without the host's name."
            )

    def _find_agent(self) -> Path:
        return self._ssh

    def _spawn(self, folder: AgentFolder, agent: Path) -> subprocess.Popen[str]:
        arguments = ["-F", str(self._write_config(folder)), *self._flags(), self._login().host]
        return self._launch(
            folder,
            agent,
            arguments,
            drop_variables=ASKING_VARIABLES,
            variables={"SSH_ASKPASS_REQUIRE": "never"},
        )

    def _write_config(self, folder: AgentFolder) -> Path:
        login = self._login()
        lines = [
            f"Host {login.host}",  # and not the machines on the way to it
            f"RemoteForward {self._listen()} 127.0.0.1:{self.port}",
            *([f"Port {login.port}"] if login.port else []),
            *([f"User {login.user}"] if login.user else []),
            *self._identity(login),
            *self._host_key_policy(folder),
            *self._extra_config(),
            "Host *",
            "IgnoreUnknown ForkAfterAuthentication",
            "ForkAfterAuthentication no",
            f"BatchMode {'no' if login.is_stranger else 'yes'}",
            "NumberOfPasswordPrompts 1",
            "ExitOnForwardFailure yes",
            f"ConnectTimeout {CONNECT_TIMEOUT_S}",
            f"ServerAliveInterval {ALIVE_INTERVAL_S}",
            "ServerAliveCountMax 3",
            "ControlMaster no",
            "ControlPath none",
            "ForwardAgent no",
            "ForwardX11 no",
            "PermitLocalCommand no",
            "RequestTTY no",
            "UpdateHostKeys no",
            *([] if login.is_stranger else ["Include ~/.ssh/config", "Include /etc/ssh/ssh_config"]),
        ]
        return folder.write_private("ssh_config", "\n".join(lines) + "\n")

    def _identity(self, login: Login) -> list[str]:
        identity = self.settings.identity_file
        if identity is not None:
            return [f"IdentityFile {_quoted(identity.expanduser().absolute())}", "IdentitiesOnly yes"]
        return ["PubkeyAuthentication no"] if login.is_stranger else []

    def _host_key_policy(self, folder: AgentFolder) -> list[str]:
        """The key the user named, or the one known already, or the one seen first; a changed one is refused."""
        if self.settings.host_key is not None:
            known = folder.write_private(KNOWN_HOSTS, f"* {self.settings.host_key.strip()}\n")
            return [
                "StrictHostKeyChecking yes",
                f"UserKnownHostsFile {_quoted(known)}",
                "GlobalKnownHostsFile none",
            ]
        known = self.settings.state_dir.resolve() / KNOWN_HOSTS
        return ["StrictHostKeyChecking accept-new", f"UserKnownHostsFile {_quoted(known)} ~/.ssh/known_hosts"]

    def _refusal(self, lines: list[str]) -> TunnelError | None:
        known_hosts = self.settings.state_dir.resolve() / KNOWN_HOSTS
        return ssh_errors.refusal(lines, host=self._login().host, known_hosts=known_hosts)


def _quoted(path: Path) -> str:
    """A path as ssh's configuration takes it."""
    text = str(path)
    if '"' in text or "\n" in text:
        raise ConfigError(f"The path {text!r} can't be given to ssh: it has a quote or a line break in it.")
    return f'"{text.replace("%", "%%")}"'
