"""What a tunnel is to the rest of the kit: the protocol, its status and its settings.

Knows no provider, no process and no thread. `kit.launch` and the card in a notebook use these names only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import SecretStr

from llmapi_kit.tunnels.health import Health

TunnelState = Literal["starting", "up", "degraded", "down", "stopped"]


@dataclass(frozen=True)
class TunnelStatus:
    """What is known of a tunnel at one moment.

    Attributes:
        state: "starting" while the agent is asked for a URL, "up" while the link is believed to work, "degraded"
            while the agent runs and the URL could not be reached lately, "down" when the agent ended, never came up,
            or the link is known not to work, "stopped" before `start()` and after `stop()`. Only a watched tunnel is
            ever "degraded", and one that is "down" is opened again by its watcher.
        public_url: the URL to give away, without a slash at its end; kept while "down", so that a person
            sees which link is dead.
        reason: when "degraded" or "down", a sentence for a person.
        code: the provider's own error code, such as ``ERR_NGROK_3200``, where it gave one.
    """

    state: TunnelState
    public_url: str | None = None
    reason: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class TunnelSettings:
    """What a tunnel needs to know besides the port. `TunnelKind.options` says which of these a kind has.

    Attributes:
        state_dir: folder for pid files and the agents' private folders; made when missing. It must be on a
            local disk that allows programs, not on a shared or network drive.
        auth_token: the provider's token. A plain string is wrapped at once, so that no repr shows it.
        domain: a public host name reserved at the provider; None takes what it gives.
        region: of ngrok's servers, such as ``eu``; None takes the nearest.
        ngrok_path: the agent program; None looks for one and downloads it if there is none.
        cloudflared_path: the agent program; None looks for it on PATH.
        host: where to log in with ssh: ``user@host``, ``user@host:port`` or a name of your ssh configuration.
        identity_file: the private key to log in with; None leaves it to ssh.
        host_key: the host's public key, such as ``ssh-ed25519 AAAA…``; no other is accepted then.
        remote_port: where the ssh host is to listen; None takes a free port.
        public_url: where the ssh host's own web server passes requests on from; None for the port itself.
        may_ask_person: whether a token may be typed in, unseen, where none is found and somebody is there.
        instance: the id that our server's `/healthz` answers with; given, `check()` tells our server from
            another.
        timeout_s: how long `start()` may take, a download included.
        probe_interval_s: how often a watcher asks the public URL.
        on_progress: called with one line when something takes a while; from the tunnel's thread.
    """

    state_dir: Path
    auth_token: SecretStr | None = None
    domain: str | None = None
    region: str | None = None
    ngrok_path: Path | None = None
    cloudflared_path: Path | None = None
    host: str | None = None
    identity_file: Path | None = None
    host_key: str | None = None
    remote_port: int | None = None
    public_url: str | None = None
    may_ask_person: bool = True
    instance: str | None = None
    timeout_s: float = 30.0
    probe_interval_s: float = 30.0
    on_progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        token: object = self.auth_token
        if isinstance(token, str):
            object.__setattr__(self, "auth_token", SecretStr(token))
        for name in ("ngrok_path", "cloudflared_path", "identity_file"):
            path: object = getattr(self, name)
            if isinstance(path, str):
                object.__setattr__(self, name, Path(path))


@runtime_checkable
class Tunnel(Protocol):
    """One public URL for one local port. All methods may be called from any thread.

    A tunnel is used once: after `stop()`, or when it is down for good, open a new one.
    """

    @property
    def kind(self) -> str:
        """The name `open_tunnel` knows it by; of one that chose among several, the chosen one's."""
        ...

    @property
    def settle_s(self) -> float:
        """How long a fresh URL may take until it is known everywhere; to ask sooner may do harm."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether its agent runs and has given a URL; says nothing of whether that works."""
        ...

    def prepare(self) -> None:
        """Find what must be there before it is started, such as a token; `start` does it, too. Quick; asks nobody.

        Raises:
            TunnelAuthError: there is no token.
            ConfigError: a setting can't be used.
        """
        ...

    def start(self) -> str:
        """Open the tunnel and return its public URL; a tunnel that is up answers at once.

        Blocks at most `timeout_s`, and a few seconds more to end an agent that gave no answer.
        An interrupt (Ctrl-C, a cell's stop button) stops the tunnel before it is passed on.

        Raises:
            TunnelError: one of its kinds, with the provider's code and the agent's last log lines.
            ConfigError: a setting can't be used.
        """
        ...

    def status(self) -> TunnelStatus:
        """What is known now: never blocks, asks nobody. A dead agent shows within 2 s."""
        ...

    def probe(self, *, timeout_s: float = 10.0) -> Health | None:
        """Ask the public URL's `/healthz`, and change nothing; None where there is none to ask. Blocks `timeout_s`."""
        ...

    def check(self, *, timeout_s: float = 10.0) -> TunnelStatus:
        """Ask the public URL's `/healthz`; return, and remember, what came of it. Blocks about `timeout_s`.

        It says "up" only if the answer came from our server, and "down" with what it saw otherwise. A
        tunnel that is not running is not asked.
        """
        ...

    def stop(self) -> None:
        """Close the tunnel and end its agent, also while `start()` runs. Takes seconds; may be repeated."""
        ...
